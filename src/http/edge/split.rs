//! Owns which of two versions a client gets while both are live, and that it stays with it.
//! Never lets a client choose a version that is not one of the two.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};

use super::describe;
use super::dispatch::Strategy;
use crate::routing::Split;
use crate::runtime::{File, SiteVersion};

/// Holds the id of the version that the client got. A session's cookie, of this host alone.
const COOKIE: &str = "__libra_version";

/// How clients stay with the version that they got.
#[derive(Debug, PartialEq)]
pub enum Stays {
    /// There is one version for everybody.
    Whole,
    /// The client's cookie says which.
    ByCookie,
    /// The client had none that counts.
    ByNewCookie(HeaderValue),
    /// On the platform's origin there are no cookies; each request is for itself.
    Not,
}

/// The version, and how the client stays with it.
pub fn choose(split: &Split, headers: &HeaderMap, strategy: Strategy) -> (Arc<SiteVersion>, Stays) {
    let kept = if strategy.is_on_platform_origin() { None } else { kept(headers) };
    let known = [&split.other, &split.live].into_iter().find(|version| kept == Some(version.id()));
    if let Some(version) = known {
        return (Arc::clone(version), Stays::ByCookie);
    }
    let version = if drawn() < split.percent { &split.other } else { &split.live };
    if strategy.is_on_platform_origin() {
        return (Arc::clone(version), Stays::Not);
    }
    let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", version.id());
    let stays = HeaderValue::from_str(&cookie).map_or(Stays::Not, Stays::ByNewCookie);
    (Arc::clone(version), stays)
}

impl Stays {
    /// Says on a version's answer that others may get another one, so that no cache between gives it to them. What is
    /// named by its content is the same for all: it stays public, and needs no cookie.
    pub fn mark(self, headers: &mut HeaderMap, file: Option<File<'_>>) {
        if self == Stays::Whole || file.is_some_and(describe::is_immutable) {
            return;
        }
        keep_to_client(headers);
        if self != Stays::Not {
            headers.append(header::VARY, HeaderValue::from_static("cookie"));
        }
        if let Stays::ByNewCookie(cookie) = self {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

/// Only the browser may keep it, for as long as was said.
fn keep_to_client(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let said = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|directive| {
        let name = directive.split('=').next().unwrap_or_default();
        !["", "public", "private", "s-maxage"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
    });
    let kept: Vec<&str> = std::iter::once("private").chain(said).collect();
    let value = HeaderValue::from_str(&kept.join(", ")).unwrap_or(HeaderValue::from_static("private"));
    headers.insert(header::CACHE_CONTROL, value);
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
        let (version, stays) = choose(split, &headers, strategy);
        let set = match stays {
            Stays::ByNewCookie(cookie) => Some(cookie.to_str().unwrap().to_owned()),
            _ => None,
        };
        (version.id().to_owned(), set)
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
    fn what_a_site_says_of_caches_is_kept_to_the_browser() {
        for (said, kept) in [
            (&[][..], "private"),
            (&["public, max-age=0, must-revalidate"], "private, max-age=0, must-revalidate"),
            (&["Public, s-maxage=60", "max-age=5"], "private, max-age=5"),
            (&["no-store"], "private, no-store"),
        ] {
            let mut headers = HeaderMap::new();
            for line in said {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(line));
            }
            keep_to_client(&mut headers);
            assert_eq!(headers.get_all(header::CACHE_CONTROL).iter().collect::<Vec<_>>(), [kept], "{said:?}");
        }
    }

    #[test]
    fn the_percentage_is_that_of_new_clients() {
        let split = split(20);
        let asked = (0..10_000).filter(|_| asked(&split, None, Strategy::Subdomain).0 == "new").count();
        assert!((1_700..2_300).contains(&asked), "{asked} of 10,000");
    }
}
