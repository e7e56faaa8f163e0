//! Lockfiles that name the tarballs of their author's registry by whole address: inside a sandbox only
//! the mirror can be reached, so the addresses are led there. What a tarball must hash to stays as it is.

use std::borrow::Cow;

/// The lockfile with every registry tarball's address beneath `registry` (with a slash at its end).
pub fn mirrored<'t>(text: &'t str, registry: &str) -> Cow<'t, str> {
    let mut rewritten = String::new();
    let mut copied = 0;
    for (start, _) in text.match_indices("http") {
        let Some(rest) = text.get(start..).filter(|_| start >= copied) else { continue };
        let end = rest.find(|c: char| c.is_whitespace() || "\"'#,{}()".contains(c)).unwrap_or(rest.len());
        let Some(path) = rest.get(..end).and_then(tarball) else { continue };
        rewritten.push_str(text.get(copied..start).unwrap_or_default());
        rewritten.push_str(registry);
        rewritten.push_str(&path);
        copied = start + end;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    rewritten.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(rewritten)
}

/// `<name>/-/<file>` of an address that has a registry's form.
fn tarball(url: &str) -> Option<String> {
    let path = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let (before, file) = path.split_once("/-/")?;
    let (_host, folders) = before.split_once('/')?;
    let folders = folders.replace("%2f", "/").replace("%2F", "/").replace("%40", "@");
    let mut last = folders.rsplit('/');
    let name = last.next()?;
    let scope = last.next().filter(|scope| scope.starts_with('@'));
    let fits = file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
        && file.ends_with(".tgz")
        && !file.contains('/');
    let scope = scope.map(|scope| format!("{scope}/")).unwrap_or_default();
    fits.then(|| format!("{scope}{name}/-/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "http://127.0.0.1:4873/";

    #[test]
    fn addresses_of_registries_lead_to_the_mirror_and_digests_stay() {
        let lock = "a@^1:\n  resolved \"https://registry.test/a/-/a-1.0.0.tgz#0123abc\"\n  integrity sha512-x\n\
            \"@s/b@1\":\n  resolved \"http://h.test:8080/npm/@s%2fb/-/b-2.0.0-rc.1.tgz\"\n\
            c:\n  {tarball: https://h.test/x/@s/c/-/c-1.0.0.tgz}\n";
        let expected = "a@^1:\n  resolved \"http://127.0.0.1:4873/a/-/a-1.0.0.tgz#0123abc\"\n  integrity sha512-x\n\
            \"@s/b@1\":\n  resolved \"http://127.0.0.1:4873/@s/b/-/b-2.0.0-rc.1.tgz\"\n\
            c:\n  {tarball: http://127.0.0.1:4873/@s/c/-/c-1.0.0.tgz}\n";
        assert_eq!(mirrored(lock, HERE), expected);
    }

    #[test]
    fn other_addresses_stay_as_they_are() {
        for other in [
            "resolved \"https://codeload.github.com/a/b/tar.gz/0123\"",
            "https://gitlab.test/g/p/-/archive/v1/p-v1.tar.gz",
            "https://h.test/a/-/b-1.0.0.tgz",
            "https://h.test/-/a-1.0.0.tgz",
            "https://h.test/a/-/a-1.0.0.zip",
            "httpx://a/-/a-1.tgz http",
            "",
        ] {
            assert!(matches!(mirrored(other, HERE), Cow::Borrowed(same) if same == other), "{other}");
        }
    }
}
