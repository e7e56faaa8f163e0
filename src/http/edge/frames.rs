//! Owns following the frames of a WebSocket, from what passes in one direction.
//! Never looks at what they say.

/// Where in the frames of one direction we are (RFC 6455 §5.2): between two of them we may speak ourselves.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 14],
    held: usize,
    left: u64,
}

impl Frames {
    pub fn is_between(&self) -> bool {
        self.held == 0 && self.left == 0
    }

    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let here = self.follow_one(bytes);
            bytes = &bytes[here..];
        }
    }

    /// Follows the frame in hand, or the next one, to its end at most. How many bytes that were.
    pub fn follow_one(&mut self, bytes: &[u8]) -> usize {
        let mut here = 0;
        while self.left == 0 {
            let Some(byte) = bytes.get(here) else { return here };
            self.head[self.held] = *byte;
            self.held += 1;
            here += 1;
            if self.held < 2 {
                continue;
            }
            let extended = match self.head[1] & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
            if self.held == 2 + extended + mask {
                self.left = match extended {
                    0 => u64::from(self.head[1] & 0x7f),
                    _ => self.head[2..2 + extended].iter().fold(0, |sum, b| sum << 8 | u64::from(*b)),
                };
                self.held = 0;
                if self.left == 0 {
                    return here;
                }
            }
        }
        let of_body = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - here);
        self.left -= of_body as u64;
        here + of_body
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn frame(size: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match size {
            0..126 => frame.push(mask | size as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(size as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(size as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0xff, size + if is_masked { 4 } else { 0 }));
        frame
    }

    proptest! {
        #[test]
        fn between_two_frames_and_nowhere_else(
            sizes in prop::collection::vec((prop_oneof![0usize..130, 65_530usize..65_540], any::<bool>()), 1..4),
            cut in 0usize..200_000,
        ) {
            let whole: Vec<Vec<u8>> = sizes.iter().map(|(size, masked)| frame(*size, *masked)).collect();
            let ends: Vec<usize> = whole.iter().scan(0, |sum, f| { *sum += f.len(); Some(*sum) }).collect();
            let bytes = whole.concat();
            let cut = cut % (bytes.len() + 1);
            let mut frames = Frames::default();
            frames.follow(&bytes[..cut]);
            prop_assert_eq!(frames.is_between(), cut == 0 || ends.contains(&cut));
            frames.follow(&bytes[cut..]);
            prop_assert!(frames.is_between());
        }
    }
}
