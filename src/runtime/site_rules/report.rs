//! Owns what is said about lines of `_redirects` and `_headers` that are left out.
//! Never repeats the line itself: a hostile file must not choose what a log shows.

use std::fmt;

/// Problems that are kept; a file of nothing but mistakes costs no more.
const KEPT: usize = 20;

/// The problems of one site, the first of them in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
    more: usize,
}

/// One line that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: &'static str,
    /// Counted from 1.
    pub line: u32,
    pub kind: ProblemKind,
}

/// Why; each text completes "line 7 of _redirects is left out: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    #[error("it is no UTF-8 text")]
    NotUtf8,
    #[error("it has more than {limit} characters")]
    LineTooLong { limit: usize },
    #[error("it contains a control character")]
    ControlCharacter,
    #[error("the file ends for us after 262144 bytes; this line and those behind it are not read")]
    FileTooLarge,
    #[error("a rule needs a path and a target")]
    NoTarget,
    #[error("conditions on query, country, language, role or host are not supported")]
    Condition,
    #[error("the path must begin with '/' and have neither '?' nor '#'")]
    Path,
    #[error("only one '*' may stand in a path")]
    SeveralSplats,
    #[error(
        "a placeholder is a whole segment of the path: ':', a letter, then up to 31 letters, digits and '_'"
    )]
    Placeholder,
    #[error("the placeholder stands twice in the path, or is called splat beside a '*'")]
    PlaceholderTwice,
    #[error("a path may have {limit} placeholders")]
    TooManyPlaceholders { limit: usize },
    #[error("the status must be 200, 301, 302, 303, 307, 308 or 404")]
    Status,
    #[error("the target must begin with '/', https:// or http://")]
    Target,
    #[error("the target's host must be written out in ASCII, without user name and placeholders")]
    TargetHost,
    #[error("200 and 404 show files of this site; another host is never fetched")]
    Elsewhere,
    #[error("it leads to itself")]
    LeadsToItself,
    #[error("line {first} has the same path and comes first")]
    Shadowed { first: u32 },
    #[error("there are already {limit} rules without '*' and placeholders")]
    TooManyExact { limit: usize },
    #[error("there are already {limit} rules with '*' or placeholders")]
    TooManyPatterns { limit: usize },
    #[error("there are already {limit} rules")]
    TooManyRules { limit: usize },
    #[error("a header belongs to a path, which stands on a line before it")]
    NoPath,
    #[error("a path needs at least one header on the lines after it")]
    NoHeaders,
    #[error("a header is written as 'Name: value', its removal as '! Name'")]
    HeaderForm,
    #[error("a header's name has letters, digits and '-'")]
    HeaderName,
    #[error("a header's value is text in ASCII, and not empty")]
    HeaderValue,
    #[error("the header {name} belongs to the platform")]
    Owned { name: String },
    #[error("a path may have {limit} headers")]
    TooManyHeaders { limit: usize },
}

impl Report {
    pub(super) fn add(&mut self, problem: Problem) {
        if self.problems.len() < KEPT {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more there are than are kept.
    pub fn more(&self) -> usize {
        self.more
    }

    /// One line of text for each, for the build log.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0)
            .then(|| format!("{} more lines of _redirects and _headers are left out", self.more));
        self.problems.iter().map(ToString::to_string).chain(more)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {} of {} is left out: {}", self.line, self.file, self.kind)
    }
}
