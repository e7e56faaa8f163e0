//! The parts that production uses, started by the tests themselves.

mod keep;
pub mod nats;
pub mod s3;

/// Settings as the server takes them.
pub fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

/// Several lists of settings as one; later ones win.
pub fn all<'a>(lists: &[&[(&'a str, &'a str)]]) -> Vec<(&'a str, &'a str)> {
    lists.concat()
}
