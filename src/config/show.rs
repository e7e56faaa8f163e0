//! The settings in force, for people: value and origin of each key, secrets masked.

use super::Loaded;

/// One line a key, then what was accepted and has no effect.
#[must_use]
pub fn show(loaded: &Loaded) -> String {
    let mut lines: Vec<String> = loaded
        .values
        .iter()
        .map(|(key, value)| {
            let origin = loaded.origins.get(key).map_or("default", String::as_str);
            format!("{key} = {value}  # {origin}")
        })
        .collect();
    for name in &loaded.without_effect {
        lines.push(format!("# {name} is set and accepted, and has no effect in this release"));
    }
    lines.join("\n")
}
