//! `libra certificates`: how the certificates of the organization's custom domains stand.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render;

/// Pages read at most; a server that never ends its list must not keep us.
const PAGES: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct CertificatesArgs {
    /// Only this domain
    pub hostname: Option<String>,
    /// Print each certificate as one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    hostname: String,
    project_id: String,
    state: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_words: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CertificatePage {
    certificates: Vec<Certificate>,
    next_cursor: Option<String>,
}

/// # Errors
/// If the server can't be reached or refuses.
pub async fn run(args: &CertificatesArgs, session: &Session) -> Result<Outcome, CliError> {
    let filter =
        args.hostname.as_deref().map(|name| format!("&hostname={}", escape(name))).unwrap_or_default();
    let mut cursor = String::new();
    for _ in 0..PAGES {
        let path = format!("/api/v1/certificates?limit=100{filter}{cursor}");
        let (page, _): (CertificatePage, _) = session.json(session.request(Method::GET, &path)).await?;
        page.certificates.iter().for_each(|certificate| show(certificate, args.json));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={}", escape(&next)),
            None => break,
        }
    }
    Ok(Outcome::Done)
}

fn show(certificate: &Certificate, json: bool) {
    if json {
        render::line(&serde_json::json!(certificate).to_string());
    } else {
        text(certificate).iter().for_each(|line| render::line(&render::harmless(line)));
    }
}

fn text(certificate: &Certificate) -> Vec<String> {
    let Certificate { hostname, state, .. } = certificate;
    let from = match (certificate.source.as_str(), &certificate.issuer) {
        ("operator", _) => "the operator".to_owned(),
        (_, Some(issuer)) => issuer.clone(),
        (_, None) => "-".to_owned(),
    };
    let until = certificate.not_after.as_ref().map(|at| format!("  until {at}")).unwrap_or_default();
    let mut lines = vec![format!("{hostname:<40}  {state:<8}  {from}{until}")];
    if let Some(words) = &certificate.last_words {
        lines.push(format!("    {words}"));
    }
    if let Some(next) = &certificate.next_try {
        let what = if state == "valid" && certificate.last_words.is_none() { "renewed" } else { "tried" };
        lines.push(format!("    {what} next: {next}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_one_says_why_and_when_it_is_tried_next() {
        let read = serde_json::json!({
            "hostname": "shop.example.com", "projectId": "p", "state": "failed", "source": "acme",
            "issuer": "ca.example", "lastWords": "dns: NXDOMAIN", "nextTry": "2026-01-01T00:00:00.000Z",
        });
        let lines = text(&serde_json::from_value(read).unwrap());
        assert_eq!(lines[0], format!("{:<40}  failed    ca.example", "shop.example.com"));
        assert_eq!(lines[1..], ["    dns: NXDOMAIN", "    tried next: 2026-01-01T00:00:00.000Z"]);
    }
}
