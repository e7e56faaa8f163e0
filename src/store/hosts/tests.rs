//! Readers of changed hosts: what they see, and what they are told of what they can't see any more.

use std::collections::HashMap;

use super::*;
use crate::domain::{Principal, ProjectId, TokenId};
use crate::store::projects::NewProject;

struct House {
    store: Store,
    _folder: tempfile::TempDir,
}

async fn house(hostnames: &[&str]) -> House {
    let folder = tempfile::tempdir().unwrap();
    let settings = crate::config::load(folder.path(), None, &HashMap::new()).unwrap().settings.database;
    let store = Store::open(&settings, &folder.path().join("db"), &folder.path().join("lock")).await.unwrap();
    let org = store.organization_create("hosts").await.unwrap();
    let user_id = store.user_create("hosts", &org).await.unwrap();
    let who =
        Principal { token_id: TokenId::random(), org_id: org, user_id, scopes: Vec::new(), admin: false };
    let new = NewProject {
        id: ProjectId::random(),
        name: "shop".into(),
        worker_name: "shop".into(),
        template: None,
        tree: None,
    };
    let project = store.project_create(&who.scope(), new).await.unwrap().id;
    let hostnames: Vec<String> = hostnames.iter().map(ToString::to_string).collect();
    store.bench_domains_fill(who.org_id.as_str(), &project, &hostnames).await.unwrap();
    House { store, _folder: folder }
}

impl House {
    async fn row(&self, hostname: &str) -> DomainRow {
        let found = custom_domain::Entity::find().filter(Column::Hostname.eq(hostname));
        found.one(&self.store.read).await.unwrap().unwrap()
    }

    async fn mark(&self, hostname: &str) -> i64 {
        let row = self.row(hostname).await;
        let tx = self.store.begin().await.unwrap();
        let epoch = host_changed(&tx, &row, Vec::new()).await.unwrap();
        tx.commit().await.unwrap();
        epoch
    }

    async fn sql(&self, sql: &str) {
        self.store.write.execute_unprepared(sql).await.unwrap();
    }

    /// Everything from `cursor` on, in pages of two.
    async fn read(&self, cursor: &mut HostCursor) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let page = self.store.host_changes(cursor, 2).await.unwrap();
            names.extend(page.names.into_iter().map(|(name, _)| name));
            *cursor = page.next;
            if page.is_last {
                return names;
            }
        }
    }
}

#[tokio::test]
async fn every_served_name_is_listed_once_whatever_the_size_of_a_page() {
    let house = house(&["a.example", "b.example", "c.example", "d.example", "e.example"]).await;
    house.sql("UPDATE custom_domain SET status = 'quarantined' WHERE hostname = 'b.example'").await;
    house.sql("UPDATE custom_domain SET redirect_to = 'a.example' WHERE hostname = 'c.example'").await;
    house.sql("UPDATE custom_domain SET redirect_to = 'b.example' WHERE hostname = 'd.example'").await;
    for limit in [1, 2, 4, 100] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = house.store.host_list(&after, limit).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.id.clone();
            seen.extend(page.into_iter().map(|d| (d.hostname, d.worker_name, d.redirect_to)));
        }
        seen.sort();
        let shop = |name: &str, to: Option<&str>| (name.to_owned(), "shop".to_owned(), to.map(str::to_owned));
        let a = Some("a.example");
        // Nobody is sent to a name that is not proved.
        let expected =
            [shop("a.example", None), shop("c.example", a), shop("d.example", None), shop("e.example", None)];
        assert_eq!(seen, expected, "in pages of {limit}");
    }
}

#[tokio::test]
async fn changes_are_read_once_in_order_and_none_is_left_out_between_pages() {
    let names = ["a.example", "b.example", "c.example", "d.example", "e.example"];
    let house = house(&names).await;
    let mut cursor = HostCursor::behind(house.store.host_marks().await.unwrap().epoch);
    assert!(house.read(&mut cursor).await.is_empty());
    for name in names {
        house.mark(name).await;
    }
    house.mark("b.example").await;
    assert_eq!(
        house.read(&mut cursor).await,
        ["a.example", "c.example", "d.example", "e.example", "b.example"]
    );
    assert!(house.read(&mut cursor).await.is_empty());

    // Several of one epoch, more than a page of them: whoever redirects to the one that changed.
    for name in &names[1..] {
        house
            .sql(&format!("UPDATE custom_domain SET redirect_to = 'a.example' WHERE hostname = '{name}'"))
            .await;
    }
    house.mark("a.example").await;
    assert_eq!(house.read(&mut cursor).await, names);

    // What a name leads to is what holds at the moment of the reading.
    house.mark("e.example").await;
    house.sql("UPDATE custom_domain SET status = 'failed' WHERE hostname = 'e.example'").await;
    let page = house.store.host_changes(&cursor, 2).await.unwrap();
    assert_eq!(page.names, [("e.example".to_owned(), None)]);
}

#[tokio::test]
async fn a_change_that_is_not_committed_moves_no_reader_past_it() {
    let house = house(&["a.example", "b.example"]).await;
    let mut cursor = HostCursor::behind(house.store.host_marks().await.unwrap().epoch);
    let row = house.row("a.example").await;
    let tx = house.store.begin().await.unwrap();
    let epoch = host_changed(&tx, &row, Vec::new()).await.unwrap();
    assert!(house.read(&mut cursor).await.is_empty());
    assert_eq!(cursor, HostCursor::behind(epoch - 1), "the reader waits before the epoch that was taken");
    tx.commit().await.unwrap();
    house.mark("b.example").await;
    assert_eq!(house.read(&mut cursor).await, ["a.example", "b.example"]);
}

#[tokio::test]
async fn epochs_that_nobody_marked_are_counted_and_stay_counted() {
    let house = house(&["a.example"]).await;
    let before = house.store.host_marks().await.unwrap();
    assert_eq!(before.unmarked, 0);
    // What the release before does.
    house.sql("UPDATE route_epoch SET epoch = epoch + 1").await;
    house.sql("UPDATE route_epoch SET epoch = epoch + 1").await;
    assert_eq!(house.store.host_marks().await.unwrap().unmarked, 2);
    house.mark("a.example").await;
    house.mark("a.example").await;
    let after = house.store.host_marks().await.unwrap();
    assert_eq!((after.unmarked, after.epoch), (2, before.epoch + 4));
    house.sql("UPDATE route_epoch SET epoch = epoch + 1").await;
    assert_eq!(house.store.host_marks().await.unwrap().unmarked, 3);
}

#[tokio::test]
async fn old_marks_are_forgotten_in_rounds_and_who_has_not_read_them_can_tell() {
    let names = ["a.example", "b.example", "c.example"];
    let house = house(&names).await;
    let late = HostCursor::behind(house.store.host_marks().await.unwrap().epoch);
    for name in names {
        house.mark(name).await;
    }
    let an_hour = 3_600_000;
    assert_eq!(house.store.host_forget(an_hour, 10).await.unwrap(), Forgotten { marks: 0, is_more: false });
    house.sql("UPDATE host_change SET changed_at = 1 WHERE hostname <> 'c.example'").await;
    assert_eq!(house.store.host_forget(an_hour, 1).await.unwrap(), Forgotten { marks: 1, is_more: true });
    assert_eq!(house.store.host_forget(an_hour, 1).await.unwrap(), Forgotten { marks: 1, is_more: true });
    assert_eq!(house.store.host_forget(an_hour, 1).await.unwrap(), Forgotten { marks: 0, is_more: false });
    let page = house.store.host_changes(&late, 10).await.unwrap();
    assert_eq!(page.names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["c.example"]);
    let read = page.marks;
    assert!(read.forgotten >= late.epoch, "two changes are missing");
    assert!(read.forgotten < page.next.epoch, "who has read up to now misses nothing");
    assert!(read.forgotten < house.mark("a.example").await);
}
