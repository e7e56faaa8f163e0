//! Owns why the edge does not pass a request to a Worker.
//! Never names a status code or writes an answer: `http/problem.rs` is the one place that does.

/// Each text may be shown to anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeRefusal {
    #[error("the Host of the request is missing, doubled or no host name")]
    InvalidHost,
    /// `message` is the guide's sentence for the rule that was broken.
    #[error("{message}")]
    InvalidWorkerName { message: String },
    #[error("{message}")]
    ReservedSubdomain { message: String },
    #[error("no Worker has this name, or it has no live version yet")]
    WorkerNotFound,
    #[error("this preview is gone or never was")]
    DeploymentNotFound,
    #[error("this domain is not configured, or not verified yet")]
    CustomDomainNotFound,
    #[error("this domain's project is not active or has nothing deployed yet")]
    CustomDomainInvalid,
    /// No table was loaded since the start and what it is made from can't be reached.
    #[error("the routes are not loaded yet")]
    TableNotLoaded,
    /// Workers are served by the last table; the control surface waits for its database.
    #[error("the control surface is not there yet")]
    ControlAway,
    #[error("the site has no such file")]
    FileNotFound,
    #[error("a static site answers GET and HEAD only")]
    MethodNotAllowed,
    /// The request could be read in two ways, or in none.
    #[error("{0}")]
    Malformed(BadRequest),
    /// Dispatch by query without a name, and with two.
    #[error("the query names no Worker")]
    WorkerNotNamed,
    #[error("the query names two Workers")]
    WorkerNamedTwice,
    #[error("a service worker can't be installed on the platform's own origin")]
    ServiceWorkerRefused,
    /// The client asked for what this server does for nobody, such as being a proxy to elsewhere.
    #[error("this method is not allowed here")]
    MethodRefused,
    #[error("the body is larger than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: u64 },
    #[error("too many requests; try again in {after_seconds} s")]
    RateLimited { after_seconds: u64 },
    #[error("too many requests wait for the disk")]
    Overloaded,
    #[error("the server has as many requests in hand as it takes")]
    Saturated,
    /// None of the Worker's origins could be reached, or what it answered is no HTTP.
    #[error("the Worker could not be reached")]
    WorkerUnreachable,
    #[error("the Worker did not answer in time")]
    WorkerTimeout,
    #[error("the Worker's origins have as many requests in hand as they may")]
    WorkerBusy,
    #[error("the Worker's origin leads back to this server")]
    Loop,
    /// The client did not send its whole request in time, or left.
    #[error("the request did not come whole")]
    ClientSilent,
    /// The edge itself failed; the log has the reason.
    #[error("the request could not be dispatched")]
    DispatchFailed,
    /// The version's bytes could not be read; the log has the reason.
    #[error("the file could not be read")]
    ReadFailed,
}

/// What is wrong with the bytes of a request. Each is refused, and the connection closed: the server behind might read
/// them in another way than we do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("a line of the head does not end in CR LF")]
    LineEnd,
    #[error("a header line is continued on the next one, which is obsolete")]
    Folding,
    #[error("a header is no name, colon and value")]
    Field,
    #[error("the request line is not method, target and HTTP/1.1, one space between")]
    RequestLine,
    #[error("the request target holds what must be percent-encoded, or a fragment")]
    Target,
    #[error("Content-Length is no number, stands there twice, or beside Transfer-Encoding")]
    Length,
    #[error("Transfer-Encoding is not exactly 'chunked'")]
    TransferEncoding,
    #[error("the header block is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
}
