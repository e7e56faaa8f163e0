//! `libra doctor` on machines that lack something: it says what, and how to mend it.

use std::process::Output;

use serde_json::Value;

use crate::app::{Folder, Settings};

/// Findings of one run: check, whether it holds, what was said.
fn examine(folder: &Folder, settings: Settings<'_>) -> (Output, Vec<(String, bool, String)>) {
    let output = folder.libra(settings).args(["doctor", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let findings = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|l| {
            let word = |key: &str| l[key].as_str().unwrap().to_owned();
            (word("check"), l["ok"].as_bool().unwrap(), word("message"))
        })
        .collect();
    (output, findings)
}

#[test]
fn what_is_missing_is_named_with_the_way_to_mend_it() {
    let folder = Folder::embedded();
    let tools = folder.path().join("no-tools").display().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|a| (taken, a.to_string())).unwrap();
    let lacking = [
        ("LIBRA__TOOLS_DIR", tools.as_str()),
        ("PATH", "/nowhere"),
        ("LIBRA__HTTP__LISTEN", taken.1.as_str()),
    ];
    let (output, findings) = examine(&folder, &lacking);
    assert_eq!(output.status.code(), Some(1), "{findings:?}");
    for (check, what, mend) in [
        ("nats-server", "is not there, nor in PATH", "`make install`"),
        ("node for builds", "bin/node is not there", "`make install`"),
        ("npm for builds", "is not there", "`make install`"),
        ("isolation", "bubblewrap is not installed", "apt-get install bubblewrap"),
        ("isolation", "Node for builds is not in tools_dir", "`make install`"),
        ("listener", &taken.1, "stop what listens there, or set http.listen"),
    ] {
        let said =
            |f: &&(String, bool, String)| f.0 == check && !f.1 && f.2.contains(what) && f.2.contains(mend);
        assert!(findings.iter().any(|f| said(&f)), "{check}, {what}: {findings:#?}");
    }
    // For people: the same, and what to do then.
    let shown = folder.libra(&lacking).arg("doctor").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("MISSING  isolation") && shown.contains("5 things are missing or broken"),
        "{shown}"
    );
    // It only looks.
    assert!(!folder.data().exists());
}

#[test]
fn a_whole_machine_is_well_and_a_killed_server_is_not_taken_for_a_running_one() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let pid = server.pid();
    let (output, findings) = examine(&folder, &[]);
    assert_eq!(output.status.code(), Some(0), "{findings:#?}");
    let running = format!("a server runs on this data_dir (process {pid})");
    assert!(findings.iter().any(|f| f.2 == running), "{findings:#?}");
    assert!(findings.iter().any(|f| f.0 == "database" && f.2.starts_with("answers (")), "{findings:#?}");
    server.kill();
    let (_, findings) = examine(&folder, &[]);
    assert!(folder.data().join("server.json").exists());
    assert!(findings.iter().any(|f| f.0 == "listener" && f.2.contains("is free")), "{findings:#?}");
}
