//! Which Node a project gets: the newest of ours that fits what it says.

use nodejs_semver::{Range, Version};

use super::error::Mistake;
use super::kind::shown;
use super::pins::{NodePin, PINS};

/// A project's word about Node, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub text: String,
    pub origin: String,
    /// `engines.node` is a range that tools keep to; the others name one version for people.
    pub engines: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NodeChoice {
    pub major: u32,
    pub version: String,
    pub said: String,
}

/// Long-term lines by the names that version managers know.
const CODE_NAMES: &[(&str, &str)] = &[("iron", "20"), ("jod", "22"), ("krypton", "24")];

pub(super) fn choose(asked: Option<&Asked>) -> Result<NodeChoice, Mistake> {
    let Some(asked) = asked else {
        return chosen(newest(|_| true), "nothing asks for another")
            .ok_or_else(|| none_of("The project", ""));
    };
    let text = asked.text.trim();
    let said = format!("{} says {}", asked.origin, shown(text));
    let named = match text.strip_prefix("lts/") {
        Some("*") => "*",
        Some(name) => CODE_NAMES.iter().find(|(known, _)| *known == name).map_or("lts", |(_, major)| major),
        None if matches!(text, "node" | "stable" | "latest" | "current" | "lts" | "lts/*") => "*",
        None => text.strip_prefix('v').unwrap_or(text),
    };
    let range = Range::parse(named).ok().filter(|_| !named.is_empty());
    let Some(range) = range else {
        if asked.engines {
            // npm reads it as «any» too.
            return chosen(newest(|_| true), &format!("{said}, which is no range"))
                .ok_or_else(|| none_of(&asked.origin, text));
        }
        return Err(none_of(&asked.origin, text));
    };
    let fits = |pin: &NodePin| Version::parse(&pin.version).is_ok_and(|v| range.satisfies(&v));
    // An exact version means its line: the fixes since then belong to it.
    let line = |pin: &NodePin| Range::parse(pin.major.to_string()).is_ok_and(|line| range.allows_any(&line));
    chosen(newest(fits).or_else(|| newest(line)), &said).ok_or_else(|| none_of(&asked.origin, text))
}

fn newest(fits: impl Fn(&NodePin) -> bool) -> Option<&'static NodePin> {
    PINS.node.iter().filter(|pin| fits(pin)).max_by_key(|pin| pin.major)
}

fn chosen(pin: Option<&'static NodePin>, said: &str) -> Option<NodeChoice> {
    pin.map(|pin| NodeChoice { major: pin.major, version: pin.version.clone(), said: said.to_owned() })
}

fn none_of(origin: &str, asked: &str) -> Mistake {
    let offered: Vec<&str> = PINS.node.iter().map(|pin| pin.version.as_str()).collect();
    Mistake::NoNode { origin: origin.to_owned(), asked: shown(asked), offered: offered.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn major(text: &str, engines: bool) -> Option<u32> {
        let asked = Asked { text: text.into(), origin: "it".into(), engines };
        choose(Some(&asked)).ok().map(|choice| choice.major)
    }

    #[test]
    fn the_newest_of_ours_that_fits_is_taken() {
        for (text, expected) in [
            ("20", Some(20)),
            ("v22\n", Some(22)),
            ("20.11.0", Some(20)),
            ("v24.1.0", Some(24)),
            ("22.x", Some(22)),
            (">=18", Some(24)),
            (">=20 <23", Some(22)),
            ("^20.19.0 || >=22.12.0", Some(24)),
            ("^18 || ^20", Some(20)),
            ("18 - 22", Some(22)),
            ("<24", Some(22)),
            ("*", Some(24)),
            ("lts/*", Some(24)),
            ("lts/iron", Some(20)),
            ("lts/jod", Some(22)),
            ("node", Some(24)),
            (">=22.0.0 <22.1.0", Some(22)),
            ("18", None),
            ("v16.20.2", None),
            (">=26", None),
            ("lts/hydrogen", None),
            ("", None),
            ("system", None),
        ] {
            assert_eq!(major(text, false), expected, "{text}");
        }
    }

    #[test]
    fn without_a_word_the_newest_is_taken_and_what_is_no_range_asks_for_nothing() {
        assert_eq!(choose(None).unwrap().major, 24);
        assert_eq!(major("whatever runs", true), Some(24));
        assert_eq!(major("whatever runs", false), None);
        assert_eq!(major("<18", true), None);
        let Err(mistake) =
            choose(Some(&Asked { text: "18".into(), origin: ".nvmrc".into(), engines: false }))
        else {
            panic!("18 is not offered")
        };
        let text = mistake.to_string();
        assert!(text.contains(".nvmrc") && text.contains("18") && text.contains("22."), "{text}");
    }
}
