//! HTTP to an issuer: bounded in time and size, no redirects, one authority where one is named.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::redirect::Policy;

use crate::tls::Acme;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("tls.acme.ca_file {path} can't be read or holds no certificate", path = .path.display())]
    CaFile {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the HTTP client for issuers can't be made")]
    Make(#[source] reqwest::Error),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct IssuerClient {
    http: reqwest::Client,
    answer_bytes: usize,
}

impl IssuerClient {
    /// # Errors
    /// If the file of authorities can't be used.
    pub fn new(settings: &Acme) -> Result<Self, ClientError> {
        let patience = Duration::from_secs(settings.request_timeout_seconds);
        let mut builder = reqwest::Client::builder()
            .connect_timeout(patience)
            .timeout(patience)
            .redirect(Policy::none())
            .https_only(true);
        if !settings.ca_file.is_empty() {
            let path = PathBuf::from(&settings.ca_file);
            let failed = |source| ClientError::CaFile { path: path.clone(), source };
            let pem = std::fs::read(&path).map_err(|e| failed(e.into()))?;
            let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(e.into()))?;
            if found.is_empty() {
                return Err(failed("it holds none".into()));
            }
            // Whoever names an authority means that one.
            builder = builder.tls_certs_only(found);
        }
        let http = builder.build().map_err(ClientError::Make)?;
        Ok(Self { http, answer_bytes: settings.answer_bytes })
    }
}

impl HttpClient for IssuerClient {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let Self { http, answer_bytes } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = http::Request::from_parts(parts, body.to_bytes());
            let request = reqwest::Request::try_from(request).map_err(other)?;
            let mut response = http.execute(request).await.map_err(other)?;
            let mut answer = http::Response::new(());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = response.headers().clone();
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(other)? {
                if body.len() + chunk.len() > answer_bytes {
                    return Err(Error::Str("an answer within tls.acme.answer_bytes"));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(BytesResponse { parts: answer.into_parts().0, body: Box::new(body.freeze()) })
        })
    }
}

fn other(error: reqwest::Error) -> Error {
    Error::Other(Box::new(error))
}
