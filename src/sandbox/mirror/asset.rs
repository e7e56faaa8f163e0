//! What may be asked of the mirror: package documents and tarballs, by names that are safe as file
//! names and as addresses. Everything else does not exist.

/// How much of a package document is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// What installing needs.
    Abbreviated,
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asset {
    Document { name: String, form: Form },
    Tarball { name: String, file: String },
}

pub(super) const ABBREVIATED: &str = "application/vnd.npm.install-v1+json";

/// npm's own bound.
const NAME_BYTES: usize = 214;
const FILE_BYTES: usize = 240;

impl Asset {
    /// Reads a request's path, still percent-encoded, and its `Accept`.
    pub(super) fn parse(path: &str, accept: &str) -> Option<Self> {
        let path = decode(path.strip_prefix('/')?)?;
        if let Some((name, file)) = path.split_once("/-/") {
            let good = is_name(name) && is_plain(file, FILE_BYTES) && file.ends_with(".tgz");
            return good.then(|| Self::Tarball { name: name.into(), file: file.into() });
        }
        let form = if accept.contains(ABBREVIATED) { Form::Abbreviated } else { Form::Full };
        is_name(&path).then_some(Self::Document { name: path, form })
    }

    /// A path beneath the mirror's folder; also the key of a fetch under way.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Document { name, form: Form::Abbreviated } => format!("documents/{name}/abbreviated.json"),
            Self::Document { name, form: Form::Full } => format!("documents/{name}/full.json"),
            Self::Tarball { name, file } => format!("tarballs/{name}/{file}"),
        }
    }
}

/// The only characters that npm encodes; anything else encoded is an attempt at something.
fn decode(path: &str) -> Option<String> {
    let path = path
        .replace("%2f", "/")
        .replace("%2F", "/")
        .replace("%40", "@")
        .replace("%2B", "+")
        .replace("%2b", "+");
    (!path.contains('%')).then_some(path)
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES
        && match name.strip_prefix('@') {
            Some(scoped) => scoped
                .split_once('/')
                .is_some_and(|(scope, name)| is_plain(scope, NAME_BYTES) && is_plain(name, NAME_BYTES)),
            None => is_plain(name, NAME_BYTES),
        }
}

/// One path segment; a leading dot would allow `..`, a leading `-` is the registry's own space.
fn is_plain(segment: &str, longest: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+');
    !segment.is_empty()
        && segment.len() <= longest
        && !segment.starts_with(['.', '-'])
        && segment.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tarballs_are_recognised_and_nothing_else() {
        let parse = |path| Asset::parse(path, ABBREVIATED);
        let document = |name: &str| Some(Asset::Document { name: name.into(), form: Form::Abbreviated });
        let tarball = |name: &str, file: &str| Some(Asset::Tarball { name: name.into(), file: file.into() });
        assert_eq!(parse("/vite"), document("vite"));
        assert_eq!(parse("/@types%2fnode"), document("@types/node"));
        assert_eq!(parse("/@types/node"), document("@types/node"));
        assert_eq!(parse("/vite/-/vite-8.0.0.tgz"), tarball("vite", "vite-8.0.0.tgz"));
        assert_eq!(parse("/@a/b/-/b-1.0.0%2Bx.tgz"), tarball("@a/b", "b-1.0.0+x.tgz"));
        for bad in [
            "",
            "/",
            "vite",
            "/..",
            "/../x",
            "/a/b",
            "/-/npm/v1/security",
            "/@a",
            "/@a/",
            "/@../b",
            "/@a/..",
            "/%2e%2e",
            "/a%00",
            "/vite/-/../../x.tgz",
            "/vite/-/.tgz",
            "/vite/-/x.zip",
            "/a\\b",
            "/a?b",
            "/@a/b/c",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
