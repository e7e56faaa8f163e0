//! Owns a part of a version's file on its way to a client: what is in the system's memory already is sent from there by
//! the system itself, and never passes through ours.
//! Never waits for a disk: what is not in memory has to be read by somebody who may wait.

use std::fs::File as DiskFile;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::ReadWriteFlags;

use super::site::Extent;

/// A part of an open file. The open file keeps the bytes of a version that is removed while it is being sent.
#[derive(Debug, Clone)]
pub struct FilePart {
    pack: Arc<DiskFile>,
    left: Extent,
}

impl FilePart {
    pub fn new(pack: Arc<DiskFile>, extent: Extent) -> FilePart {
        FilePart { pack, left: extent }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.left.size
    }

    /// Takes the front of it.
    pub fn take(&mut self, bytes: u64) -> FilePart {
        let bytes = bytes.min(self.left.size);
        let front = Extent { offset: self.left.offset, size: bytes };
        self.advance(bytes);
        FilePart { pack: Arc::clone(&self.pack), left: front }
    }

    fn advance(&mut self, bytes: u64) {
        self.left = Extent { offset: self.left.offset + bytes, size: self.left.size - bytes };
    }

    /// Whether both ends are in memory, and with them surely most of what is between: the system reads ahead. Where
    /// it can't tell, they are not.
    pub fn is_in_memory(&self) -> bool {
        let last = self.left.offset + self.left.size.saturating_sub(1);
        [self.left.offset, last].into_iter().all(|offset| {
            let mut byte = [0];
            let mut space = [IoSliceMut::new(&mut byte)];
            rustix::io::preadv2(&self.pack, &mut space, offset, ReadWriteFlags::NOWAIT) == Ok(1)
        })
    }

    /// Lets the system send at most so many bytes of it; they are gone from the front then.
    pub fn send(&mut self, to: impl AsFd, at_most: usize) -> io::Result<usize> {
        let count = usize::try_from(self.left.size).unwrap_or(usize::MAX).min(at_most);
        let mut offset = self.left.offset;
        match rustix::fs::sendfile(to, &self.pack, Some(&mut offset), count)? {
            // Shorter than its manifest says: nothing else may stand in for what is missing.
            0 if count > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            sent => {
                self.advance(sent as u64);
                Ok(sent)
            }
        }
    }

    /// Reads all of it. Blocking.
    pub fn read(&self) -> io::Result<bytes::Bytes> {
        super::cache::read_part(&self.pack, self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn part(size: u64) -> FilePart {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        FilePart::new(Arc::new(file), Extent { offset: 2, size })
    }

    #[test]
    fn exactly_the_part_is_sent() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut whole = part(5);
        assert!(whole.is_in_memory(), "it was just written");
        let mut front = whole.take(3);
        assert_eq!(front.send(&there, 2).unwrap(), 2);
        assert_eq!(front.send(&there, 100).unwrap(), 1);
        assert_eq!((front.size(), whole.send(&there, 100).unwrap(), whole.size()), (0, 2, 0));
        drop(there);
        let mut got = String::new();
        here.read_to_string(&mut got).unwrap();
        assert_eq!(got, "23456");
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let (_here, there) = UnixStream::pair().unwrap();
        let mut long = part(100);
        assert_eq!(long.send(&there, 1000).unwrap(), 8);
        assert_eq!(long.send(&there, 1000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(!long.is_in_memory());
    }
}
