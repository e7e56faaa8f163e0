//! Owns which of two versions a client gets while both are live, and that it stays with it.
//! Never lets a client choose a version that is not one of the two.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};

use super::dispatch::Strategy;
use crate::routing::Split;
use crate::runtime::SiteVersion;

/// Holds the id of the version that the client got. A session's cookie, of this host alone.
const COOKIE: &str = "__libra_version";

/// The version, and the cookie to set where the client has none that counts.
pub fn choose(
    split: &Split,
    headers: &HeaderMap,
    strategy: Strategy,
) -> (Arc<SiteVersion>, Option<HeaderValue>) {
    // On the platform's origin there are no cookies; each request is for itself.
    let kept = if strategy.is_on_platform_origin() { None } else { kept(headers) };
    if let Some(id) = kept {
        if id == split.other.id() {
            return (Arc::clone(&split.other), None);
        }
        if id == split.live.id() {
            return (Arc::clone(&split.live), None);
        }
    }
    let version = if drawn() < split.percent { &split.other } else { &split.live };
    let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", version.id());
    let cookie = HeaderValue::from_str(&cookie).ok().filter(|_| !strategy.is_on_platform_origin());
    (Arc::clone(version), cookie)
}

fn kept(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// 0 to 99, each as likely as any other.
fn drawn() -> u8 {
    let [first, second, ..] = super::request_id::random_bytes();
    // 65,536 is no multiple of 100; what that favours is less than a thousandth.
    (u16::from_le_bytes([first, second]) % 100) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Manifest;

    fn version(id: &str) -> Arc<SiteVersion> {
        let manifest = Manifest { version: 1, files: vec![], pack_digest: "00".repeat(32), pack_size: 0 };
        Arc::new(SiteVersion::new(id, "blog".into(), "/nowhere".into(), 0, &manifest).unwrap())
    }

    fn split(percent: u8) -> Split {
        Split { live: version("old"), other: version("new"), percent }
    }

    fn asked(split: &Split, cookie: Option<&str>, strategy: Strategy) -> (String, Option<String>) {
        let mut headers = HeaderMap::new();
        if let Some(cookie) = cookie {
            headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        let (version, set) = choose(split, &headers, strategy);
        (version.id().to_owned(), set.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_client_stays_with_its_version_and_can_name_no_other() {
        let split = split(50);
        for id in ["old", "new"] {
            let cookie = format!("a=b; __libra_version={id}");
            assert_eq!(asked(&split, Some(&cookie), Strategy::Subdomain), (id.to_owned(), None));
        }
        let (got, set) = asked(&split, Some("__libra_version=third"), Strategy::Subdomain);
        assert_eq!(set, Some(format!("__libra_version={got}; Path=/; HttpOnly; SameSite=Lax")));
        assert_eq!(asked(&split, Some("__libra_version=new"), Strategy::Path).1, None);
    }

    #[test]
    fn the_percentage_is_that_of_new_clients() {
        let split = split(20);
        let asked = (0..10_000).filter(|_| asked(&split, None, Strategy::Subdomain).0 == "new").count();
        assert!((1_700..2_300).contains(&asked), "{asked} of 10,000");
    }
}
