//! The tables as requests and their writers meet.

use super::*;
use crate::runtime::{Manifest, SiteVersion};

fn version(id: &str) -> Arc<SiteVersion> {
    let manifest = Manifest { version: 1, files: vec![], pack_digest: "00".repeat(32), pack_size: 0 };
    Arc::new(SiteVersion::new(id, "blog".into(), "/nowhere".into(), 0, &manifest).unwrap())
}

fn route(epoch: u64, live: Option<Arc<SiteVersion>>) -> WorkerRoute {
    let live = live.map_or(Live::Nothing, Live::Site);
    WorkerRoute { worker: "blog".into(), org_id: "o".into(), project_id: "p".into(), live, epoch }
}

fn publish(tables: &Tables, epoch: u64, live: Option<Arc<SiteVersion>>) -> Published {
    let published = tables.publish_worker(route(epoch, live));
    tables.workers_are_at(epoch);
    published
}

fn rules() -> HostRules {
    HostRules::new("libra.localhost", &[], &[]).unwrap()
}

fn ask(tables: &Tables, host: &str) -> Result<String, EdgeRefusal> {
    let rules = rules();
    let resolved = tables.resolve(&rules, &rules.classify(host)?)?;
    Ok(match resolved.target {
        Target::Worker(route) => match &route.live {
            Live::Site(version) => version.id().to_owned(),
            other => format!("{other:?}"),
        },
        Target::Preview(version) => version.id().to_owned(),
        Target::Redirect(to) => format!("-> {to}"),
    })
}

#[test]
fn hosts_lead_to_live_versions_previews_and_clear_refusals() {
    let tables = Tables::new();
    assert_eq!(ask(&tables, "blog.libra.localhost"), Err(EdgeRefusal::TableNotLoaded));
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::TableNotLoaded));
    publish(&tables, 1, Some(version("one")));
    tables.publish_preview("0123456789ab--blog", version("preview"));
    tables.publish_host("www.example.com", &CustomHost::Worker("blog".into()));
    tables.publish_host("example.com", &CustomHost::Redirect("www.example.com".into()));
    tables.publish_host("off.example.com", &CustomHost::Inactive);
    tables.publish_host("empty.example.com", &CustomHost::Worker("nobody".into()));
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::TableNotLoaded));
    tables.hosts_are_at(1);
    assert!(tables.is_loaded());
    assert_eq!(ask(&tables, "Blog.libra.localhost:3008"), Ok("one".to_owned()));
    assert_eq!(ask(&tables, "0123456789ab--blog.libra.localhost"), Ok("preview".to_owned()));
    assert_eq!(ask(&tables, "WWW.example.com"), Ok("one".to_owned()));
    assert_eq!(ask(&tables, "example.com."), Ok("-> www.example.com".to_owned()));
    assert_eq!(ask(&tables, "1123456789ab--blog.libra.localhost"), Err(EdgeRefusal::DeploymentNotFound));
    assert_eq!(ask(&tables, "shop.libra.localhost"), Err(EdgeRefusal::WorkerNotFound));
    assert_eq!(ask(&tables, "off.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
    assert_eq!(ask(&tables, "empty.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
    assert_eq!(ask(&tables, "other.example.com"), Err(EdgeRefusal::CustomDomainNotFound));
    publish(&tables, 2, None);
    assert_eq!(ask(&tables, "blog.libra.localhost"), Err(EdgeRefusal::WorkerNotFound));
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
}

#[test]
fn a_domain_follows_its_workers_switches_without_being_published_again() {
    let tables = Tables::new();
    let worker = CustomHost::Worker("blog".into());
    // The Worker comes after the domain.
    tables.publish_host("www.example.com", &worker);
    tables.hosts_are_at(1);
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::TableNotLoaded));
    tables.workers_are_at(0);
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
    publish(&tables, 1, Some(version("one")));
    assert_eq!(ask(&tables, "www.example.com"), Ok("one".to_owned()));
    publish(&tables, 2, Some(version("two")));
    assert_eq!(ask(&tables, "www.example.com"), Ok("two".to_owned()));
    tables.remove_host("www.example.com");
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::CustomDomainNotFound));
}

#[test]
fn an_older_change_never_replaces_a_newer_one() {
    let tables = Tables::new();
    assert_eq!(publish(&tables, 7, Some(version("seven"))), Published::Current);
    assert_eq!(publish(&tables, 6, Some(version("six"))), Published::Outdated);
    assert_eq!(ask(&tables, "blog.libra.localhost"), Ok("seven".to_owned()));
    assert_eq!(publish(&tables, 7, Some(version("again"))), Published::Current);
    assert_eq!(tables.epoch(), 7);
}

#[test]
fn the_last_table_serves_until_the_record_says_otherwise() {
    let tables = Tables::new();
    tables.publish_worker(route(0, Some(version("kept"))));
    tables.publish_host("www.example.com", &CustomHost::Worker("blog".into()));
    tables.last_is_loaded();
    assert!(tables.is_loaded() && !tables.is_of_the_record());
    assert_eq!(ask(&tables, "blog.libra.localhost"), Ok("kept".to_owned()));
    assert_eq!(ask(&tables, "www.example.com"), Ok("kept".to_owned()));
    publish(&tables, 1, Some(version("recorded")));
    tables.hosts_are_at(1);
    assert!(tables.is_of_the_record());
    assert_eq!(ask(&tables, "www.example.com"), Ok("recorded".to_owned()));
}

#[test]
fn what_a_whole_reading_does_not_name_is_gone() {
    let tables = Tables::new();
    publish(&tables, 1, Some(version("one")));
    tables.publish_preview("0123456789ab--blog", version("kept"));
    tables.publish_preview("1123456789ab--blog", version("gone"));
    tables.retain_workers(|name| name != "blog", |label| label.starts_with('0'));
    assert_eq!(ask(&tables, "blog.libra.localhost"), Err(EdgeRefusal::WorkerNotFound));
    assert_eq!(ask(&tables, "1123456789ab--blog.libra.localhost"), Err(EdgeRefusal::DeploymentNotFound));
    assert_eq!(tables.counts(), Counts { workers: 0, previews: 1, hosts: 0 });
}

#[test]
fn a_worker_that_is_gone_is_reached_by_no_domain_and_by_all_of_them_when_it_is_back() {
    let tables = Tables::new();
    publish(&tables, 1, Some(version("one")));
    tables.publish_host("www.example.com", &CustomHost::Worker("blog".into()));
    tables.hosts_are_at(1);
    assert_eq!(ask(&tables, "www.example.com"), Ok("one".to_owned()));
    tables.retain_workers(|_| false, |_| false);
    assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
    assert_eq!(ask(&tables, "blog.libra.localhost"), Err(EdgeRefusal::WorkerNotFound));
    publish(&tables, 2, Some(version("two")));
    assert_eq!(ask(&tables, "www.example.com"), Ok("two".to_owned()));
    // Where no domain points at it, nothing of it is kept.
    tables.remove_host("www.example.com");
    tables.publish_worker(WorkerRoute { worker: "other".into(), ..route(3, None) });
    tables.retain_workers(|name| name == "blog", |_| false);
    assert_eq!(tables.counts(), Counts { workers: 1, previews: 0, hosts: 0 });
}

fn upstream(key: &str) -> Arc<Upstream> {
    use crate::runtime::upstream::{Parts, Reuse, trusted_authorities};
    let settings = crate::config::load(std::path::Path::new("/nowhere"), None, &Default::default());
    Arc::new(Upstream::new(Parts {
        key: key.into(),
        origins: Vec::new(),
        policy: settings.unwrap().settings.upstream.policy(),
        reuse: Reuse {
            threads: 1,
            idle_connections: 1,
            keep_idle: std::time::Duration::ZERO,
            look: std::time::Duration::from_secs(60),
            retries: 0,
            drain: std::time::Duration::ZERO,
            keep_names: std::time::Duration::ZERO,
        },
        may_connect: Arc::new(|_| false),
        tls: trusted_authorities(),
    }))
}

#[test]
fn an_upstream_is_retired_when_no_route_leads_to_it_any_more_and_not_before() {
    let tables = Tables::new();
    let publish = |epoch, live| tables.publish_worker(WorkerRoute { live, ..route(epoch, None) });
    let (one, two, late) = (upstream("1"), upstream("2"), upstream("0"));
    let is_retired = |upstream: &Upstream| upstream.retired().is_cancelled();
    publish(1, Live::Upstream(Arc::clone(&one)));
    publish(2, Live::Upstream(Arc::clone(&one)));
    assert_eq!(publish(0, Live::Upstream(Arc::clone(&late))), Published::Outdated);
    assert!(!is_retired(&one), "the same one is there still");
    publish(3, Live::Upstream(Arc::clone(&two)));
    assert!(is_retired(&one) && !is_retired(&two));
    tables.retain_workers(|_| true, |_| true);
    assert!(!is_retired(&two));
    tables.retain_workers(|_| false, |_| true);
    assert!(is_retired(&two));
}

#[test]
fn a_whole_reading_drops_the_domains_that_it_did_not_name() {
    let tables = Tables::new();
    publish(&tables, 1, Some(version("one")));
    let worker = CustomHost::Worker("blog".into());
    for host in ["a.example", "b.example", "c.example"] {
        tables.publish_host(host, &worker);
    }
    tables.hosts_are_at(1);
    // One that is given up halfway drops nothing.
    tables.hosts_reading_begins();
    tables.publish_host("a.example", &worker);
    tables.hosts_reading_begins();
    tables.publish_host("b.example", &worker);
    tables.publish_host("c.example", &CustomHost::Inactive);
    assert_eq!(tables.counts().hosts, 3);
    assert_eq!(tables.hosts_reading_ends(), 1);
    assert_eq!(ask(&tables, "a.example"), Err(EdgeRefusal::CustomDomainNotFound));
    assert_eq!(ask(&tables, "b.example"), Ok("one".to_owned()));
    assert_eq!(ask(&tables, "c.example"), Err(EdgeRefusal::CustomDomainInvalid));
}

#[test]
fn ten_thousand_switches_fail_no_request_and_never_go_back() {
    let tables = Tables::new();
    let versions: Vec<_> = (0..100).map(|at| version(&format!("{at}"))).collect();
    publish(&tables, 0, Some(versions[0].clone()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (rules, mut last, mut reads) = (rules(), 0, 0u64);
            while !done.load(Ordering::Acquire) {
                let class = rules.classify("blog.libra.localhost").unwrap();
                let resolved = tables.resolve(&rules, &class).unwrap();
                assert!(resolved.epoch >= last, "went back from {last} to {}", resolved.epoch);
                let Target::Worker(route) = &resolved.target else { panic!("{resolved:?}") };
                let Live::Site(version) = &route.live else { panic!("{route:?}") };
                assert_eq!(version.id(), (route.epoch % 100).to_string());
                last = resolved.epoch;
                reads += 1;
            }
            reads
        });
        for epoch in 1..=10_000u64 {
            publish(&tables, epoch, Some(versions[(epoch % 100) as usize].clone()));
        }
        done.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(tables.epoch(), 10_000);
}
