//! The table of diagnosis rules, read once, and how a line fits a pattern.

use std::sync::LazyLock;

use serde::Deserialize;

const TABLE: &str = include_str!("rules.toml");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Install,
    Build,
}

/// One rule; `rules.toml` says what each column means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: String,
    pub phase: Option<Phase>,
    pub lines: Vec<Pattern>,
    #[serde(default)]
    pub proof: Vec<Pattern>,
    #[serde(default)]
    pub platform: bool,
    pub summary: String,
    pub hint: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rule: Vec<Rule>,
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let table: Table = toml::from_str(TABLE).expect("the table is a constant of the program and tested");
    table.rule
});

pub fn all() -> &'static [Rule] {
    &RULES
}

pub fn named(name: &str) -> Option<&'static Rule> {
    all().iter().find(|rule| rule.name == name)
}

/// How a line begins: `*` stands for any text, `?` for one digit, `\*` for a star. Split once, as a
/// hostile log is held against every pattern.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Pattern(Vec<String>);

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        let mut pieces = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let piece = match c {
                '*' => {
                    pieces.push(String::new());
                    continue;
                }
                '\\' => chars.next(),
                other => Some(other),
            };
            if let Some(last) = pieces.last_mut() {
                last.extend(piece);
            }
        }
        Self(pieces)
    }
}

impl Pattern {
    pub fn fits(&self, line: &str) -> bool {
        let mut rest = line.trim_start();
        let mut anchored = true;
        for piece in &self.0 {
            let found = if anchored { begins(piece, rest).map(|len| (0, len)) } else { find(piece, rest) };
            let Some((at, len)) = found else { return false };
            rest = &rest[at + len..];
            anchored = false;
        }
        true
    }
}

fn find(piece: &str, text: &str) -> Option<(usize, usize)> {
    if !piece.contains('?') {
        return text.find(piece).map(|at| (at, piece.len()));
    }
    text.char_indices().find_map(|(at, _)| begins(piece, &text[at..]).map(|len| (at, len)))
}

fn begins(piece: &str, text: &str) -> Option<usize> {
    let fits = text.len() >= piece.len()
        && piece.bytes().zip(text.bytes()).all(|(p, t)| p == t || (p == b'?' && t.is_ascii_digit()));
    fits.then_some(piece.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_lines_from_their_beginning() {
        for (pattern, line, expected) in [
            ("npm * code E404", "npm error code E404", true),
            ("npm * code E404", "npm ERR! code E404", true),
            ("npm * code E404", "  npm error code E404 and more", true),
            ("npm * code E404", "say npm error code E404", false),
            ("*: error TS", "src/a.ts(1,2): error TS2322: x", true),
            ("a*b*a", "ab", false),
            ("a*b*a", "a-b-a", true),
            ("npm * 5?? *", "npm error 503 Service", true),
            ("npm * 5?? *", "npm error 5xx Service", false),
            ("\\* x", "* x", true),
            ("ü*ß", "über Spaß", true),
            ("", "anything", true),
        ] {
            assert_eq!(Pattern::from(pattern.to_owned()).fits(line), expected, "{pattern} on {line}");
        }
    }

    #[test]
    fn every_rule_can_fit_and_says_what_to_do() {
        let mut names = std::collections::HashSet::new();
        for rule in all() {
            assert!(names.insert(&rule.name), "{} stands twice", rule.name);
            let proves = |p: &Pattern| p.0.iter().map(String::len).sum::<usize>() > 5;
            assert!(!rule.lines.is_empty() && rule.lines.iter().all(proves), "{}", rule.name);
            assert!(rule.summary.ends_with('.') && rule.hint.len() > 10, "{}", rule.name);
            assert!(!rule.platform || rule.phase == Some(Phase::Install), "{}", rule.name);
        }
    }
}
