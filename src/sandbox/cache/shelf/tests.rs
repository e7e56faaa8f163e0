//! Who uses an entry keeps it, whoever wants it gone: the budget, the sweep, or one that wants it for himself.

use std::time::{Duration, SystemTime};

use super::*;
use crate::sandbox::cache::harden::Size;

fn shelf(entries: i64) -> (tempfile::TempDir, Shelf) {
    let home = tempfile::tempdir().unwrap();
    let all: toml::Table = crate::config::DEFAULTS.parse().unwrap();
    let mut settings = all["sandbox"]["cache"].as_table().unwrap().clone();
    settings.insert("entries".into(), entries.into());
    let shelf = Shelf::open(home.path(), &settings.try_into().unwrap(), 0).unwrap();
    (home, shelf)
}

fn name(digest: &str) -> Name {
    Name { organization: "org".into(), digest: digest.into() }
}

/// Kept, held by whoever has the answer, and last used so many seconds after the first of all times.
fn put(shelf: &Shelf, digest: &str, used: u64) -> Snapshot {
    let mut staged = shelf.stage(&name(digest)).unwrap();
    assert!(shelf.put(&mut staged, Manifest::new(Size::default(), Vec::new())).unwrap(), "{digest}");
    let lock = File::options().write(true).open(staged.folder.join("lock")).unwrap();
    lock.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(used)).unwrap();
    staged
}

#[test]
fn the_budget_takes_the_least_recently_used_that_nobody_uses() {
    let (_home, shelf) = shelf(2);
    let user = put(&shelf, "oldest", 1);
    drop(put(&shelf, "older", 2));
    drop(put(&shelf, "new", 3));
    assert!(user.folder.exists());
    let there = |digest| shelf.find(&name(digest)).unwrap().is_some();
    assert!(there("oldest") && !there("older") && there("new"));
    // All in use: the newcomer has no room, and is its maker's alone.
    let other = shelf.find(&name("new")).unwrap().unwrap();
    let mut staged = shelf.stage(&name("newest")).unwrap();
    assert!(!shelf.put(&mut staged, Manifest::new(Size::default(), Vec::new())).unwrap());
    assert!(staged.folder.exists() && there("oldest") && there("new") && !there("newest"));
    drop((user, other));
}

#[test]
fn the_sweep_leaves_what_is_being_made_and_removes_what_its_maker_left() {
    let (_home, shelf) = shelf(2);
    let staged = shelf.stage(&name("half")).unwrap();
    assert_eq!(shelf.sweep().unwrap(), 0);
    let folder = staged.folder.clone();
    assert!(folder.join("tree").exists());
    drop(staged);
    assert_eq!(shelf.sweep().unwrap(), 1);
    assert!(!folder.exists());
}

#[test]
fn what_one_uses_no_other_takes_for_himself() {
    let (_home, shelf) = shelf(2);
    let user = put(&shelf, "cache", 1);
    assert!(shelf.take(&name("cache")).unwrap().is_none() && user.folder.exists());
    drop(user);
    let taken = shelf.take(&name("cache")).unwrap().unwrap();
    assert!(taken.folder.exists() && shelf.find(&name("cache")).unwrap().is_none());
}

#[test]
fn an_entry_that_another_took_the_place_of_is_not_the_one_that_is_held() {
    let (home, shelf) = shelf(2);
    let user = put(&shelf, "first", 1);
    let held = tree::open_own_folder(&user.folder).unwrap();
    let parent = tree::open_own_folder(user.folder.parent().unwrap()).unwrap();
    assert!(is_same(&parent, "first", &held).unwrap());
    std::fs::rename(&user.folder, home.path().join("aside")).unwrap();
    assert!(!is_same(&parent, "first", &held).unwrap());
    drop(put(&shelf, "first", 2));
    assert!(!is_same(&parent, "first", &held).unwrap());
}
