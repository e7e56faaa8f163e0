//! What can go wrong with blobs, and what a store's own error comes to.
//!
//! Never carries what an S3 server wrote: its answer to a bad signature repeats the request's headers,
//! a session token among them.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use crate::domain::{Digest, Fault};

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the blob store can't be opened")]
    Open(#[source] Reason),
    #[error("blobs.ca_file can't be read; correct the path, or leave it empty for the system's certificates")]
    CaFile(#[source] std::io::Error),
    #[error("the blob store is away, or did not answer in time")]
    Unavailable {
        #[source]
        source: Reason,
        /// Whether nobody has tried again yet: the library repeats only what is safe for anything.
        again: bool,
    },
    #[error(
        "the blob store refuses these credentials or their rights; check blobs.access_key_id, \
         blobs.secret_access_key, blobs.region and what the key may do in the bucket"
    )]
    Refused(#[source] Reason),
    #[error("the blob store's certificate is not trusted; set blobs.ca_file to the authority that signed it")]
    Untrusted(#[source] Reason),
    #[error("the bucket does not exist; make it, or correct blobs.url")]
    NoBucket(#[source] Reason),
    #[error("a blob could not be written")]
    Write(#[source] Reason),
    #[error("a blob could not be read")]
    Read(#[source] Reason),
    #[error("blob {digest} is missing")]
    Missing { digest: Digest },
    #[error("blob {digest} does not hold what its name says")]
    Damaged { digest: Digest },
    #[error("a local file could not be read or written")]
    Local(#[source] std::io::Error),
}

/// Why, in words that may be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

impl Reason {
    pub(super) fn new(said: impl Into<String>) -> Self {
        Self(said.into())
    }

    /// The whole chain of an error that holds nothing secret.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut said = error.to_string();
        for cause in causes(error).skip(1) {
            let line = cause.to_string();
            if !said.contains(&line) {
                said.push_str(": ");
                said.push_str(&line);
            }
        }
        Self(said)
    }
}

impl BlobError {
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(_)
            | Self::CaFile(_)
            | Self::Unavailable { .. }
            | Self::Refused(_)
            | Self::Untrusted(_)
            | Self::NoBucket(_)
            | Self::Write(_)
            | Self::Read(_)
            | Self::Local(_)
            // Read again a bounded number of times by then: the store's doing, whoever cut it off.
            | Self::Damaged { .. } => Fault::Platform,
            Self::Missing { .. } => Fault::Unknown,
        }
    }

    /// Whether waiting may mend it without anybody changing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Open(_)
            | Self::CaFile(_)
            | Self::Refused(_)
            | Self::Untrusted(_)
            | Self::NoBucket(_)
            | Self::Write(_)
            | Self::Read(_)
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::Local(_) => false,
        }
    }

    /// Whether the same blob is worth another try right now.
    pub(super) fn is_worth_another_try(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unavailable { again: true, .. })
    }
}

/// What was being done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing<'a> {
    Reading(&'a Digest),
    Writing,
}

/// A store's error as ours.
pub(super) fn of_store(doing: Doing<'_>, error: &object_store::Error) -> BlobError {
    let http = causes(error).find_map(|cause| cause.downcast_ref::<HttpError>());
    let Some(Answer { status, code }) = Answer::of(error) else {
        return match http {
            Some(http) => of_transport(error, http),
            None => of_folder(doing, error),
        };
    };
    let reason = Reason::new(if code.is_empty() {
        format!("the server answered {status}")
    } else {
        format!("the server answered {status} {code}")
    });
    match (status, code.as_str(), doing) {
        (404, "NoSuchBucket", _) | (404, "", Doing::Writing) => BlobError::NoBucket(reason),
        (404, _, Doing::Reading(digest)) => BlobError::Missing { digest: digest.clone() },
        // Wrong regions are redirected; expired tokens and keys of other regions are bad requests.
        (300..=399 | 401 | 403, ..)
        | (
            400,
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "AuthorizationHeaderMalformed",
            _,
        ) => BlobError::Refused(reason),
        (200 | 408 | 429 | 500..=599, ..) => BlobError::Unavailable { source: reason, again: false },
        (_, _, Doing::Reading(_)) => BlobError::Read(reason),
        (_, _, Doing::Writing) => BlobError::Write(reason),
    }
}

fn of_folder(doing: Doing<'_>, error: &object_store::Error) -> BlobError {
    match (doing, error) {
        (Doing::Reading(digest), object_store::Error::NotFound { .. }) => {
            BlobError::Missing { digest: digest.clone() }
        }
        (Doing::Reading(_), other) => BlobError::Read(Reason::of(other)),
        (Doing::Writing, other) => BlobError::Write(Reason::of(other)),
    }
}

fn of_transport(error: &object_store::Error, http: &HttpError) -> BlobError {
    let untrusted = causes(error).find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(why)) => Some(format!("{why:?}")),
        _ => None,
    });
    if let Some(why) = untrusted {
        return BlobError::Untrusted(Reason(why));
    }
    let kind = http.kind();
    // The innermost cause names no address and no header.
    let why = causes(error).last().map(ToString::to_string).unwrap_or_default();
    BlobError::Unavailable {
        source: Reason(format!("{kind:?}: {why}")),
        again: !matches!(kind, HttpErrorKind::Connect | HttpErrorKind::Request),
    }
}

/// Status and S3's own code, from the library's message: it hides the type that has them.
struct Answer {
    status: u16,
    code: String,
}

impl Answer {
    fn of(error: &object_store::Error) -> Option<Self> {
        let text = causes(error).last()?.to_string();
        // A redirect that does not say where to, as S3 answers for a bucket of another region.
        if text.starts_with("Received redirect without LOCATION") {
            return Some(Self { status: 301, code: String::new() });
        }
        // S3 may begin a good answer and end it with an error.
        if text.starts_with("Server returned error response") {
            return Some(Self { status: 200, code: "InternalError".into() });
        }
        let (_, after) = text.split_once("status code: ")?;
        let status = after.get(..3)?.parse().ok()?;
        let code = after.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let code = code.map_or("", |(code, _)| code);
        let plain = code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric());
        Some(Self { status, code: if plain { code.to_owned() } else { String::new() } })
    }
}

/// An error and everything beneath it, also what an `io::Error` wraps.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let beneath = |error: &&'e (dyn Error + 'static)| -> Option<&'e (dyn Error + 'static)> {
        let error: &'e (dyn Error + 'static) = *error;
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    };
    std::iter::successors(Some(error), beneath)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &str, body: &str) -> object_store::Error {
        let source = format!("Server returned non-2xx status code: {status}: {body}").into();
        object_store::Error::Generic { store: "S3", source }
    }

    fn chain(error: &BlobError) -> String {
        causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    #[test]
    fn what_a_server_wrote_is_never_repeated() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>x-amz-security-token:TOKEN\
                    </CanonicalRequest></Error>";
        let error = of_store(Doing::Writing, &answered("403 Forbidden", body));
        assert!(matches!(error, BlobError::Refused(_)), "{error:?}");
        assert!(
            chain(&error).ends_with("the server answered 403 SignatureDoesNotMatch"),
            "{}",
            chain(&error)
        );
        assert!(!format!("{error:?}").contains("TOKEN"));
        let code = "<Code>x-amz-security-token:TOKEN</Code>";
        assert!(!chain(&of_store(Doing::Writing, &answered("400 Bad Request", code))).contains("TOKEN"));
    }

    #[test]
    fn answers_are_told_apart_by_what_can_be_done() {
        let digest = Digest::of(b"x");
        let reading = |status: &str, code: &str| {
            of_store(Doing::Reading(&digest), &answered(status, &format!("<Code>{code}</Code>")))
        };
        for busy in ["503 Service Unavailable", "500 Internal Server Error", "429 Too Many Requests"] {
            let error = reading(busy, "SlowDown");
            assert!(error.may_pass() && !error.is_worth_another_try(), "{busy}");
        }
        assert!(matches!(reading("404 Not Found", "NoSuchKey"), BlobError::Missing { .. }));
        assert!(matches!(reading("404 Not Found", "NoSuchBucket"), BlobError::NoBucket(_)));
        assert!(matches!(reading("400 Bad Request", "ExpiredToken"), BlobError::Refused(_)));
        assert!(matches!(reading("400 Bad Request", "InvalidArgument"), BlobError::Read(_)));
        let upload = answered("404 Not Found", "<Code>NoSuchUpload</Code>");
        assert!(matches!(of_store(Doing::Writing, &upload), BlobError::Write(_)));
        assert_eq!(BlobError::Damaged { digest }.fault(), Fault::Platform);
    }
}
