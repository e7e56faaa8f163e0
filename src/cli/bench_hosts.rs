//! `libra internal bench-hosts --hosts N`: what the routing table costs with N hosts in it: bytes of memory, time of a
//! lookup, and how soon every thread sees a change. One line of JSON. Asks no database and serves nothing.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;

use crate::routing::tables::{CustomHost, Live, Tables, WorkerRoute};
use crate::routing::{HostRules, Target};
use crate::runtime::manifest::{FORMAT, Manifest};
use crate::runtime::{ManifestError, SiteVersion};

/// Hosts that are looked up; more than a processor's caches hold of the table.
const ASKED: usize = 100_000;
const LOOKUPS: usize = 3_000_000;

#[derive(Debug, Parser)]
#[command(name = "libra internal bench-hosts")]
struct Args {
    #[arg(long, default_value_t = 10_000)]
    hosts: usize,
    /// Switches that are published, one after another
    #[arg(long, default_value_t = 1_000)]
    changes: u64,
}

pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from("bench-hosts"));
    match Args::try_parse_from(name.chain(arguments)) {
        Ok(args) => match measure(&args) {
            Ok(line) => {
                super::render::line(&line);
                ExitCode::SUCCESS
            }
            Err(e) => {
                super::render::note(&format!("error: {e}"));
                ExitCode::from(70)
            }
        },
        Err(e) => {
            drop(e.print());
            ExitCode::from(2)
        }
    }
}

fn worker(number: usize) -> String {
    format!("shop-{number}")
}

fn route(name: &str, version: &Arc<SiteVersion>, epoch: u64) -> WorkerRoute {
    WorkerRoute {
        worker: name.into(),
        org_id: "00112233445566778899aabbccddeeff".into(),
        project_id: "ffeeddccbbaa99887766554433221100".into(),
        live: Live::Site(Arc::clone(version)),
        epoch,
    }
}

fn measure(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let rules = HostRules::new("libra.localhost", &[], &[])?;
    let version = version()?;
    let tables = Tables::new();
    let before = resident_bytes()?;
    // Half of the hosts are Workers' own, half are custom domains that lead to them.
    let workers = args.hosts.div_ceil(2);
    for number in 0..workers {
        tables.publish_worker(route(&worker(number), &version, 1));
    }
    for number in 0..args.hosts - workers {
        let to = CustomHost::Worker(worker(number).into());
        tables.publish_host(&format!("www.customer-{number}.example"), &to);
    }
    tables.workers_are_at(1);
    tables.hosts_are_at(1);
    let bytes = resident_bytes()?.saturating_sub(before);
    let (hit_ns, miss_ns) = lookups(&tables, &rules, args.hosts, workers);
    let times = changes(&tables, &rules, &version, workers, args.changes);
    let share = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Ok(serde_json::json!({
        "hosts": args.hosts,
        "bytes_per_host": bytes / args.hosts.max(1) as u64,
        "hit_ns": hit_ns,
        "miss_ns": miss_ns,
        "changes": times.len(),
        "visible_p50_us": share(0.5),
        "visible_p99_us": share(0.99),
        "visible_max_us": times.last(),
    })
    .to_string())
}

fn version() -> Result<Arc<SiteVersion>, ManifestError> {
    let manifest =
        Manifest { version: FORMAT, files: Vec::new(), pack_digest: "00".repeat(32), pack_size: 0 };
    SiteVersion::new("00000000", "bench".into(), "/nowhere".into(), 0, &manifest).map(Arc::new)
}

/// Nanoseconds of a lookup, from the text of the `Host` header to the route, that finds and that finds nothing.
fn lookups(tables: &Tables, rules: &HostRules, hosts: usize, workers: usize) -> (f64, f64) {
    // Numbers that jump about, the same at each run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below.max(1) as u64) as usize
    };
    let known: Vec<String> = (0..ASKED)
        .map(|_| match pick(hosts) {
            number if number < workers => format!("{}.libra.localhost", worker(number)),
            number => format!("www.customer-{}.example", number - workers),
        })
        .collect();
    let unknown: Vec<String> = (0..ASKED).map(|at| format!("www.nobody-{at}.example")).collect();
    let time = |asked: &[String], expected: usize| {
        let started = Instant::now();
        let mut found = 0;
        for host in asked.iter().cycle().take(LOOKUPS) {
            let class = rules.classify(std::hint::black_box(host));
            found += usize::from(class.is_ok_and(|class| tables.resolve(rules, &class).is_ok()));
        }
        assert_eq!(found, expected, "the table must answer for what is in it");
        started.elapsed().as_nanos() as f64 / LOOKUPS as f64
    };
    (time(&known, LOOKUPS), time(&unknown, 0))
}

/// Microseconds from before each change until another thread, which looks without a pause, sees it; sorted.
fn changes(
    tables: &Tables,
    rules: &HostRules,
    version: &Arc<SiteVersion>,
    workers: usize,
    count: u64,
) -> Vec<u64> {
    let (seen, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let name = worker(workers / 2);
    let host = format!("{name}.libra.localhost");
    let mut times: Vec<u64> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let Ok(class) = rules.classify(&host) else { return };
                if let Ok(resolved) = tables.resolve(rules, &class)
                    && let Target::Worker(route) = resolved.target
                {
                    seen.store(route.epoch, Ordering::Release);
                }
            }
        });
        let times = (2..count + 2).map(|epoch| {
            let route = route(&name, version, epoch);
            let started = Instant::now();
            tables.publish_worker(route);
            tables.workers_are_at(epoch);
            while seen.load(Ordering::Acquire) < epoch {
                std::hint::spin_loop();
            }
            started.elapsed().as_micros() as u64
        });
        let times = times.collect();
        done.store(true, Ordering::Release);
        times
    });
    times.sort_unstable();
    times
}

fn resident_bytes() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| std::io::Error::other("smaps_rollup names no Rss"))
}
