//! Owns where the name of one origin leads: asked by one at a time, remembered for a moment.
//! Never judges an address, and never has more than one thread wait for a resolver, however slow that is.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

/// What was found, and when.
pub struct Found {
    at: Instant,
    pub addresses: Vec<SocketAddr>,
}

/// Where one name leads.
pub struct Names {
    found: Arc<ArcSwapOption<Found>>,
    turn: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self { found: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Names {
    /// Its addresses, found at most `keep` ago.
    pub async fn of(&self, host: &str, port: u16, keep: Duration) -> io::Result<Arc<Found>> {
        let host = host.to_owned();
        self.found_by(keep, move || Ok((host.as_str(), port).to_socket_addrs()?.collect())).await
    }

    /// Whoever gives up waiting leaves the question to run; its answer serves those who come then.
    async fn found_by(
        &self,
        keep: Duration,
        ask: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Arc<Found>> {
        if let Some(found) = self.fresh(keep) {
            return Ok(found);
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(io::Error::other)?;
        // While we waited for it, somebody else may have asked.
        if let Some(found) = self.fresh(keep) {
            return Ok(found);
        }
        let kept = Arc::clone(&self.found);
        let asking = tokio::task::spawn_blocking(move || {
            let found = ask().map(|addresses| Arc::new(Found { at: Instant::now(), addresses }));
            if let Ok(found) = &found {
                kept.store(Some(Arc::clone(found)));
            }
            drop(turn);
            found
        });
        asking.await.map_err(io::Error::other)?
    }

    fn fresh(&self, keep: Duration) -> Option<Arc<Found>> {
        self.found.load_full().filter(|found| found.at.elapsed() < keep)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_name_is_found_and_one_that_does_not_exist_is_not() {
        let names = Names::default();
        let found = names.of("localhost", 7, LONG).await.unwrap();
        assert!(!found.addresses.is_empty() && found.addresses.iter().all(|a| a.ip().is_loopback()));
        assert!(Names::default().of("no such name", 7, LONG).await.is_err());
    }

    #[tokio::test]
    async fn a_resolver_that_is_slow_is_asked_by_one_and_its_answer_is_for_all() {
        let names = Names::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = std::sync::mpsc::channel::<()>();
        let answered = Arc::new(std::sync::Mutex::new(answered));
        let ask = || {
            let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
            names.found_by(LONG, move || {
                asked.fetch_add(1, Ordering::SeqCst);
                answered.lock().unwrap().recv().map_err(io::Error::other)?;
                Ok(vec![([127, 0, 0, 1], 7).into()])
            })
        };
        // Everybody's time is over before the resolver answers.
        let impatient = (0..50).map(|_| tokio::time::timeout(Duration::from_millis(20), ask()));
        let gave_up = futures_util::future::join_all(impatient).await;
        assert!(gave_up.iter().all(Result::is_err));
        answer.send(()).unwrap();
        assert_eq!(ask().await.unwrap().addresses.len(), 1);
        assert_eq!(ask().await.unwrap().addresses.len(), 1);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // What is old is asked anew, and what fails is not remembered.
        drop(answer);
        let old = names.found_by(Duration::ZERO, || Err(io::ErrorKind::NotFound.into())).await;
        assert!(old.is_err());
        assert_eq!(ask().await.unwrap().addresses.len(), 1);
    }
}
