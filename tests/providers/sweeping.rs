//! Leftovers at a remote provider: what nobody holds goes, what somebody holds or somebody else made
//! stays, and a sandbox can be found again by its id.

use bytes::Bytes;

use crate::bench::{Bench, REMOTE, run, script};

#[tokio::test]
async fn what_nobody_holds_goes_with_the_second_sweep() {
    for name in REMOTE {
        let bench = Bench::new(name);
        for id in ["left.1", "left.2", "held.1"] {
            // As when its server is killed: nobody says goodbye.
            std::mem::forget(bench.sandbox(id).await);
        }
        bench.server().make_foreign();
        let keep = |id: &str| id == "held.1";
        let next = bench.second();
        assert_eq!(next.sweep(&keep).await.unwrap().sandboxes, 0, "{name}");
        assert_eq!(bench.server().boxes().len(), 4, "{name}");
        // Held meanwhile by a server whose lease was not seen before.
        let both = |id: &str| keep(id) || id == "left.2";
        assert_eq!(next.sweep(&both).await.unwrap().sandboxes, 1, "{name}");
        assert_eq!(next.sweep(&keep).await.unwrap().sandboxes, 0, "{name}");
        assert_eq!(next.sweep(&keep).await.unwrap().sandboxes, 1, "{name}");
        let left: Vec<_> = bench.server().boxes().iter().map(|l| l.get("libra-sandbox").cloned()).collect();
        assert!(
            left.len() == 2 && left.contains(&None) && left.contains(&Some("held.1".into())),
            "{name}: {left:?}"
        );
    }
}

#[tokio::test]
async fn a_sandbox_is_found_again_by_its_id() {
    for name in REMOTE {
        let bench = Bench::new(name);
        // More than a page of them.
        for number in 1..=4 {
            let mut sandbox = bench.sandbox(&format!("again.{number}")).await;
            let file = ("x".to_owned(), Bytes::from(number.to_string()));
            sandbox.write_files(vec![file]).await.unwrap();
            std::mem::forget(sandbox);
        }
        let next = bench.second();
        assert!(next.reconnect(bench.order("again.9")).await.unwrap().is_none(), "{name}");
        for number in 1..=4 {
            let id = format!("again.{number}");
            let mut sandbox = next.reconnect(bench.order(&id)).await.unwrap().unwrap();
            assert_eq!(sandbox.id(), id, "{name}");
            let ran =
                run(&mut *sandbox, script("console.log(require('fs').readFileSync('x', 'utf8'))")).await;
            assert_eq!(ran.must_succeed().output.trim(), number.to_string(), "{name}");
            sandbox.destroy().await.unwrap();
        }
        assert!(bench.server().boxes().is_empty(), "{name}");
    }
}
