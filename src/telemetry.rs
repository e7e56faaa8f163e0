//! Logging: structured, to standard error, without secrets or bodies.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Starts logging. A second call in one process changes nothing.
pub fn start(settings: &Log) {
    // Our own level, and only warnings of the libraries beneath.
    let filter = EnvFilter::try_new(format!("warn,libra={}", settings.level))
        .unwrap_or_else(|_| EnvFilter::new("warn,libra=info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Already started: the first one stays.
    drop(started);
}
