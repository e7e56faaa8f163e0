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
    pub lines: Vec<String>,
    #[serde(default)]
    pub proof: Vec<String>,
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

/// Whether a line begins as `pattern` says: `*` stands for any text, `?` for one digit, `\*` for a star.
pub fn fits(pattern: &str, line: &str) -> bool {
    let mut rest = line.trim_start();
    let mut anchored = true;
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => pieces.push(std::mem::take(&mut piece)),
            '\\' => piece.extend(chars.next()),
            other => piece.push(other),
        }
    }
    pieces.push(piece);
    for piece in pieces {
        let found = if anchored { begins(&piece, rest).map(|len| (0, len)) } else { find(&piece, rest) };
        let Some((at, len)) = found else { return false };
        rest = &rest[at + len..];
        anchored = false;
    }
    true
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
            assert_eq!(fits(pattern, line), expected, "{pattern} on {line}");
        }
    }

    #[test]
    fn every_rule_can_fit_and_says_what_to_do() {
        let mut names = std::collections::HashSet::new();
        for rule in all() {
            assert!(names.insert(&rule.name), "{} stands twice", rule.name);
            assert!(!rule.lines.is_empty() && rule.lines.iter().all(|l| l.trim_matches('*').len() > 5));
            assert!(rule.summary.ends_with('.') && rule.hint.len() > 10, "{}", rule.name);
            assert!(!rule.platform || rule.phase == Some(Phase::Install), "{}", rule.name);
        }
    }
}
