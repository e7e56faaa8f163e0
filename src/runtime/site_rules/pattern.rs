//! Owns patterns of paths (`/blog/*`, `/users/:id`), what they capture, and texts made from captures.
//! Never goes back while matching: each piece is looked at once, so the time is that of reading the path.

use super::report::ProblemKind;
use super::text;

/// Placeholders and splat of one pattern.
pub(super) const MAX_CAPTURES: usize = 16;
/// Characters of a placeholder's name.
const MAX_NAME: usize = 32;
const SPLAT: &str = "splat";

/// A path with holes.
#[derive(Debug)]
pub(super) struct Pattern {
    pieces: Box<[Piece]>,
}

#[derive(Debug)]
enum Piece {
    Literal(Box<str>),
    /// One whole segment, never empty.
    Segment(u8),
    /// Anything, also nothing and also slashes; at most one.
    Splat(u8),
}

/// The names of a pattern's captures, in their order; needed only while rules are read.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<Box<str>>);

/// What a path has in the holes of a pattern.
#[derive(Debug, Clone, Copy)]
pub(super) struct Captures<'p>([&'p str; MAX_CAPTURES]);

/// A text with places for captures.
#[derive(Debug, Default)]
pub(super) struct Template {
    parts: Box<[Part]>,
}

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    Capture(u8),
}

impl Pattern {
    pub(super) fn parse(input: &str) -> Result<(Pattern, Names), ProblemKind> {
        if !input.starts_with('/') || input.contains(['?', '#']) {
            return Err(ProblemKind::Path);
        }
        let mut names = Names::default();
        let mut pieces = Vec::new();
        let mut literal = String::new();
        for (at, segment) in input.split('/').enumerate() {
            if at > 0 {
                literal.push('/');
            }
            if let Some(name) = segment.strip_prefix(':') {
                if name_length(name) != name.len() || name.is_empty() {
                    return Err(ProblemKind::Placeholder);
                }
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                pieces.push(Piece::Segment(names.add(name)?));
            } else if let Some((before, after)) = segment.split_once('*') {
                if after.contains('*') || pieces.iter().any(|piece| matches!(piece, Piece::Splat(_))) {
                    return Err(ProblemKind::SeveralSplats);
                }
                literal.push_str(&text::path(before));
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                pieces.push(Piece::Splat(names.add(SPLAT)?));
                literal.push_str(&text::path(after));
            } else {
                literal.push_str(&text::path(segment));
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok((Pattern { pieces: pieces.into() }, names))
    }

    /// The whole path where there is no hole in it.
    pub(super) fn exact(&self) -> Option<&str> {
        match &*self.pieces {
            [Piece::Literal(whole)] => Some(whole),
            _ => None,
        }
    }

    /// `path` in the spelling of [`text::path`].
    pub(super) fn captures<'p>(&self, path: &'p str) -> Option<Captures<'p>> {
        let mut found = Captures::none();
        let splat = self.pieces.iter().position(|piece| matches!(piece, Piece::Splat(_)));
        let (front, back) = self.pieces.split_at(splat.unwrap_or(self.pieces.len()));
        let mut rest = path;
        for piece in front {
            match piece {
                Piece::Literal(literal) => rest = rest.strip_prefix(&**literal)?,
                Piece::Segment(at) | Piece::Splat(at) => {
                    let end = rest.find('/').unwrap_or(rest.len());
                    rest = found.take(*at, rest, 0, end)?;
                }
            }
        }
        let Some((Piece::Splat(at), back)) = back.split_first() else {
            return rest.is_empty().then_some(found);
        };
        for piece in back.iter().rev() {
            match piece {
                Piece::Literal(literal) => rest = rest.strip_suffix(&**literal)?,
                Piece::Segment(at) | Piece::Splat(at) => {
                    let start = rest.rfind('/').map_or(0, |slash| slash + 1);
                    rest = found.take(*at, rest, start, rest.len())?;
                }
            }
        }
        found.0[usize::from(*at)] = rest;
        Some(found)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let literals = self.pieces.iter().map(|piece| match piece {
            Piece::Literal(literal) => literal.len(),
            Piece::Segment(_) | Piece::Splat(_) => 0,
        });
        size_of_val(&*self.pieces) + literals.sum::<usize>()
    }
}

impl Names {
    fn add(&mut self, name: &str) -> Result<u8, ProblemKind> {
        if self.0.iter().any(|known| **known == *name) {
            return Err(ProblemKind::PlaceholderTwice);
        }
        if self.0.len() == MAX_CAPTURES {
            return Err(ProblemKind::TooManyPlaceholders { limit: MAX_CAPTURES });
        }
        self.0.push(name.into());
        Ok(self.0.len() as u8 - 1)
    }

    fn position(&self, name: &str) -> Option<u8> {
        self.0.iter().position(|known| **known == *name).and_then(|at| u8::try_from(at).ok())
    }
}

impl<'p> Captures<'p> {
    /// Those of a path without holes.
    pub(super) fn none() -> Captures<'p> {
        Captures([""; MAX_CAPTURES])
    }

    /// Takes `rest[start..end]`, which lies at an end of `rest`, and gives what remains; `None` if it is empty.
    fn take(&mut self, at: u8, rest: &'p str, start: usize, end: usize) -> Option<&'p str> {
        if start == end {
            return None;
        }
        self.0[usize::from(at)] = &rest[start..end];
        Some(if start == 0 { &rest[end..] } else { &rest[..start] })
    }
}

impl Template {
    /// Reads a text in which `:name` stands for a capture; a name that is none stays as it is written.
    pub(super) fn parse(input: &str, names: &Names, spell: impl Fn(&str) -> String) -> Template {
        let mut parts = Vec::new();
        let mut plain = 0;
        let mut at = 0;
        while let Some(colon) = input[at..].find(':').map(|found| at + found) {
            let length = name_length(&input[colon + 1..]);
            let end = colon + 1 + length;
            if let Some(capture) = names.position(&input[colon + 1..end]) {
                if plain < colon {
                    parts.push(Part::Text(spell(&input[plain..colon]).into()));
                }
                parts.push(Part::Capture(capture));
                plain = end;
            }
            at = end;
        }
        if plain < input.len() {
            parts.push(Part::Text(spell(&input[plain..]).into()));
        }
        Template { parts: parts.into() }
    }

    /// Puts a text in front.
    pub(super) fn prepend(&mut self, text: String) {
        let parts = std::mem::take(&mut self.parts);
        self.parts = std::iter::once(Part::Text(text.into())).chain(parts).collect();
    }

    /// The text where nothing is captured.
    pub(super) fn fixed(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// `None` where it would be longer than `limit` bytes.
    pub(super) fn fill(&self, captures: &Captures<'_>, limit: usize) -> Option<String> {
        let texts = || {
            self.parts.iter().map(|part| match part {
                Part::Text(text) => &**text,
                Part::Capture(at) => captures.0[usize::from(*at)],
            })
        };
        let length: usize = texts().map(str::len).sum();
        (length <= limit).then(|| texts().collect())
    }

    /// Whether this text could have been made with some captures.
    pub(super) fn could_make(&self, text: &str) -> bool {
        let mut rest = text;
        let mut is_open = false;
        let last = self.parts.len().saturating_sub(1);
        for (at, part) in self.parts.iter().enumerate() {
            let Part::Text(literal) = part else {
                is_open = true;
                continue;
            };
            let found = match (is_open, at == last) {
                (false, _) => rest.starts_with(&**literal).then_some(0),
                (true, true) => rest.ends_with(&**literal).then(|| rest.len() - literal.len()),
                (true, false) => rest.find(&**literal),
            };
            let Some(found) = found else { return false };
            rest = &rest[found + literal.len()..];
            is_open = false;
        }
        is_open || rest.is_empty()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.len(),
            Part::Capture(_) => 0,
        });
        size_of_val(&*self.parts) + texts.sum::<usize>()
    }
}

/// How many bytes of the beginning are a name: a letter, then letters, digits and `_`.
fn name_length(text: &str) -> usize {
    let is_name = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || at > 0 && (byte.is_ascii_digit() || byte == b'_')
    };
    text.bytes().enumerate().take(MAX_NAME).take_while(|byte| is_name(*byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(pattern: &str, path: &str, template: &str) -> Option<String> {
        let (pattern, names) = Pattern::parse(pattern).unwrap();
        let template = Template::parse(template, &names, |text| text.to_owned());
        template.fill(&pattern.captures(path)?, 100)
    }

    #[test]
    fn holes_take_segments_and_the_splat_takes_the_rest() {
        for (pattern, path, template, expected) in [
            ("/blog/*", "/blog/2026/x", "/:splat", Some("/2026/x")),
            ("/blog/*", "/blog/", "/:splat", Some("/")),
            ("/blog/*", "/blog", "", None),
            ("/blog*", "/blogs/x", ":splat", Some("s/x")),
            ("/*.js", "/a/b.js", ":splat", Some("a/b")),
            ("/*.js", "/.js", ":splat", Some("")),
            ("/*.js", "/a.css", "", None),
            ("/*/x/:id", "/a/b/x/7", ":splat :id", Some("a/b 7")),
            ("/*/x/:id", "/x/7", "", None),
            ("/:y/:m/*", "/2026/11/a/b", "/:m-:y/:splat.html", Some("/11-2026/a/b.html")),
            ("/u/:id", "/u/", "", None),
            ("/u/:id", "/u/7/8", "", None),
            ("/u/:id/", "/u/7/", ":id:id", Some("77")),
            ("/u/:id", "/u/7", ":idx :other :", Some(":idx :other :")),
            ("/aba*aba", "/aba", "", None),
            ("/%61%2f:x/*", "/a%2F:x/z", ":splat", Some("z")),
        ] {
            assert_eq!(filled(pattern, path, template).as_deref(), expected, "{pattern} {path}");
        }
        assert_eq!(Pattern::parse("/a/%62").unwrap().0.exact(), Some("/a/b"));
    }

    #[test]
    fn patterns_that_would_be_guessed_at_are_refused() {
        for (bad, expected) in [
            ("a", ProblemKind::Path),
            ("https://x/", ProblemKind::Path),
            ("/a?b", ProblemKind::Path),
            ("/*/*", ProblemKind::SeveralSplats),
            ("/**", ProblemKind::SeveralSplats),
            ("/:a*", ProblemKind::Placeholder),
            ("/:", ProblemKind::Placeholder),
            ("/:1", ProblemKind::Placeholder),
            ("/:a-:b", ProblemKind::Placeholder),
            ("/:a/:a", ProblemKind::PlaceholderTwice),
            ("/:splat/*", ProblemKind::PlaceholderTwice),
        ] {
            assert_eq!(Pattern::parse(bad).unwrap_err(), expected, "{bad}");
        }
        let many: String = (0..17).map(|at| format!("/:a{at}")).collect();
        assert_eq!(Pattern::parse(&many).unwrap_err(), ProblemKind::TooManyPlaceholders { limit: 16 });
    }

    #[test]
    fn a_text_is_recognised_as_made_by_a_template() {
        let (_, names) = Pattern::parse("/:a/*").unwrap();
        let made = |template: &str, text: &str| {
            Template::parse(template, &names, |text| text.to_owned()).could_make(text)
        };
        assert!(made("/en/:splat", "/en/x") && made("/en/:splat", "/en/"));
        assert!(!made("/en/:splat", "/e"));
        assert!(made("/:a/x/:splat.html", "/1/x/2/x/3.html") && !made("/:a/x/:splat.html", "/1/x/2"));
        assert!(made("/m", "/m") && !made("/m", "/mm"));
        assert!(made(":a:splat", "anything"));
    }

    proptest! {
        /// The reference goes through all ways to cut the path.
        #[test]
        fn a_splat_matches_what_a_slow_reference_matches(front in "/[ab]{0,3}", back in "[ab/]{0,3}", path in "/[ab/]{0,8}") {
            let (pattern, _) = Pattern::parse(&format!("{front}*{back}")).unwrap();
            let slow = (0..=path.len()).any(|from| (from..=path.len()).any(|to| path[..from] == front && path[to..] == back));
            prop_assert_eq!(pattern.captures(&path).is_some(), slow);
        }

        #[test]
        fn what_a_template_makes_it_could_have_made(a in "[a-c]{1,4}", rest in "[a-c/]{0,6}", template in "(/|[ab]|:a|:splat){0,6}") {
            let (pattern, names) = Pattern::parse("/:a/*").unwrap();
            let path = format!("/{a}/{rest}");
            let template = Template::parse(&template, &names, |text| text.to_owned());
            let made = template.fill(&pattern.captures(&path).unwrap(), 1_000).unwrap();
            prop_assert!(template.could_make(&made));
        }
    }
}
