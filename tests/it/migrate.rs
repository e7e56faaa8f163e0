//! The schema up and down, by one program at a time, beside releases that are older or newer.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::app::{Folder, PATIENCE, Settings, TestApp};
use crate::parts::Ground;

/// `libra migrate …` here: exit code, and both outputs as one.
fn migrate(folder: &Folder, settings: Settings<'_>, words: &[&str]) -> (i32, String) {
    let output = folder.libra(settings).arg("migrate").args(words).output().unwrap();
    (output.status.code().unwrap(), both(&output))
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Name and state of each change.
fn status(folder: &Folder) -> Vec<(String, String)> {
    let (code, text) = migrate(folder, &[], &["status", "--json"]);
    assert_eq!(code, 0, "{text}");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines.map(|line| (word(&line, "name"), word(&line, "state"))).collect()
}

/// What a server says that refuses to start here, and its exit code.
fn refusal(folder: &Folder, settings: Settings<'_>) -> (i32, String) {
    let mut command = folder.libra(settings);
    command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let server = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (sender, refused) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = refused.recv_timeout(PATIENCE);
    let Ok(output) = output else {
        nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).unwrap();
        panic!("it serves");
    };
    let output = output.unwrap();
    (output.status.code().unwrap(), both(&output))
}

#[tokio::test]
async fn the_newest_change_goes_down_and_up_again_and_what_was_recorded_stays() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("migrated").await;
    let id = app.deploy_live(&app.body(&project, &[("index.html", "kept")])).await;
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    let recorded = crate::app::rows(&folder, "SELECT id, status FROM deployment");
    let newest = status(&folder).last().unwrap().clone();
    assert!(status(&folder).iter().all(|(_, state)| state == "applied"));

    let (code, said) = migrate(&folder, &[], &["down"]);
    assert!(code == 2 && said.contains("--yes"), "{said}");
    let (code, said) = migrate(&folder, &[], &["down", "--yes"]);
    assert!(code == 0 && said.contains(&newest.0), "{said}");
    assert_eq!(status(&folder).last().unwrap(), &(newest.0.clone(), "pending".to_owned()));
    assert_eq!(crate::app::rows(&folder, "SELECT id, status FROM deployment"), recorded);

    // A server that may not migrate says what to do, and changes nothing.
    let (code, said) = refusal(&folder, &[("LIBRA__DATABASE__MIGRATE", "false")]);
    assert!(code == 69 && said.contains("libra migrate up"), "{code} {said}");
    assert_eq!(status(&folder).last().unwrap().1, "pending");
    let (code, said) = migrate(&folder, &[], &["up", "--to", "m0099_nothing"]);
    assert!(code == 2 && said.contains("no change named m0099_nothing"), "{said}");
    let (code, said) = migrate(&folder, &[], &["up", "--to", &newest.0]);
    assert!(code == 0 && said.contains(&newest.0), "{said}");
    assert_eq!(migrate(&folder, &[], &[]), (0, "nothing to do\n".to_owned()));
    // Behind the first release's tables there is nothing to go back to.
    let (code, said) = migrate(&folder, &[], &["down", "--yes", "--steps", "99"]);
    assert!(code == 1 && said.contains("can't be taken back"), "{code} {said}");
    assert!(status(&folder).iter().all(|(_, state)| state == "applied"), "all or nothing");

    let server = folder.serve(&[("LIBRA__DATABASE__MIGRATE", "false")]);
    let app = TestApp::on(folder, server);
    assert_eq!(app.status(&id).await["status"], "completed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "kept");
}

#[tokio::test]
async fn a_newer_releases_schema_is_lived_with_until_it_is_contracted() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("older").await;
    app.deploy_live(&app.body(&project, &[("index.html", "before")])).await;
    let applied =
        |name: &str| format!("INSERT INTO schema_change (version, applied_at) VALUES ('{name}', 1)");
    app.change(&applied("m9000_more"));
    // Expanded: what the newer release added is none of this one's business.
    // Also while this one is at work.
    for table in ["project", "deployment", "project_target", "version"] {
        app.change(&format!("ALTER TABLE {table} ADD COLUMN of_a_newer_release BIGINT NULL"));
    }
    app.deploy_live(&app.body(&project, &[("index.html", "served at once")])).await;
    let app = app.restart_after_kill(&[]);
    app.deploy_live(&app.body(&project, &[("index.html", "served")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "served");
    let newest = status(&app.folder).last().unwrap().clone();
    assert_eq!(newest, ("m9000_more".to_owned(), "applied by a newer release".to_owned()));
    let (code, said) = migrate(&app.folder, &[], &["down", "--yes"]);
    assert!(code == 1 && said.contains("newer release"), "{said}");

    app.change(&applied("m9001_contract_less"));
    let TestApp { folder, server, .. } = app;
    server.kill();
    for (code, said) in [refusal(&folder, &[]), migrate(&folder, &[], &["up"])] {
        assert!(code == 69 && said.contains("m9001_contract_less"), "{code} {said}");
    }
}

#[test]
fn programs_that_start_at_once_make_one_schema_between_them() {
    let folder = Folder::new();
    // A server's folders are its own, as on hosts of their own: no file lock is between them. What is
    // embedded lies in one folder.
    let programs: Vec<_> = (0..6)
        .map(|number| {
            let own = folder.path().join(format!("host-{number}")).display().to_string();
            let apart = [("LIBRA__DATA_DIR", own.as_str())];
            let settings = if folder.ground.cluster().is_some() { &apart[..] } else { &[] };
            let mut command = folder.libra(settings);
            command.args(["migrate", "up", "--json"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut made = Vec::new();
    for program in programs {
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", both(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        made.extend(document["changes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()));
    }
    let all: Vec<String> = status(&folder).into_iter().map(|(name, _)| name).collect();
    assert_eq!(made, all, "each change once, by whoever came first");
}

#[tokio::test]
async fn a_login_without_the_right_to_make_tables_serves_a_schema_that_is_there_and_is_told_of_one_that_is_not()
 {
    let folder = Folder::new();
    let (settings, may_serve): (Vec<(&str, String)>, bool) = match &folder.ground {
        Ground::Production(parts) => {
            (vec![("LIBRA__DATABASE__URL", parts.database.url(&parts.database.lesser_role()))], true)
        }
        Ground::Embedded => {
            std::fs::create_dir_all(folder.data().join("database")).unwrap();
            let file = crate::parts::sqlite_file(&folder.data());
            std::fs::write(&file, "").unwrap();
            (vec![("LIBRA__DATABASE__URL", format!("sqlite://{}?mode=ro", file.display()))], false)
        }
    };
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let (code, said) = refusal(&folder, &settings);
    assert_eq!(code, 69, "{said}");
    assert!(!said.contains("CREATE TABLE"), "no statements for people: {said}");
    if let Ground::Production(parts) = &folder.ground {
        assert!(said.contains("may create tables run `libra migrate up`"), "{said}");
        let doctor = folder.libra(&settings).args(["doctor", "--json"]).output().unwrap();
        let found = both(&doctor);
        assert!(found.contains("may not create tables") && found.contains(", encrypted"), "{found}");
        assert_eq!(migrate(&folder, &[], &["up"]).0, 0);
        crate::parts::run(parts.database.psql().args([
            "-c",
            &format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lesser_{}",
                parts.database.name()
            ),
        ]));
    } else {
        assert_eq!(std::fs::metadata(crate::parts::sqlite_file(&folder.data())).unwrap().len(), 0);
    }
    let serving = if may_serve { settings } else { Vec::new() };
    let server = folder.serve(&serving);
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("lesser").await;
    app.deploy_live(&app.body(&project, &[("index.html", "served")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "served");
}
