//! What is told, and that it is what is done.

use proptest::prelude::*;

use super::*;
use crate::routing::{CustomHost, Split};
use crate::runtime::Manifest;

fn version(id: &str) -> Arc<SiteVersion> {
    let manifest = Manifest { version: 1, files: vec![], pack_digest: "00".repeat(32), pack_size: 0 };
    Arc::new(SiteVersion::new(id, "blog".into(), "/nowhere".into(), 0, &manifest).unwrap())
}

fn rules() -> HostRules {
    HostRules::new("libra.localhost", &["console.example.com".into()], &["shop".into()]).unwrap()
}

fn tables(workers_loaded: bool, hosts_loaded: bool) -> Tables {
    let tables = Tables::new();
    let route = |worker: &str, org: &str, live| WorkerRoute {
        worker: worker.into(),
        org_id: org.into(),
        project_id: "p".into(),
        live,
        epoch: 3,
    };
    tables.publish_worker(route("blog", "ours", Live::Site(version("v-blog"))));
    tables.publish_worker(route("theirs", "other", Live::Site(version("v-theirs"))));
    tables.publish_worker(route("empty", "other", Live::Nothing));
    let split = Split { live: version("v-one"), other: version("v-two"), percent: 20 };
    tables.publish_worker(route("split", "ours", Live::Split(Arc::new(split))));
    tables.publish_preview("0123456789ab--blog", version("v-preview"));
    for (host, to) in [
        ("www.example.com", CustomHost::Worker("blog".into())),
        ("their.example.com", CustomHost::Worker("theirs".into())),
        ("empty.example.com", CustomHost::Worker("empty".into())),
        ("example.com", CustomHost::Redirect("www.example.com".into())),
        ("off.example.com", CustomHost::Inactive),
    ] {
        tables.publish_host(host, &to);
    }
    if workers_loaded {
        tables.workers_are_at(3);
    }
    if hosts_loaded {
        tables.hosts_are_at(1);
    }
    tables
}

fn told(authority: &str, viewer: Viewer<'_>) -> Explained {
    let asked = Asked { authority, path: "/x", query: None, named: Some(Ok(None)) };
    explain(&asked, &rules(), &tables(true, true), viewer)
}

fn text(explained: &Explained) -> String {
    let line = |step: &Step| format!("{} {} {}\n", step.rule.as_str(), step.matched, step.why);
    explained.steps.iter().map(line).collect()
}

#[test]
fn each_rule_that_was_tried_is_told_in_order() {
    let found = told("Blog.Libra.localhost:3008", Some("ours"));
    let order: Vec<(Rule, bool)> = found.steps.iter().map(|s| (s.rule, s.matched)).collect();
    assert_eq!(
        order,
        [
            (Rule::Authority, true),
            (Rule::PlatformHost, false),
            (Rule::BaseLabel, true),
            (Rule::WorkerTable, true),
            (Rule::Target, true),
            (Rule::SiteRules, false),
            (Rule::File, false),
        ]
    );
    assert!(text(&found).contains("v-blog"));
    let split = text(&told("split.libra.localhost", None));
    assert!(split.contains("80 % of clients get version v-one, 20 % version v-two"), "{split}");
    assert!(text(&told("example.com", None)).contains("308 to 'www.example.com'"));
    assert!(text(&told("shop.libra.localhost", None)).contains("Subdomain 'shop' is reserved"));
    let preview = told("0123456789ab--blog.libra.localhost", Some("ours"));
    assert!(preview.is_visible && text(&preview).contains("v-preview"));
    assert_eq!(told("console.example.com", None).strategy, "platform");
}

#[test]
fn a_tenant_learns_nothing_of_anothers_worker() {
    for host in ["theirs.libra.localhost", "their.example.com"] {
        let found = told(host, Some("ours"));
        assert!(!found.is_visible, "{host}");
        let text = text(&found);
        assert!(text.contains("belongs to another organization"), "{text}");
        assert!(!text.contains("v-theirs"), "{text}");
        assert!(told(host, None).is_visible && self::text(&told(host, None)).contains("v-theirs"));
    }
    // One that exists without a live version looks like one that does not.
    let same = |host: &str, name: &str| text(&told(host, Some("ours"))).replace(name, "NAME");
    let (empty, nobody) = (same("empty.libra.localhost", "empty"), same("nobody.libra.localhost", "nobody"));
    assert_eq!(empty, nobody);
}

#[test]
fn path_and_query_lead_as_they_are_told_to() {
    let named = |by_query| Named { worker: "blog", by_query, path: "/y", query: None };
    for (by_query, strategy) in [(false, "path"), (true, "query")] {
        let named = Some(Ok(Some(named(by_query))));
        let asked = Asked { authority: "libra.localhost", path: "/dispatch/blog/y", query: None, named };
        let found = explain(&asked, &rules(), &tables(true, true), None);
        assert_eq!(found.strategy, strategy);
        assert!(matches!(found.winner, Ok(Some(Target::Worker(_)))), "{found:?}");
    }
}

fn short(target: &Target) -> String {
    match target {
        Target::Worker(route) => format!("worker {} {}", route.worker, route.epoch),
        Target::Preview(version) => format!("preview {}", version.id()),
        Target::Redirect(to) => format!("redirect {to}"),
    }
}

const HOSTS: &str = "(blog|Blog|theirs|empty|split|nobody|shop|0123456789ab--blog|1123456789ab--blog|www|their|off|a\\.b|[a-zA-Z0-9_-]{0,6})(\\.libra\\.localhost|\\.example\\.com|libra\\.localhost|example\\.com|console\\.example\\.com|)\\.?(:[0-9]{1,5}|)";

proptest! {
    #[test]
    fn what_is_told_is_what_is_done(host in HOSTS, workers in any::<bool>(), custom in any::<bool>(), ours in any::<bool>()) {
        let (rules, tables) = (rules(), tables(workers, custom));
        let asked = Asked { authority: &host, path: "/", query: None, named: Some(Ok(None)) };
        let told = explain(&asked, &rules, &tables, ours.then_some("ours"));
        let told_winner = told.winner.as_ref().map(|target| target.as_ref().map(short));
        match rules.classify(&host) {
            Ok(HostClass::Platform) => prop_assert_eq!(told_winner, Ok(None)),
            Err(refusal) => prop_assert_eq!(told_winner, Err(&refusal)),
            Ok(class) => match tables.resolve(&rules, &class) {
                Ok(resolved) => prop_assert_eq!(told_winner, Ok(Some(short(&resolved.target)))),
                Err(refusal) => prop_assert_eq!(told_winner, Err(&refusal)),
            },
        }
    }
}
