//! Owns how far a client's sequence of HTTP/2 frames is (RFC 9113 §4.1, §6): whether it has begun something that nobody
//! else on the connection can pass.
//! Never looks into a frame, and never refuses one but the first: the parser does.

const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What a client sends behind the preface.
#[derive(Debug, Default)]
pub struct Frames {
    /// Of the head of a frame, which has come as far as `have`.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// What is left of a frame behind its head.
    left: usize,
    /// The frame is a part of a header block.
    is_block: bool,
    /// Nothing but the next part of a header block may come.
    is_open: bool,
    has_begun: bool,
}

/// The first frame is no SETTINGS (RFC 9113 §3.4).
#[derive(Debug, PartialEq, Eq)]
pub struct NoSettings;

impl Frames {
    /// Follows what came. Whether what the client owes since began in these bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<bool, NoSettings> {
        let mut has_begun = false;
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                self.left -= here;
                bytes = &bytes[here..];
                continue;
            }
            has_begun |= self.have == 0 && !self.is_open;
            let here = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + here].copy_from_slice(&bytes[..here]);
            self.have += here;
            bytes = &bytes[here..];
            if self.have == HEAD_BYTES {
                self.have = 0;
                self.begin()?;
            }
        }
        Ok(has_begun)
    }

    fn begin(&mut self) -> Result<(), NoSettings> {
        let [a, b, c, kind, flags, ..] = self.head;
        if !std::mem::replace(&mut self.has_begun, true) && kind != SETTINGS {
            return Err(NoSettings);
        }
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.is_block = matches!(kind, HEADERS | CONTINUATION);
        self.is_open = self.is_block && flags & END_HEADERS == 0;
        Ok(())
    }

    /// Whether the next bytes are the client's to send: a head was begun, or a header block, or nothing yet.
    pub fn are_owed(&self) -> bool {
        !self.has_begun || self.have > 0 || self.is_open || (self.is_block && self.left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0xff; payload]].concat()
    }

    fn begun() -> Frames {
        let mut frames = Frames::default();
        assert!(frames.are_owed());
        frames.follow(&frame(SETTINGS, 0, 6)).unwrap();
        assert!(!frames.are_owed());
        frames
    }

    #[test]
    fn a_block_is_owed_until_its_last_part_is_whole() {
        let mut frames = begun();
        let (first, last) = (frame(HEADERS, 0, 20), frame(CONTINUATION, END_HEADERS, 300));
        for (bytes, has_begun, are_owed) in [
            (&first[..4], true, true),
            (&first[4..12], false, true),
            (&first[12..], false, true),
            (&last[..9], false, true),
            (&last[9..308], false, true),
            (&last[308..], false, false),
            (&frame(0, 0, 16_384)[..100], true, false),
        ] {
            assert_eq!(frames.follow(bytes), Ok(has_begun));
            assert_eq!(frames.are_owed(), are_owed);
        }
    }

    #[test]
    fn one_block_behind_another_has_its_own_time() {
        let mut frames = begun();
        frames.follow(&frame(HEADERS, END_HEADERS, 20)[..15]).unwrap();
        let both = [&vec![0xff; 14][..], &frame(HEADERS, 0, 20)].concat();
        assert_eq!((frames.follow(&both), frames.are_owed()), (Ok(true), true));
    }

    #[test]
    fn the_first_frame_is_settings() {
        assert_eq!(Frames::default().follow(&frame(HEADERS, END_HEADERS, 1)), Err(NoSettings));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            kinds in prop::collection::vec((0u8..10, 0u8..8, 0usize..40), 1..8),
            cuts in prop::collection::vec(0usize..400, 0..6),
        ) {
            let rest = kinds.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload));
            let bytes: Vec<u8> = rest.collect();
            let mut whole = begun();
            whole.follow(&bytes).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut parts = begun();
            for pair in cuts.windows(2) {
                parts.follow(&bytes[pair[0]..pair[1]]).unwrap();
            }
            prop_assert_eq!(whole.are_owed(), parts.are_owed());
            prop_assert_eq!((whole.left, whole.have), (parts.left, parts.have));
        }
    }
}
