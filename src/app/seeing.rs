//! Makes what requests are seen with, as the settings say.

use std::time::Duration;

use super::AppError;
use super::files::Files;
use crate::config::Settings;
use crate::http::seen::{AccessLog, AccessLogSettings, Observer, Writing};

/// At a stop: time for the last lines of the access log.
pub const LAST_LINES: Duration = Duration::from_secs(5);

/// # Errors
/// If the access log can't be opened.
pub fn observer(settings: &Settings, files: &Files) -> Result<(Observer, Option<Writing>), AppError> {
    let threads = settings.http.threads();
    let access = &settings.log.access;
    if !access.enabled {
        return Ok((Observer::new(threads, None), None));
    }
    let file = match access.file.as_os_str().is_empty() {
        true => files.data_dir.join("access.log"),
        false => access.file.clone(),
    };
    let started = AccessLog::start(AccessLogSettings {
        file: file.clone(),
        file_bytes: access.file_bytes,
        flush: Duration::from_millis(access.flush_ms),
        buffer_bytes: access.buffer_bytes,
        buffers: access.buffers,
        bare_per_second: access.bare_per_second,
    });
    let (log, writing) = started.map_err(|source| AppError::Folder { path: file, source })?;
    Ok((Observer::new(threads, Some(log)), Some(writing)))
}
