//! Outputs at the edge of what is taken: very many files, a very large one, and names with every trap that
//! Unicode has. Each is served as it was built or refused in words that name the reason.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::app::TestApp;

const MANIFEST: &str = r#"{"scripts":{"build":"node build.js"}}"#;

/// So many folders of 1000 names each. Of one file a folder: making files takes far longer.
const MANY: &str = r#"const fs = require("fs"); fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", "many");
    for (let d = 0; d < +process.env.FOLDERS; d++) { fs.mkdirSync("dist/" + d); fs.writeFileSync(`dist/${d}/0.txt`, String(d));
        for (let f = 1; f < 1000; f++) fs.linkSync(`dist/${d}/0.txt`, `dist/${d}/${f}.txt`); }"#;

/// 300 MB of counted lines of 64 bytes.
const LARGE: &str = r#"const fs = require("fs"); fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", "large");
    const lines = Buffer.alloc(1 << 20, "x"), file = fs.openSync("dist/large.bin", "w");
    for (let i = 0; i < 300; i++) { lines.write(String(i).padStart(3, "0")); fs.writeSync(file, lines); }"#;
const LARGE_BYTES: u64 = 300 << 20;

/// The most memory that a server ever had, in MiB.
fn peak_mib(app: &TestApp) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", app.server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Deploys what must be refused at once; the cause as a member sees it.
async fn refused(app: &TestApp, body: &Value) -> Value {
    let id = app.deploy(body).await;
    let public = app.until_final(&id).await;
    let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
    let cause = member["deployment"]["cause"].clone();
    assert_eq!((&public["status"], &public["attempt"]), (&json!("failed"), &json!(1)), "{cause:#}");
    assert_eq!((&cause["class"], &cause["step"]), (&json!("user"), &json!("build")), "{cause:#}");
    app.nothing_is_left_of(&[id]).await;
    cause
}

fn evidence(cause: &Value) -> &str {
    cause["evidence"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn two_hundred_thousand_files_are_refused_by_number_and_those_up_to_the_limit_served() {
    // The page, two folders and what is in them.
    let app = TestApp::start_with(&[("LIBRA__PIPELINE__OUTPUT_FILES", "2003")]).await;
    let before = peak_mib(&app);
    let (project, worker) = app.project("many").await;
    let of = |folders: &str| {
        let mut body = app.body(&project, &[("package.json", MANIFEST), ("build.js", MANY)]);
        body["env"] = json!({ "FOLDERS": folders });
        body
    };
    let cause = refused(&app, &of("200")).await;
    assert_eq!(cause["summary"], "The build's output can't be taken.");
    assert_eq!(evidence(&cause), "the output has more than 2003 files", "{cause:#}");
    assert_eq!(app.worker(&worker, "/").await.status(), StatusCode::NOT_FOUND);
    app.deploy_live(&of("2")).await;
    for (path, text) in [("/0/0.txt", "0"), ("/0/999.txt", "0"), ("/1/500.txt", "1"), ("/", "many")] {
        assert_eq!(app.worker(&worker, path).await.text().await.unwrap(), text, "{path}");
    }
    assert_eq!(app.one("SELECT file_count FROM version"), "2001");
    let peak = peak_mib(&app);
    assert!(peak < before + 100, "{before} MiB became {peak}");
}

#[tokio::test]
async fn a_file_of_300_mib_is_refused_by_name_or_streamed() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("large").await;
    let files = [("package.json", MANIFEST), ("build.js", LARGE)];
    let cause = refused(&app, &app.body(&project, &files)).await;
    assert!(
        evidence(&cause).contains("`large.bin` in the output is larger than 268435456 bytes"),
        "{cause:#}"
    );

    let app = app.restart_after_kill(&[("LIBRA__PIPELINE__OUTPUT_FILE_BYTES", "400000000")]);
    let before = peak_mib(&app);
    app.deploy_live(&app.body(&project, &files)).await;
    let mut answer = app.worker(&worker, "/large.bin").await;
    assert_eq!(answer.content_length(), Some(LARGE_BYTES));
    let mut got = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        got += chunk.len() as u64;
    }
    assert_eq!(got, LARGE_BYTES);
    let part = app.http.get(format!("http://{}/large.bin", app.server.address));
    let part = part.header("host", format!("{worker}.{}", crate::app::BASE));
    let part = part.header("range", format!("bytes={}-{}", 299 << 20, (299 << 20) + 3)).send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.text().await.unwrap()), (206, "299x".into()));
    // Never held whole, neither to pack, store and fetch it nor to serve it.
    let peak = peak_mib(&app);
    assert!(peak < before + 200, "{before} MiB became {peak}");
}

/// Names that ext4 takes and that somebody, somewhere, takes for something else.
const NAMES: &[&str] = &[
    // One letter or two; the same in another form, case, language.
    "caf\u{e9}.txt",
    "cafe\u{301}.txt",
    "stra\u{df}e.txt",
    "strasse.txt",
    "STRASSE.txt",
    "\u{1e9e}.txt",
    "\u{130}.txt",
    "i\u{307}.txt",
    "I.txt",
    "i.txt",
    "\u{131}.txt",
    "\u{212a}.txt",
    "K.txt",
    "k.txt",
    "\u{fb01}.txt",
    "fi.txt",
    // What is not seen, or turns what is seen around.
    "\u{202e}txt.exe",
    "ab.txt",
    "a\u{200b}b.txt",
    "a\u{ad}b.txt",
    "\u{feff}ab.txt",
    "a\u{2028}b.txt",
    "ab.txt\u{a0}",
    "\u{e0061}.txt",
    "\u{1f468}\u{200d}\u{1f469}.txt",
    // The edges of what is a character.
    "\u{d7ff}.txt",
    "\u{e000}.txt",
    "\u{fffd}.txt",
    "\u{ffff}.txt",
    "\u{10ffff}.txt",
    // What passes for dots and slashes.
    "...",
    "..a",
    "a..",
    "\u{ff0e}\u{ff0e}\u{ff0f}x",
    "\u{2024}\u{2024}/x",
    "\u{2215}etc\u{2215}passwd",
    "%2e%2e/x",
    "%2fetc",
    "%00",
    "%",
    // What other systems drop, keep for themselves or read as an order.
    "dot",
    "dot.",
    "dot..",
    "space",
    "space ",
    " space",
    "CON",
    "nul.txt",
    "COM1",
    "a.txt::$DATA",
    "desktop.ini",
    "~",
    "-rf",
    "*",
    "|x",
    "$(id)",
    "`id`",
    "<b>.txt",
    "\"q'.txt",
    "a&b;c=d,e.txt",
    "a+b.txt",
    "a b.txt",
    "q?x=1.txt",
    "h#x.txt",
    ".hidden",
    ".well-known/x.txt",
];

/// Names that are forms of one above, and of no file.
const NEITHER: &[&str] =
    &["Caf\u{e9}.txt", "ab.TXT", "COM1.", "com1", "dot...", "a\u{200c}b.txt", "I\u{307}.txt", "%2E%2E/x"];

/// Each file holds its own name.
const NAMED: &str = r#"const fs = require("fs"), path = require("path");
    for (const name of JSON.parse(fs.readFileSync("names.json", "utf8"))) {
        fs.mkdirSync(path.dirname("dist/" + name), { recursive: true }); fs.writeFileSync("dist/" + name, JSON.stringify(name)); }
    fs.writeFileSync("dist/index.html", "named");"#;

/// As an address, with everything encoded that is no letter, digit or dot.
fn address(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
    let letter = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    format!("/{}", name.bytes().map(letter).collect::<String>())
}

#[tokio::test]
async fn names_with_every_trap_of_unicode_are_served_each_as_itself() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("names").await;
    // As long as a name can be, and nearly as long as a path.
    let (long, deep) = (format!("{}aaa", "\u{1f600}".repeat(63)), format!("{}x.txt", "long.".repeat(40)));
    let deep = format!("{deep}/{deep}/{deep}/{deep}");
    let names: Vec<&str> = NAMES.iter().copied().chain([long.as_str(), deep.as_str()]).collect();
    let listed = serde_json::to_string(&names).unwrap();
    let files = [("package.json", MANIFEST), ("build.js", NAMED), ("names.json", &*listed)];
    app.deploy_live(&app.body(&project, &files)).await;
    assert_eq!(app.one("SELECT file_count FROM version"), (names.len() + 1).to_string());
    for name in &names {
        let answer = app.worker(&worker, &address(name)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{name:?}");
        let text = answer.text().await.unwrap();
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), *name);
    }
    for name in NEITHER {
        assert_eq!(app.worker(&worker, &address(name)).await.status(), StatusCode::NOT_FOUND, "{name:?}");
    }
    // What no file can be called: half a letter, a surrogate, an encoded NUL or slash.
    for path in ["/%C3", "/%ED%A0%80.txt", "/a%00b.txt", "/%2e%2e%2fx", "/..%2f", "/%FF.txt"] {
        assert_eq!(app.worker(&worker, path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_name_that_can_not_be_served_is_named_in_plain_letters() {
    let app = TestApp::start().await;
    let (project, _) = app.project("unnameable").await;
    for (name, said) in [
        // A surrogate alone, as UTF-16 programs leave it.
        (r#"Buffer.from("dist/\xed\xa0\x80.txt", "latin1")"#, "is not UTF-8"),
        (r#""dist/a\u001b[2Jb.txt""#, r"`a\u{1b}[2Jb.txt`"),
        (r#""dist/C:x.txt""#, "`C:x.txt` names a drive"),
    ] {
        let script = format!(
            r#"const fs = require("fs"); fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", "x"); fs.writeFileSync({name}, "x");"#
        );
        let cause =
            refused(&app, &app.body(&project, &[("package.json", MANIFEST), ("build.js", &script)])).await;
        assert!(evidence(&cause).contains(said), "{name}: {cause:#}");
        assert!(!evidence(&cause).chars().any(char::is_control), "{name}: {cause:#}");
    }
}
