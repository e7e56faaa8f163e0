//! Why an issuer gave no certificate, in words that may be shown: cleaned and bounded.

use instant_acme::{Error, Problem};

/// Longest words that are kept, in characters.
const WORDS: usize = 600;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The issuer can't be reached or speaks no ACME.
    Unreachable,
    /// The issuer looked and did not find what it should.
    Validation,
    /// The issuer does not issue for this name or account.
    Refused,
    /// The issuer's own limit was hit.
    Limited,
    /// The issuer does not know our account.
    AccountUnknown,
    /// We could not do our part.
    Ours,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Safe to show to the domain's owner.
    pub words: String,
}

impl Failure {
    pub fn new(kind: FailureKind, words: impl AsRef<str>) -> Self {
        Self { kind, words: cleaned(words.as_ref()) }
    }

    /// What the library's error means; the chain of causes goes to the log alone.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Api(problem) => Self::of_problem(problem, FailureKind::Refused),
            Error::Timeout(_) => {
                Self::new(FailureKind::Unreachable, "The issuer did not come to an end in time.")
            }
            Error::Other(cause) => Self::new(FailureKind::Unreachable, unreachable(cause.as_ref())),
            Error::Http(_) | Error::Hyper(_) | Error::InvalidUri(_) => {
                Self::new(FailureKind::Unreachable, "The issuer can't be reached.")
            }
            Error::Json(_) | Error::Unsupported(_) | Error::Str(_) => {
                Self::new(FailureKind::Unreachable, "The issuer gave an answer that can't be understood.")
            }
            _ => Self::new(FailureKind::Ours, "The order could not be signed."),
        }
    }

    /// The issuer's own words.
    pub(super) fn of_problem(problem: &Problem, otherwise: FailureKind) -> Self {
        let name = problem.r#type.as_deref().unwrap_or_default();
        let name = name.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(name);
        let kind = match name {
            "rateLimited" => FailureKind::Limited,
            "accountDoesNotExist" => FailureKind::AccountUnknown,
            "serverInternal" => FailureKind::Unreachable,
            "connection" | "dns" | "unauthorized" | "incorrectResponse" | "tls" => FailureKind::Validation,
            _ => otherwise,
        };
        let mut words = problem.detail.clone().unwrap_or_default();
        for part in &problem.subproblems {
            if let Some(detail) = &part.detail {
                words.push_str("; ");
                words.push_str(detail);
            }
        }
        if words.is_empty() {
            words = "The issuer gave no reason.".to_owned();
        }
        if !name.is_empty() {
            words = format!("{name}: {words}");
        }
        Self::new(kind, words)
    }
}

fn unreachable(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    match cause.downcast_ref::<reqwest::Error>() {
        Some(e) if e.is_timeout() => "The issuer did not answer in time.",
        Some(e) if e.is_connect() => "The issuer can't be reached.",
        _ => "The exchange with the issuer failed.",
    }
}

/// One line without control characters and without what would turn the direction of writing.
fn cleaned(words: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let plain: String = words.chars().map(|c| if hidden(c) { ' ' } else { c }).take(4 * WORDS).collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= WORDS {
        return line;
    }
    line.chars().take(WORDS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        let text =
            serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_issuers_words_are_one_bounded_line() {
        let told = Failure::of_problem(
            &problem("dns", "NXDOMAIN\r\n\u{1b}[31mlooking\u{202e} up\tA"),
            FailureKind::Refused,
        );
        assert_eq!(told.words, "dns: NXDOMAIN [31mlooking up A");
        let long = Failure::new(FailureKind::Ours, "é".repeat(100_000));
        assert_eq!(long.words.chars().count(), WORDS);
        assert!(long.words.ends_with('…'));
    }

    #[test]
    fn kinds_are_told_apart_by_the_problems_type() {
        for (name, kind) in [
            ("rateLimited", FailureKind::Limited),
            ("accountDoesNotExist", FailureKind::AccountUnknown),
            ("connection", FailureKind::Validation),
            ("caa", FailureKind::Refused),
            ("rejectedIdentifier", FailureKind::Refused),
            ("serverInternal", FailureKind::Unreachable),
        ] {
            assert_eq!(Failure::of_problem(&problem(name, "x"), FailureKind::Refused).kind, kind, "{name}");
        }
    }

    #[test]
    fn nothing_of_our_own_network_is_told() {
        let told = Failure::of(&Error::Other("connect to 10.0.0.7:14000: refused".into()));
        assert_eq!(
            (told.kind, told.words.as_str()),
            (FailureKind::Unreachable, "The exchange with the issuer failed.")
        );
    }
}
