//! The S3 client, made from the settings.
//!
//! Decides nothing about blobs, and sends no request.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use secrecy::ExposeSecret;

use super::error::{BlobError, Reason};
use super::settings::{Bucket, Settings};

pub(super) fn open(settings: &Settings, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, BlobError> {
    let mut s3 = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&settings.region)
        .with_access_key_id(&settings.access_key_id)
        .with_secret_access_key(settings.secret_access_key.expose_secret())
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One object at a time, by name: not every server knows the bulk request.
        .with_disable_bulk_delete(true)
        .with_retry(retry(settings))
        .with_client_options(client(settings)?);
    let token = settings.session_token.expose_secret();
    if !token.is_empty() {
        s3 = s3.with_token(token);
    }
    if let Some(endpoint) = endpoint(settings, bucket) {
        s3 = s3.with_endpoint(endpoint);
    }
    let store = s3.build().map_err(|error| BlobError::Open(Reason::of(&error)))?;
    Ok(match bucket.prefix.as_str() {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    })
}

/// The library wants the bucket in the host where it is not in the path.
fn endpoint(settings: &Settings, bucket: &Bucket) -> Option<String> {
    let mut url = settings.endpoint_url()?;
    if !settings.path_style {
        let host = format!("{}.{}", bucket.name, url.host_str()?);
        url.set_host(Some(&host)).ok()?;
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn client(settings: &Settings) -> Result<ClientOptions, BlobError> {
    let plaintext = settings.endpoint_url().is_some_and(|url| url.scheme() == "http");
    let mut client = ClientOptions::new()
        .with_allow_http(plaintext)
        .with_connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .with_read_timeout(Duration::from_millis(settings.read_timeout_ms))
        // A large pack takes as long as its bytes keep coming; `operation_timeout_seconds` bounds it.
        .with_timeout_disabled();
    let file = settings.ca_file.trim();
    if !file.is_empty() {
        let pem = std::fs::read(file).map_err(BlobError::CaFile)?;
        let unreadable =
            |error: object_store::Error| BlobError::CaFile(std::io::Error::other(error.to_string()));
        let found = Certificate::from_pem_bundle(&pem).map_err(unreadable)?;
        if found.is_empty() {
            return Err(BlobError::CaFile(std::io::Error::other("it holds no certificate")));
        }
        // Whoever names an authority means that one.
        client = client.with_no_system_certificates(true);
        client = found.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    Ok(client)
}

fn retry(settings: &Settings) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(settings.retry_backoff_min_ms),
            max_backoff: Duration::from_millis(settings.retry_backoff_max_ms),
            base: 2.0,
        },
        max_retries: settings.retries,
        retry_timeout: settings.retry_total(),
    }
}
