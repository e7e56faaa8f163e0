//! Who talks to which server: the session of a client command, and its calls to the public API.
//! Knows HTTP and the error document; never prints, never reads the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::error::CliError;
use super::wire::{BootstrapFile, ErrorDocument, ServerFile};

/// A server that has not accepted a connection by then is not there.
const CONNECT_SECONDS: u64 = 5;
/// For one whole answer; enough for 10 MiB on a slow line. Streams have no such limit.
const ANSWER_SECONDS: u64 = 120;
/// A path segment or query value: everything but what RFC 3986 calls unreserved is escaped.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where to go and as whom, the same for every client command.
#[derive(Debug, Clone, clap::Args)]
pub struct SessionArgs {
    /// Address of the server [env: LIBRA_URL] [default: the server that runs on the data folder]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// Credential; LIBRA_TOKEN keeps it out of the process list [default: the development bootstrap's]
    #[arg(long, global = true, value_name = "TOKEN", hide_default_value = true)]
    pub token: Option<String>,
    /// Organization that the credential belongs to [env: LIBRA_ORG] [default: the development bootstrap's]
    #[arg(long, global = true, value_name = "ID")]
    pub org: Option<String>,
    /// User that the credential belongs to [env: LIBRA_USER] [default: the development bootstrap's]
    #[arg(long, global = true, value_name = "ID")]
    pub user: Option<String>,
}

/// A server and a credential for it.
#[derive(Debug)]
pub struct Session {
    pub base_url: String,
    token: SecretString,
    identity: Option<(String, String)>,
    http: reqwest::Client,
}

impl Session {
    /// Takes each part from the flags, else the environment, else the files in `data_dir`.
    ///
    /// # Errors
    /// If no server or no credential can be found, or the address is none.
    pub fn open(args: &SessionArgs, data_dir: &Path) -> Result<Self, CliError> {
        Self::resolve(args, data_dir, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn resolve(
        args: &SessionArgs,
        data_dir: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let pick = |flag: &Option<String>, name: &str| flag.clone().or_else(|| environment(name));
        let base_url = match pick(&args.url, "LIBRA_URL") {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => running_server(data_dir)?,
        };
        let path = data_dir.join("bootstrap.json");
        let bootstrap: Option<BootstrapFile> = read_json(&path)?;
        let org = pick(&args.org, "LIBRA_ORG");
        let user = pick(&args.user, "LIBRA_USER");
        let token = pick(&args.token, "LIBRA_TOKEN").map(SecretString::from);
        // The bootstrap's ids belong to the bootstrap's token only.
        let (token, org, user) = match (token, bootstrap) {
            (Some(token), _) => (token, org, user),
            (None, Some(file)) => (file.token.into(), org.or(Some(file.org_id)), user.or(Some(file.user_id))),
            (None, None) => return Err(CliError::NoToken { path }),
        };
        let http = http_client(&base_url)?;
        Ok(Self { base_url, token, identity: org.zip(user), http })
    }

    /// Organization and user, which `POST /deploy` asks for and checks against the credential.
    ///
    /// # Errors
    /// If neither was named.
    pub fn identity(&self) -> Result<(&str, &str), CliError> {
        self.identity.as_ref().map(|(org, user)| (org.as_str(), user.as_str())).ok_or(CliError::NoIdentity)
    }

    /// A request with the credential; `path` begins with `/` and is escaped already.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base_url)).bearer_auth(self.token.expose_secret())
    }

    /// Sends, and turns an error answer of the platform into an error.
    ///
    /// # Errors
    /// [`CliError::Unreachable`] or [`CliError::Api`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let request_id = header("x-request-id").unwrap_or_else(|| "no request id".to_owned());
        let body = response.text().await.map_err(|source| self.unreachable(source))?;
        Err(api_error(status, request_id, &body))
    }

    /// Sends and reads a JSON answer, as text too, for `--json`.
    ///
    /// # Errors
    /// As [`Session::send`], or if the answer is something else.
    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<(T, String), CliError> {
        let request = request.timeout(Duration::from_secs(ANSWER_SECONDS));
        let text = self.send(request).await?.text().await.map_err(|source| self.unreachable(source))?;
        let parsed = serde_json::from_str(&text)
            .map_err(|source| CliError::Answer { base_url: self.base_url.clone(), source: Some(source) })?;
        Ok((parsed, text))
    }

    #[must_use]
    pub fn unreachable(&self, source: reqwest::Error) -> CliError {
        CliError::Unreachable { base_url: self.base_url.clone(), source: source.without_url() }
    }
}

/// Escapes a value for use as one path segment or query value.
#[must_use]
pub fn escape(value: &str) -> String {
    utf8_percent_encode(value, VALUE).to_string()
}

fn http_client(base_url: &str) -> Result<reqwest::Client, CliError> {
    let usage =
        || CliError::Usage(format!("'{base_url}' is no address; write http://HOST:PORT or https://HOST"));
    let url = Url::parse(base_url).map_err(|_| usage())?;
    let host = url.host_str().ok_or_else(usage)?.trim_matches(['[', ']']);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(usage());
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("libra/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS))
        // A redirect would carry the credential somewhere else.
        .redirect(reqwest::redirect::Policy::none());
    let local_name = host == "localhost" || host.ends_with(".localhost");
    if local_name {
        // RFC 6761: these names are this machine. Not every resolver knows; port 0 keeps the URL's port.
        builder = builder.resolve(host, ([127, 0, 0, 1], 0).into());
    }
    if local_name || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback()) {
        // A proxy would look for the server on its own machine.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|source| CliError::Unreachable { base_url: base_url.to_owned(), source })
}

fn running_server(data_dir: &Path) -> Result<String, CliError> {
    let none = || CliError::NoServer { data_dir: data_dir.to_owned() };
    let file: ServerFile = read_json(&data_dir.join("server.json"))?.ok_or_else(none)?;
    let listen = file.listen.first().ok_or_else(none)?;
    let address = listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    Ok(if address.contains("://") { address } else { format!("http://{address}") })
}

/// `None` if the file is not there.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CliError> {
    let read = |source| CliError::Read { path: PathBuf::from(path), source };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| read(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(read(error)),
    }
}

fn api_error(status: u16, request_id: String, body: &str) -> CliError {
    let Ok(document) = serde_json::from_str::<ErrorDocument>(body) else {
        let message = format!("the server answered with status {status} and no explanation");
        return CliError::Api { status, code: "UNKNOWN".to_owned(), message, request_id };
    };
    let mut message = document.message.unwrap_or(document.error);
    // Bad fields are the user's to mend, so each one is named.
    for problem in document.details.as_array().into_iter().flatten() {
        let part = |key: &str| problem.get(key).and_then(serde_json::Value::as_str).unwrap_or("?");
        message.push_str(&format!("\n  {}: {}", part("field"), part("message")));
    }
    CliError::Api {
        status,
        code: document.code,
        message,
        request_id: document.request_id.unwrap_or(request_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: SessionArgs = SessionArgs { url: None, token: None, org: None, user: None };

    fn open(args: &SessionArgs, data_dir: &Path, environment: &[(&str, &str)]) -> Result<Session, CliError> {
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        Session::resolve(args, data_dir, |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_development_server_is_found_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(&NOTHING, dir.path(), &[]), Err(CliError::NoServer { .. })));
        std::fs::write(dir.path().join("server.json"), r#"{"pid":1,"listen":["0.0.0.0:3008"]}"#).unwrap();
        assert!(matches!(open(&NOTHING, dir.path(), &[]), Err(CliError::NoToken { .. })));
        let file = r#"{"orgId":"o1","userId":"u1","token":"secret"}"#;
        std::fs::write(dir.path().join("bootstrap.json"), file).unwrap();
        let session = open(&NOTHING, dir.path(), &[]).unwrap();
        assert_eq!(session.base_url, "http://127.0.0.1:3008");
        assert_eq!(session.identity().unwrap(), ("o1", "u1"));
        assert!(!format!("{session:?}").contains("secret"));
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = r#"{"orgId":"o1","userId":"u1","token":"file"}"#;
        std::fs::write(dir.path().join("bootstrap.json"), file).unwrap();
        let environment = [("LIBRA_URL", "http://env.localhost:1/"), ("LIBRA_TOKEN", "env")];
        let session = open(&NOTHING, dir.path(), &environment).unwrap();
        assert_eq!(
            (session.base_url.as_str(), session.token.expose_secret()),
            ("http://env.localhost:1", "env")
        );
        // The ids in the file are not those of another token.
        assert!(matches!(session.identity(), Err(CliError::NoIdentity)));
        let args =
            SessionArgs { url: Some("https://flag.example".into()), token: Some("flag".into()), ..NOTHING };
        let session = open(&args, dir.path(), &environment).unwrap();
        assert_eq!(
            (session.base_url.as_str(), session.token.expose_secret()),
            ("https://flag.example", "flag")
        );
    }

    #[test]
    fn an_address_that_is_none_is_a_usage_error() {
        for url in ["libra.example", "ftp://libra.example", "http://"] {
            let args = SessionArgs { url: Some(url.into()), token: Some("t".into()), ..NOTHING };
            let error = open(&args, Path::new("/nonexistent"), &[]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{url}");
        }
    }

    #[test]
    fn an_error_answer_names_each_bad_field() {
        let body = r#"{"success":false,"error":"Validation failed","code":"VALIDATION_ERROR","message":"Mend these",
            "details":[{"field":"initFiles[0].path","message":"is absolute"}],"requestId":"r9","timestamp":"t"}"#;
        let error = api_error(400, "header".into(), body);
        assert_eq!(error.to_string(), "Mend these\n  initFiles[0].path: is absolute (VALIDATION_ERROR, r9)");
        let error = api_error(502, "r1".into(), "<html>");
        assert_eq!(error.to_string(), "the server answered with status 502 and no explanation (UNKNOWN, r1)");
    }

    #[test]
    fn ids_from_the_command_line_stay_one_path_segment() {
        assert_eq!(escape("../a?b/c d"), "..%2Fa%3Fb%2Fc%20d");
    }
}
