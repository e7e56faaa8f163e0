//! Owns reading a `Range` header (RFC 9110 §14): one range of bytes, or the whole file.
//! Never answers several ranges: such a request gets the whole file, which the standard allows and which no client of
//! static sites minds, while many small overlapping ranges are a known way to make a server work.

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// First byte and number of bytes, at least one.
    Part {
        start: u64,
        bytes: u64,
    },
    /// 416: the range lies behind the end.
    Nothing,
}

pub fn read(value: &str, size: u64) -> Wanted {
    let Some(range) =
        value.trim().get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).map(|_| &value.trim()[6..])
    else {
        return Wanted::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        // "-n": the last n bytes.
        (Number::None, Number::Some(0)) => Wanted::Nothing,
        (Number::None, Number::Some(_)) if size == 0 => Wanted::Nothing,
        (Number::None, Number::Some(bytes)) => {
            let bytes = bytes.min(size);
            Wanted::Part { start: size - bytes, bytes }
        }
        (Number::Some(start), Number::None) if start < size => Wanted::Part { start, bytes: size - start },
        (Number::Some(start), Number::Some(end)) if start <= end && start < size => {
            Wanted::Part { start, bytes: end.min(size - 1) - start + 1 }
        }
        (Number::Some(start), Number::Some(end)) if start > end => Wanted::Whole,
        (Number::Some(_), Number::None | Number::Some(_)) => Wanted::Nothing,
        (Number::None, Number::None) | (Number::Bad, _) | (_, Number::Bad) => Wanted::Whole,
    }
}

enum Number {
    None,
    Some(u64),
    Bad,
}

fn number(text: &str) -> Number {
    if text.is_empty() {
        return Number::None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Number::Bad;
    }
    // More digits than fit are a position behind every end.
    Number::Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_range_or_the_whole() {
        let part = |start, bytes| Wanted::Part { start, bytes };
        for (value, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-99", part(0, 100)),
            ("bytes=10-", part(10, 90)),
            ("bytes=90-200", part(90, 10)),
            ("bytes=-10", part(90, 10)),
            ("bytes=-1000", part(0, 100)),
            ("BYTES=5-6", part(5, 2)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=100-200", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=99999999999999999999-", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=6-5", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
        ] {
            assert_eq!(read(value, 100), expected, "{value}");
        }
        assert_eq!(read("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(read("bytes=-1", 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(value in "bytes=[0-9]{0,20}-[0-9]{0,20}|\\PC{0,20}", size in 0u64..1000) {
            if let Wanted::Part { start, bytes } = read(&value, size) {
                prop_assert!(bytes > 0 && start + bytes <= size);
            }
        }
    }
}
