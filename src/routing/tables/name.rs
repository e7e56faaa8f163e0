//! A host name or label as a table's key: in place where it is short, as nearly all are, so that comparing one reads
//! no further line of memory. Knows no rules of names.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// With these a host's whole entry takes 64 bytes.
const IN_PLACE: usize = 38;

pub(super) enum Name {
    Short { len: u8, bytes: [u8; IN_PLACE] },
    Long(Box<[u8]>),
}

impl Name {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        let mut bytes = [0; IN_PLACE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.as_bytes().into()),
        }
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Name {}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(self.bytes()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_long_it_is() {
        let long = "a".repeat(253);
        for length in [0, 1, IN_PLACE - 1, IN_PLACE, IN_PLACE + 1, 253] {
            let text = &long[..length];
            let name = Name::from(text);
            assert_eq!(name.bytes(), text.as_bytes());
            assert_eq!(matches!(name, Name::Short { .. }), length <= IN_PLACE);
            assert!(length == 253 || name != Name::from(&long[..=length]));
        }
        // A shorter name is not a longer one whose end is empty.
        assert_ne!(Name::from("a"), Name::from("a\0"));
        assert!(size_of::<Name>() <= 40);
    }
}
