//! The guides' own variables, and which key each stands for.

/// What an alias does to its value on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convert {
    AsIs,
    LowerCase,
    /// Milliseconds into whole seconds, rounded up.
    MillisecondsToSeconds,
}

/// Variables that set a key.
pub const ALIASES: &[(&str, &str, Convert)] = &[
    ("ENVIRONMENT", "environment", Convert::LowerCase),
    ("POSTGRES_URL", "database.url", Convert::AsIs),
    ("LOG_LEVEL", "log.level", Convert::LowerCase),
    ("DEPLOYMENT_QUEUE_NAME", "nats.stream", Convert::AsIs),
    ("DEPLOYMENT_DLQ_NAME", "nats.dead_letter_stream", Convert::AsIs),
    ("MAX_CONCURRENT_DEPLOYMENTS", "pipeline.concurrency", Convert::AsIs),
    ("MAX_DEPLOYMENT_TIMEOUT", "pipeline.total_timeout_seconds", Convert::MillisecondsToSeconds),
    // What every S3 tool reads.
    ("AWS_REGION", "blobs.region", Convert::AsIs),
    ("AWS_ENDPOINT_URL_S3", "blobs.endpoint", Convert::AsIs),
    ("AWS_ACCESS_KEY_ID", "blobs.access_key_id", Convert::AsIs),
    ("AWS_SECRET_ACCESS_KEY", "blobs.secret_access_key", Convert::AsIs),
    ("AWS_SESSION_TOKEN", "blobs.session_token", Convert::AsIs),
    ("SANDBOX_BUILDER_DEFAULT_PROVIDER", "sandbox.provider", Convert::LowerCase),
    ("E2B_API_KEY", "sandbox.e2b.api_key", Convert::AsIs),
    ("DAYTONA_API_KEY", "sandbox.daytona.api_key", Convert::AsIs),
];

/// Variables of the guides that this release accepts and does not use; `config show` lists those set.
pub const WITHOUT_EFFECT: &[&str] = &[
    "CLOUDFLARE_ACCOUNT_ID",
    "CLOUDFLARE_API_TOKEN",
    "CLOUDFLARE_ZONE_ID",
    "BETTER_GITHUB_CLIENT_ID",
    "BETTER_GITHUB_CLIENT_SECRET",
    "BETTER_AUTH_SECRET",
    "TURNSTILE_SECRET_KEY",
    "DISPATCH_NAMESPACE_NAME",
];

pub fn convert(how: Convert, value: &str) -> String {
    match how {
        Convert::AsIs => value.to_owned(),
        Convert::LowerCase => value.to_lowercase(),
        Convert::MillisecondsToSeconds => {
            value.parse::<u64>().map_or_else(|_| value.to_owned(), |ms| ms.div_ceil(1_000).to_string())
        }
    }
}
