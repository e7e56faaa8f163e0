//! What equal failures have in common: a digest without what differs from case to case. Never decides anything but
//! which letters stand together in a list.

use super::{Cause, DeadLetterClass, Digest};

/// Characters of the first line of evidence that count; tools write lines without end.
const LINE: usize = 512;
/// A run of hexadecimal digits this long is an id or a digest, not a word.
const HEX: usize = 7;

/// Equal for failures of one kind, however their paths, numbers, ids and versions differ.
#[must_use]
pub fn fingerprint(class: DeadLetterClass, cause: &Cause) -> Digest {
    let evidence = cause.evidence.as_deref().unwrap_or_default();
    let line = evidence.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line: String = line.chars().take(LINE).collect();
    let step = cause.step.map_or("", super::Step::as_str);
    let parts =
        [class.as_str(), cause.class.as_str(), step, &common(&cause.summary), &common(&line)].join("\n");
    Digest::of(parts.as_bytes())
}

/// The text without what differs from case to case.
fn common(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.contains(['/', '\\']) {
        true => "<path>".to_owned(),
        false => without_numbers(word),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn without_numbers(word: &str) -> String {
    let mut kept = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if length == 0 {
            kept.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (run, after) = rest.split_at(length);
        let has_digit = run.bytes().any(|b| b.is_ascii_digit());
        if has_digit && length >= HEX && run.bytes().all(|b| b.is_ascii_hexdigit()) {
            kept.push('#');
        } else {
            for c in run.chars() {
                match c.is_ascii_digit() {
                    true if kept.ends_with('#') => {}
                    true => kept.push('#'),
                    false => kept.push(c),
                }
            }
        }
        rest = after;
    }
    // A version is one number.
    while kept.contains("#.#") {
        kept = kept.replace("#.#", "#");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Fault, Step};

    fn of(class: DeadLetterClass, step: Step, evidence: &str) -> Digest {
        let cause = Cause::new(Fault::Platform, Some(step), "The sandbox failed after 3 s.", "h");
        fingerprint(class, &cause.with_evidence(evidence))
    }

    #[test]
    fn paths_numbers_ids_and_versions_do_not_tell_failures_apart() {
        use DeadLetterClass::Exhausted;
        let one =
            of(Exhausted, Step::Build, "\n  cannot open /srv/a/b: error 28 in vite@5.4.11 (0f8fad5bd9)\nx");
        let other = of(Exhausted, Step::Build, "cannot open /srv/c: error 5 in vite@6.0.1 (1f8fad5bd9cb46)");
        assert_eq!(one, other);
    }

    #[test]
    fn words_steps_and_classes_do() {
        use DeadLetterClass::{Crashed, Exhausted};
        let one = of(Exhausted, Step::Build, "no space left");
        assert_ne!(one, of(Exhausted, Step::Build, "no route to host"));
        assert_ne!(one, of(Exhausted, Step::Deploy, "no space left"));
        assert_ne!(one, of(Crashed, Step::Build, "no space left"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_one_and_the_same(evidence in "\\PC*") {
            let class = DeadLetterClass::Exhausted;
            assert_eq!(of(class, Step::Build, &evidence), of(class, Step::Build, &evidence));
        }
    }
}
