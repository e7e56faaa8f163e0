//! A database that commits and whose answer never comes: what was recorded stands once, and nobody is told otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::app::{TestApp, answer};
use crate::failing::quick;
use crate::parts::postgres::{Cluster, Database};

/// Passes everything on between a server and its PostgreSQL, but for the answer to a commit that it was told to lose:
/// then both connections end.
#[derive(Clone, Default)]
struct Between {
    /// What a statement of the transaction has in it.
    needle: Arc<Mutex<Option<String>>>,
    lost: Arc<AtomicU32>,
}

impl Between {
    async fn start(postgres: u16) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let between = Self::default();
        let serving = between.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let serving = serving.clone();
                // A connection that ends early is what this is for.
                tokio::spawn(async move { drop(serving.pass(client, postgres).await) });
            }
        });
        (between, port)
    }

    /// The next commit of a transaction with such a statement loses its answer.
    fn lose(&self, needle: &str) {
        *self.needle.lock().unwrap() = Some(needle.to_owned());
    }

    /// Takes the order, if this transaction is the one.
    fn is_it(&self, statements: &[String]) -> bool {
        let mut needle = self.needle.lock().unwrap();
        let found = needle.as_ref().is_some_and(|n| statements.iter().any(|s| s.contains(n)));
        if found {
            *needle = None;
        }
        found
    }

    async fn pass(&self, client: TcpStream, postgres: u16) -> std::io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", postgres)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let losing = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&losing);
        let between = self.clone();
        let up = async move {
            // The first message has no kind.
            let size = from_client.read_u32().await?;
            to_server.write_u32(size).await?;
            let mut body = vec![0; size as usize - 4];
            from_client.read_exact(&mut body).await?;
            to_server.write_all(&body).await?;
            let mut prepared: HashMap<String, String> = HashMap::new();
            let mut statements: Vec<String> = Vec::new();
            loop {
                let kind = from_client.read_u8().await?;
                let size = from_client.read_u32().await?;
                let mut body = vec![0; size as usize - 4];
                from_client.read_exact(&mut body).await?;
                let words: Vec<String> =
                    body.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
                match kind {
                    b'P' => drop(prepared.insert(words[0].clone(), words[1].clone())),
                    b'B' => statements.extend(prepared.get(&words[1]).cloned()),
                    b'Q' if words[0].starts_with("BEGIN") => statements.clear(),
                    b'Q' if words[0].starts_with("COMMIT") && between.is_it(&statements) => told.notify_one(),
                    _ => {}
                }
                let whole = [&[kind], size.to_be_bytes().as_slice(), &body].concat();
                to_server.write_all(&whole).await?;
            }
        };
        let lost = Arc::clone(&self.lost);
        let down = async move {
            let mut piece = vec![0; 64 << 10];
            loop {
                tokio::select! {
                    biased;
                    () = losing.notified() => {
                        // It has committed when it answers.
                        let read = from_server.read(&mut piece).await?;
                        assert!(read > 0, "no answer");
                        lost.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    read = from_server.read(&mut piece) => match read? {
                        0 => return Ok(()),
                        read => to_client.write_all(&piece[..read]).await?,
                    },
                }
            }
        };
        tokio::select! {
            ended = up => ended,
            ended = down => ended,
        }
    }

    async fn until_lost(&self, app: &TestApp, count: u32) {
        app.wait("the answer was lost", async || self.lost.load(Ordering::SeqCst) == count).await;
    }
}

/// What is asked of the record, and what its statements have in them.
const COMMITS: &[(&str, &str)] = &[
    ("the POST", "INSERT INTO \"deployment\" ("),
    ("the claim", "\"fence\" = \"fence\" +"),
    ("a step", "UPDATE \"deployment_step\" SET \"status\" = $1, \"finished_at\""),
    ("the version", "INSERT INTO \"version\" ("),
    ("the switch", "UPDATE \"project_target\" SET \"live_seq\""),
    ("the end", "UPDATE \"project\" SET \"tree_digest\""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_happens_once_and_costs_no_attempt() {
    let database = Database::create(Cluster::shared());
    let (between, port) = Between::start(database.cluster().port()).await;
    let url = database.url_by(port);
    // In plain text, so that what is in between can read it.
    let place = [("LIBRA__DATABASE__URL", url.as_str()), ("LIBRA__DATABASE__CA_FILE", "")];
    let app = TestApp::start_with(&quick(&place)).await;
    let (project, worker) = app.project("lost answers").await;
    for (number, (what, needle)) in COMMITS.iter().enumerate() {
        let page = format!("<h1>{what}</h1>");
        between.lose(needle);
        let id = app.deploy(&app.body(&project, &[("index.html", &page)])).await;
        let document = app.until_final(&id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&json!("completed"), &json!(1)),
            "{what}: {document:#}"
        );
        between.until_lost(&app, u32::try_from(number).unwrap() + 1).await;
        let switches = "SELECT count(*) FROM deployment_event WHERE kind = 'switched' AND deployment_id =";
        assert_eq!(database.one(&format!("{switches} '{id}'")), "1", "{what}");
        let count = database.one("SELECT count(*) FROM deployment");
        assert_eq!(count, (number + 1).to_string(), "{what}");
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), page);
    }
    let balance = "SELECT reserved || ' ' || settled || ' ' || released FROM quota_period";
    assert_eq!(database.one(balance), format!("0 {} 0", COMMITS.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_whose_answer_is_lost_is_no_cancel_that_came_too_late() {
    let database = Database::create(Cluster::shared());
    let (between, port) = Between::start(database.cluster().port()).await;
    let url = database.url_by(port);
    // In plain text, so that what is in between can read it.
    let place = [("LIBRA__DATABASE__URL", url.as_str()), ("LIBRA__DATABASE__CA_FILE", "")];
    let app = TestApp::start_with(&quick(&place)).await;
    let (project, _) = app.project("cancelled").await;
    app.hold(&format!("build.begin@{project}")).await;
    let running = app.deploy(&app.body(&project, &[("index.html", "one")])).await;
    app.until_held(&running, "build").await;
    let waiting = app.deploy(&app.body(&project, &[("index.html", "two")])).await;
    let cancel = async |id: &str| -> (u16, Value) {
        let path = format!("/api/v1/deployments/{id}/cancel");
        let (status, body) = answer(app.request(Method::POST, &path).send().await.unwrap()).await;
        (status.as_u16(), body)
    };
    between.lose("\"cancel_reason\" = $");
    let (status, body) = cancel(&waiting).await;
    assert_eq!((status, &body["state"]["status"]), (202, &json!("cancelled")), "{body:#}");
    between.until_lost(&app, 1).await;
    between.lose("\"cancel_requested_at\" = $");
    let (status, body) = cancel(&running).await;
    assert_eq!(status, 202, "{body:#}");
    between.until_lost(&app, 2).await;
    app.release(&format!("build.begin@{project}")).await;
    assert_eq!(app.until_final(&running).await["status"], "cancelled");
    assert_eq!(cancel(&waiting).await.0, 409, "a second one did come too late");
    let released = database.one("SELECT reserved || ' ' || settled || ' ' || released FROM quota_period");
    assert_eq!(released, "0 1 1");
}
