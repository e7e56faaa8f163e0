//! Owns how many requests one client may make, and how many one Worker is asked. HOT.
//! Never locks: each client and each Worker has an atomic counter of its own (GCRA, by `governor`), found in a
//! concurrent map. What was not asked for a while is forgotten a generation at a time.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;
use papaya::HashMap;

use super::client::bucket;
use crate::routing::EdgeRefusal;

/// So many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// What is bounded; `None` is not.
#[derive(Debug, Clone, Default)]
pub struct RateSettings {
    pub client: Option<Rate>,
    pub worker: Option<Rate>,
    /// Clients that are not counted: this machine, monitors.
    pub exempt: Vec<IpNet>,
    /// Clients, and Workers, that are remembered at once in a generation.
    pub remembered: usize,
}

/// The counters.
#[derive(Debug)]
pub struct Rates {
    settings: RateSettings,
    clients: Counters<IpAddr>,
    workers: Counters<Arc<str>>,
}

type Generation<K> = HashMap<K, Arc<DefaultDirectRateLimiter>>;

/// Two generations: who is in neither has not asked for at least as long as one lasts.
struct Counters<K> {
    now: ArcSwap<Generation<K>>,
    before: ArcSwap<Generation<K>>,
    remembered: usize,
}

impl Rates {
    pub fn new(settings: RateSettings) -> Self {
        let remembered = settings.remembered.max(1);
        Self { settings, clients: Counters::new(remembered), workers: Counters::new(remembered) }
    }

    /// # Errors
    /// [`EdgeRefusal::RateLimited`] with the seconds to wait.
    pub fn check_client(&self, client: IpAddr) -> Result<(), EdgeRefusal> {
        let Some(rate) = self.settings.client else { return Ok(()) };
        if self.settings.exempt.iter().any(|network| network.contains(&client)) {
            return Ok(());
        }
        self.clients.check(bucket(client), rate)
    }

    /// # Errors
    /// As [`Rates::check_client`].
    pub fn check_worker(&self, worker: &Arc<str>) -> Result<(), EdgeRefusal> {
        self.settings.worker.map_or(Ok(()), |rate| self.workers.check(Arc::clone(worker), rate))
    }

    /// Forgets who has not asked since the last call. Called once in a while.
    pub fn forget_idle(&self) {
        self.clients.turn();
        self.workers.turn();
    }
}

impl<K> std::fmt::Debug for Counters<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").field("remembered", &self.remembered).finish_non_exhaustive()
    }
}

impl<K: std::hash::Hash + Eq + Clone> Counters<K> {
    fn new(remembered: usize) -> Self {
        Self { now: ArcSwap::default(), before: ArcSwap::default(), remembered }
    }

    fn check(&self, key: K, rate: Rate) -> Result<(), EdgeRefusal> {
        let now = self.now.load();
        if now.len() >= self.remembered {
            // A flood of addresses: older ones are forgotten sooner.
            self.turn_from(&now);
        }
        let generation = now.pin();
        let limiter = match generation.get(&key) {
            Some(limiter) => limiter,
            None => {
                let known = self.before.load().pin().get(&key).cloned();
                let fresh = || {
                    let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
                    known.unwrap_or_else(|| Arc::new(RateLimiter::direct(quota)))
                };
                generation.get_or_insert_with(key, fresh)
            }
        };
        limiter.check().map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            EdgeRefusal::RateLimited { after_seconds: wait.as_secs() + 1 }
        })
    }

    fn turn(&self) {
        let old = self.now.swap(Arc::default());
        self.before.store(old);
    }

    /// As [`Counters::turn`], once for all threads that find the same generation full.
    fn turn_from(&self, full: &Arc<Generation<K>>) {
        let previous = self.now.compare_and_swap(full, Arc::default());
        if Arc::ptr_eq(&previous, full) {
            self.before.store(Arc::clone(full));
        }
    }
}

/// Runs until it is dropped.
pub async fn forget(rates: Arc<Rates>) {
    /// Longer than any burst takes to be earned again, so forgetting gives nobody anything.
    const GENERATION: Duration = Duration::from_secs(crate::config::Rates::BURST_SECONDS as u64);
    let mut tick = tokio::time::interval_at((Instant::now() + GENERATION).into(), GENERATION);
    loop {
        tick.tick().await;
        rates.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(client: Option<(u32, u32)>, worker: Option<(u32, u32)>) -> Rates {
        let rate = |(per_second, burst)| Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        };
        Rates::new(RateSettings {
            client: client.map(rate),
            worker: worker.map(rate),
            exempt: vec!["127.0.0.0/8".parse().unwrap()],
            remembered: 100,
        })
    }

    fn allowed(rates: &Rates, client: &str, times: usize) -> usize {
        let client = client.parse().unwrap();
        (0..times).filter(|_| rates.check_client(client).is_ok()).count()
    }

    #[test]
    fn each_client_has_its_burst_and_others_are_not_its_matter() {
        let rates = rates(Some((1, 5)), None);
        assert_eq!(allowed(&rates, "192.0.2.1", 20), 5);
        assert_eq!(allowed(&rates, "192.0.2.2", 3), 3);
        assert_eq!(allowed(&rates, "127.0.0.1", 100), 100);
        assert_eq!(allowed(&rates, "2001:db8::1", 4), 4);
        assert_eq!(allowed(&rates, "2001:db8::2", 4), 1, "one subscriber has a whole /64");
        let refused = rates.check_client("192.0.2.1".parse().unwrap());
        assert!(matches!(refused, Err(EdgeRefusal::RateLimited { after_seconds: 1..=2 })), "{refused:?}");
    }

    #[test]
    fn a_worker_is_bounded_whoever_asks_and_nothing_is_by_default() {
        let bounded = rates(None, Some((1, 3)));
        let worker: Arc<str> = "blog".into();
        assert_eq!((0..9).filter(|_| bounded.check_worker(&worker).is_ok()).count(), 3);
        let open = rates(None, None);
        assert!((0..1_000).all(|_| open.check_worker(&worker).is_ok()));
        assert_eq!(allowed(&open, "192.0.2.1", 1_000), 1_000);
    }

    #[test]
    fn turning_a_generation_gives_nobody_a_new_burst_and_a_flood_fills_no_memory() {
        let rates = rates(Some((1, 5)), None);
        assert_eq!(allowed(&rates, "192.0.2.1", 5), 5);
        rates.forget_idle();
        assert_eq!(allowed(&rates, "192.0.2.1", 5), 0);
        for last in 0..10_000u32 {
            let address = std::net::Ipv4Addr::from(0x0A00_0000 + last);
            assert!(rates.check_client(address.into()).is_ok());
        }
        assert!(rates.clients.now.load().len() <= 101 && rates.clients.before.load().len() <= 101);
    }
}
