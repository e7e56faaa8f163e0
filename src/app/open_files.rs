//! Owns how many files this process may have open: as many as the system allows, and what that leaves for connections.
//! Never gives connections what the database, the broker, versions and logs need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;

/// For the database, the broker, logs, listeners, builds and what libraries open.
const OWN_FILES: u64 = 512;
/// With fewer connections over all threads than this, a server of many sites would turn people away on a quiet day.
pub const FEW: usize = 1_000;

/// What the front door may take, per serving thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Open files of the whole process.
    pub files: u64,
    pub connections: usize,
    pub requests: usize,
}

/// What the system allows this process to ask for.
#[must_use]
pub fn allowed() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Asks for all of it: what shells and service managers set at first (1,024) is meant for programs with few files.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(error = %e, "the limit of open files could not be raised");
        return limit.current.unwrap_or(u64::MAX);
    }
    allowed()
}

/// Two thirds for clients, of which most are idle, and one for the origins of those that ask.
#[must_use]
pub fn room(files: u64, settings: &Settings) -> Room {
    let http = &settings.http;
    let own = (OWN_FILES + settings.runtime.open_files).min(files / 2);
    let each = usize::try_from((files - own) / 3).unwrap_or(usize::MAX) / http.threads();
    Room {
        files,
        connections: http.max_connections.min(each.saturating_mul(2)).max(1),
        requests: http.max_requests.min(each).max(1),
    }
}

impl Room {
    /// What the settings ask for and the system does not allow.
    #[must_use]
    pub fn lacks(&self, settings: &Settings) -> Option<String> {
        let http = &settings.http;
        let is_whole = self.connections == http.max_connections && self.requests == http.max_requests;
        (!is_whole).then(|| {
            format!(
                "the system allows {} open files, which is enough for {} connections and {} requests at once per \
                 thread (http.max_connections: {}, http.max_requests: {}); raise the hard limit (LimitNOFILE= of the \
                 service, or ulimit -Hn) for more",
                self.files, self.connections, self.requests, http.max_connections, http.max_requests
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(threads: usize) -> Settings {
        let none = std::collections::HashMap::new();
        let mut settings =
            crate::config::load(std::path::Path::new("/nowhere"), None, &none).unwrap().settings;
        settings.http.workers = threads;
        settings.http.max_connections = 25_000;
        settings.http.max_requests = 20_000;
        settings.runtime.open_files = 256;
        settings
    }

    #[test]
    fn where_the_system_allows_enough_the_settings_hold() {
        let room = room(1 << 20, &settings(2));
        assert_eq!((room.connections, room.requests), (25_000, 20_000));
        assert_eq!(room.lacks(&settings(2)), None);
    }

    #[test]
    fn connections_and_their_origins_never_need_more_than_is_allowed() {
        for threads in [1, 2, 64] {
            for files in [64, 1_024, 4_096, 20_000, 40_000] {
                let room = room(files, &settings(threads));
                let all = (room.connections + room.requests) * threads;
                assert!(all as u64 <= files || (room.connections, room.requests) == (1, 1), "{room:?}");
                assert!(room.lacks(&settings(threads)).is_some_and(|said| said.contains("LimitNOFILE")));
            }
        }
        assert_eq!(room(20_000, &settings(2)).connections, 6_410);
    }
}
