//! Owns what keeps tenants apart where the browser sees them on the platform's own origin (`/dispatch/…`, `?worker=`),
//! and what keeps one tenant from setting cookies for all others on `*.<base>`.
//! Never trusts the Worker to ask for it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Of answers on the platform's origin: each would act on every tenant, or on the platform itself.
const DROPPED: [HeaderName; 8] = [
    header::SET_COOKIE,
    HeaderName::from_static("clear-site-data"),
    header::STRICT_TRANSPORT_SECURITY,
    header::ALT_SVC,
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    header::WWW_AUTHENTICATE,
];
const SANDBOX: &str = "sandbox allow-scripts";
const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Whether the browser fetches a script to install it for the whole origin.
pub fn is_service_worker(headers: &HeaderMap) -> bool {
    headers.get_all(SERVICE_WORKER).iter().any(|value| value.as_bytes().trim_ascii() == b"script")
}

/// Makes an answer on the platform's origin harmless: an origin of its own, without anything that outlives it.
pub fn seal(headers: &mut HeaderMap) {
    for name in DROPPED {
        headers.remove(name);
    }
    headers.remove(SERVICE_WORKER_ALLOWED);
    let cors: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in cors {
        headers.remove(name);
    }
    // Beside the Worker's own: a browser obeys each of several.
    headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
    let same = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Whether [`seal`] was here.
pub fn is_sealed(headers: &HeaderMap) -> bool {
    headers.contains_key("cross-origin-resource-policy")
        && headers.get_all(header::CONTENT_SECURITY_POLICY).iter().any(|policy| policy == SANDBOX)
}

/// On `<worker>.<base>`: drops what would reach the other Workers beneath the base domain.
pub fn keep_to_own_host(headers: &mut HeaderMap, base: &str) {
    headers.remove(CLEAR_SITE_DATA);
    if !headers.contains_key(header::SET_COOKIE) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !covers(value.as_bytes(), base))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Whether a `Set-Cookie` has a Domain that is the base domain or above it. The last Domain counts (RFC 6265 §5.3),
/// but a cookie with any such one is dropped: clients differ.
fn covers(cookie: &[u8], base: &str) -> bool {
    cookie.split(|byte| *byte == b';').skip(1).any(|attribute| {
        let mut parts = attribute.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii();
        if !name.eq_ignore_ascii_case(b"domain") {
            return false;
        }
        let domain = parts.next().unwrap_or_default().trim_ascii();
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        // A visitor of `blog.libra.sh.` has the last dot in the domain too.
        let domain = domain.strip_suffix(b".").unwrap_or(domain).to_ascii_lowercase();
        // An empty Domain means the very host (RFC 6265 §5.2.3).
        !domain.is_empty()
            && (base.as_bytes() == domain
                || base.as_bytes().strip_suffix(&*domain).is_some_and(|front| front.ends_with(b".")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn an_answer_on_the_platforms_origin_can_touch_nobody() {
        let mut map = headers(&[
            ("set-cookie", "a=b"),
            ("clear-site-data", "\"*\""),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3=\":1\""),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("reporting-endpoints", "x=\"y\""),
            ("www-authenticate", "Basic"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("service-worker-allowed", "/"),
            ("content-security-policy", "default-src 'self'"),
            ("content-type", "text/html"),
        ]);
        seal(&mut map);
        let mut left: Vec<String> =
            map.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        insta::assert_snapshot!(left.join("\n"), @r"
        content-security-policy: default-src 'self'
        content-security-policy: sandbox allow-scripts
        content-type: text/html
        cross-origin-resource-policy: same-origin
        x-content-type-options: nosniff
        ");
    }

    #[test]
    fn a_cookie_for_the_base_domain_is_dropped_and_others_stay() {
        for (cookie, dropped) in [
            ("a=b", false),
            ("a=b; Domain=blog.libra.sh", false),
            ("a=b; Domain=", false),
            ("a=b; Domain=otherlibra.sh", false),
            ("domain=libra.sh", false),
            ("a=b; Domain=libra.sh", true),
            ("a=b;domain = .LIBRA.sh ; Path=/", true),
            ("a=b; Domain=sh", true),
            ("a=b; Domain=libra.sh.", true),
            ("a=b; Domain=libra.sh; Domain=blog.libra.sh", true),
        ] {
            let mut map = headers(&[("set-cookie", cookie), ("set-cookie", "kept=1")]);
            keep_to_own_host(&mut map, "libra.sh");
            assert_eq!(map.get_all("set-cookie").iter().count(), if dropped { 1 } else { 2 }, "{cookie}");
        }
    }
}
