//! Waiting at the start for parts that run elsewhere and are away: said in clear lines, bounded, and
//! never for what no waiting mends.
//!
//! Parts of this machine (the SQLite file, the folder of blobs, our own `nats-server`) are not waited for.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::AppError;
use secrecy::ExposeSecret;

use crate::blobs::{BlobError, Blobs};
use crate::config::{Settings, Start};
use crate::domain::cause::chain;
use crate::queue::Queue;
use crate::store::{Store, StoreError};

/// A part, as the operator knows it.
#[derive(Debug, Clone)]
struct Part {
    name: &'static str,
    /// Where it is, without any secret.
    address: String,
    /// The setting that says so.
    key: &'static str,
}

/// How long to wait, how often to say so, and how long between two tries.
#[derive(Debug, Clone, Copy)]
struct Patience {
    limit: Duration,
    notice: Duration,
    pause: Duration,
}

/// Longer than any server runs.
const ENDLESS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl Patience {
    /// While the last table is served, ending the server would help nobody.
    fn of(start: &Start, last_table: bool) -> Self {
        Self {
            limit: if last_table { ENDLESS } else { Duration::from_secs(start.wait_seconds) },
            notice: Duration::from_secs(start.notice_seconds),
            pause: Duration::from_millis(start.retry_ms),
        }
    }
}

/// How one try went.
enum Tried<T> {
    There(T),
    /// It may come by itself.
    Away(Box<dyn Error + Send + Sync>),
    /// Somebody has to change something first.
    Hopeless(AppError),
}

const GONE: &str = "the database's file is gone while the sites it named are served: put it back, or remove \
                    edge/routes.jsonl to begin with an empty one";

/// The database, with its schema up to date. `last_table`: Workers are served meanwhile.
///
/// # Errors
/// [`AppError::Away`] when the time is over; or at once, what no waiting mends.
pub async fn database<F>(
    settings: &Settings,
    default_file: &Path,
    last_table: bool,
    open: impl Fn() -> F,
) -> Result<Store, AppError>
where
    F: Future<Output = Result<Store, AppError>>,
{
    let url = settings.database.url.expose_secret();
    let here = url.is_empty() || url.starts_with("sqlite:");
    if here && !last_table {
        return open().await;
    }
    let address = if here { "this machine's SQLite file".into() } else { shown(url) };
    let part = Part { name: "database", address, key: "database.url" };
    until_there(&part, Patience::of(&settings.start, last_table), || async {
        if url.is_empty() && last_table && !default_file.exists() {
            // An empty record made in its place would take every site down.
            return Tried::Away(GONE.into());
        }
        match open().await {
            Ok(store) => Tried::There(store),
            Err(AppError::Store(e @ StoreError::Unavailable(_))) => Tried::Away(e.into()),
            Err(AppError::Store(e)) if last_table && e.may_pass() => Tried::Away(e.into()),
            Err(e) => Tried::Hopeless(e),
        }
    })
    .await
}

/// The blob store: it takes a small blob, gives it back and removes it.
///
/// # Errors
/// As [`database`].
pub async fn blobs(settings: &Settings, last_table: bool, blobs: &Blobs) -> Result<(), AppError> {
    if !settings.blobs.is_remote() {
        return Ok(());
    }
    let part = Part { name: "blob store", address: settings.blobs.shown(), key: "blobs.url" };
    until_there(&part, Patience::of(&settings.start, last_table), || async {
        match blobs.probe().await {
            Ok(()) => Tried::There(()),
            // Cut off or gone between two of our own requests: no store that works does that for long.
            Err(e) if e.may_pass() || matches!(e, BlobError::Missing { .. } | BlobError::Damaged { .. }) => {
                Tried::Away(e.into())
            }
            Err(e) => Tried::Hopeless(e.into()),
        }
    })
    .await
}

/// The broker, with its streams as they have to be. Where sites are live they are served without it:
/// the record keeps what is deployed meanwhile, and the queue goes on trying by itself.
///
/// # Errors
/// As [`database`].
pub async fn broker(settings: &Settings, queue: &Queue, store: &Store) -> Result<(), AppError> {
    if settings.nats.is_embedded() {
        return Ok(());
    }
    let start = &settings.start;
    let patience = Patience::of(start, false);
    let part = Part { name: "broker", address: settings.nats.url.masked(), key: "nats.url" };
    let can_serve = start.serve_without_broker
        && store.route_changes(0).await?.live.iter().any(|w| w.version_id.is_some() || w.upstream.is_some());
    let waited = until_there(&part, patience, || async {
        match queue.wait_ready(patience.pause).await {
            Ok(()) => Tried::There(true),
            Err(e) if can_serve => {
                tracing::warn!(
                    part = part.name,
                    address = %part.address,
                    error = %e,
                    "a part is away; live sites are served without it, and deployments wait for it"
                );
                Tried::There(false)
            }
            Err(e) if queue.state().borrow().hopeless => Tried::Hopeless(e.into()),
            Err(e) => Tried::Away(e.into()),
        }
    })
    .await;
    waited.map(drop)
}

/// Tries until the part is there or the time is over, and says so: once at first, then every
/// `start.notice_seconds`.
async fn until_there<T, F>(
    part: &Part,
    Patience { limit, notice, pause }: Patience,
    attempt: impl Fn() -> F,
) -> Result<T, AppError>
where
    F: Future<Output = Tried<T>>,
{
    let began = Instant::now();
    let mut said: Option<Instant> = None;
    let mut last: Box<dyn Error + Send + Sync> = "it did not answer".into();
    loop {
        // A first try is made whatever the limit, and has a moment even where nobody wants to wait.
        let deadline = began + limit.max(pause);
        let mut trying = std::pin::pin!(timeout_at(deadline, attempt()));
        // One try may take longer than anybody should be left without a word.
        let tried = loop {
            tokio::select! {
                tried = &mut trying => break tried,
                () = sleep(notice) => {
                    said = Some(Instant::now());
                    say(part, limit.saturating_sub(began.elapsed()), &*last);
                }
            }
        };
        match tried {
            Ok(Tried::There(thing)) => {
                if said.is_some() {
                    tracing::info!(part = part.name, waited_ms = elapsed_ms(began), "the part is there now");
                }
                return Ok(thing);
            }
            Ok(Tried::Hopeless(error)) => return Err(error),
            Ok(Tried::Away(error)) => last = error,
            Err(_) => {}
        }
        if began.elapsed() >= limit {
            return Err(AppError::Away {
                part: part.name,
                address: part.address.clone(),
                key: part.key,
                waited_seconds: limit.as_secs(),
                source: last,
            });
        }
        if said.is_none_or(|at| at.elapsed() >= notice) {
            said = Some(Instant::now());
            say(part, limit.saturating_sub(began.elapsed()), &*last);
        }
        sleep(pause.min(limit.saturating_sub(began.elapsed()))).await;
    }
}

fn say(part: &Part, left: Duration, error: &(dyn Error + Send + Sync + 'static)) {
    tracing::warn!(
        part = part.name,
        address = %part.address,
        // Absent: without end.
        waiting_seconds = (left < ENDLESS / 2).then(|| left.as_secs_f64().ceil()),
        error = %chain(error),
        "a part is away; waiting for it"
    );
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Scheme, host and port of an address: everything else may be a secret.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "an address of another form".into() };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn patience(limit_ms: u64) -> Patience {
        Patience {
            limit: Duration::from_millis(limit_ms),
            notice: Duration::from_secs(10),
            pause: Duration::from_millis(5),
        }
    }

    fn part() -> Part {
        Part { name: "database", address: "postgres://db.example:5432".into(), key: "database.url" }
    }

    fn away<T>() -> Tried<T> {
        Tried::Away("connection refused".into())
    }

    #[tokio::test]
    async fn a_part_that_comes_in_time_is_used() {
        let tries = Cell::new(0);
        let got = until_there(&part(), patience(600_000), || async {
            tries.set(tries.get() + 1);
            if tries.get() < 20 { away() } else { Tried::There(tries.get()) }
        })
        .await;
        assert_eq!(got.unwrap(), 20);
    }

    #[tokio::test]
    async fn a_part_that_stays_away_ends_the_start_with_69_when_the_time_is_over() {
        let began = Instant::now();
        let error = until_there(&part(), patience(1_100), || async { away::<()>() }).await.unwrap_err();
        assert_eq!(error.exit_code(), 69);
        let said = error.to_string();
        assert!(said.contains("database at postgres://db.example:5432") && said.contains("1 s"), "{said}");
        assert!(said.contains("database.url") && said.contains("start.wait_seconds"), "{said}");
        assert!(began.elapsed() >= Duration::from_millis(1_100));
    }

    #[tokio::test]
    async fn a_part_that_takes_the_connection_and_says_nothing_is_given_up_in_time() {
        let silent = || async {
            std::future::pending::<()>().await;
            away::<()>()
        };
        assert_eq!(until_there(&part(), patience(100), silent).await.unwrap_err().exit_code(), 69);
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_not_waited_for() {
        let refused = || async { Tried::<()>::Hopeless(AppError::Settings("wrong password".into())) };
        let error = until_there(&part(), patience(600_000), refused).await.unwrap_err();
        assert_eq!(error.to_string(), "wrong password");
    }

    #[test]
    fn addresses_are_shown_without_their_secrets() {
        assert_eq!(shown("postgres://me:p@ss@db.example:5432/libra?sslkey=x"), "postgres://db.example:5432");
        assert_eq!(shown("postgres://db/libra"), "postgres://db");
    }
}
