//! A system that allows few open files: connections are taken as far as it does, and nobody is left waiting.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::app::Folder;

/// Shorter than a connection without a request is kept: none gives its file up for another one.
const SOON: Duration = Duration::from_secs(30);
const ASK: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The program, with these limits of open files.
fn limited(folder: &Folder, soft: u64, hard: u64) -> std::path::PathBuf {
    let path = folder.path().join("limited");
    let program = folder.program.display();
    let script = format!("#!/bin/sh\nulimit -Sn {soft}\nulimit -Hn {hard}\nexec {program} \"$@\"\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A new connection and what it was answered.
fn ask(address: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    // Who is turned away may be so before it has asked.
    drop(socket.write_all(ASK));
    let mut answer = [0; 64];
    let read = socket.read(&mut answer).unwrap();
    let line = String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned();
    (socket, line)
}

const SERVED: &str = "HTTP/1.1 200 OK";
const TURNED_AWAY: &str = "HTTP/1.1 503 Service Unavailable";

#[test]
fn as_many_connections_are_taken_as_files_may_be_open_and_the_rest_is_told() {
    let mut folder = Folder::embedded();
    folder.program = limited(&folder, 128, 700);
    let one_thread = [("LIBRA__HTTP__WORKERS", "1")];
    let server = folder.serve(&one_thread);
    let words = "700 open files, which is enough for 232 connections and 116 requests";
    assert!(server.log().contains(words), "{}", server.log());
    let mut held: Vec<TcpStream> = Vec::new();
    // More than the soft limit that it was started with.
    for number in 0..232 {
        let (socket, line) = ask(&server.address);
        assert_eq!(line, SERVED, "{number}");
        held.push(socket);
    }
    assert_eq!(ask(&server.address).1, TURNED_AWAY);
    assert!(!server.log().contains("could not be taken"), "{}", server.log());

    let said = folder.libra(&one_thread).args(["doctor", "--json"]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let finding = said.lines().find(|line| line.contains("\"open files\"")).unwrap();
    assert!(finding.contains(words) && finding.contains("LimitNOFILE"), "{finding}");
    assert!(finding.contains("\"ok\":false"), "{finding}");
}

#[test]
fn where_no_file_is_left_to_take_a_connection_with_its_client_is_told() {
    let folder = Folder::embedded();
    let server = folder.serve(&[]);
    let pid = Pid::from_raw(server.pid());
    let open = std::fs::read_dir(Path::new("/proc").join(server.pid().to_string()).join("fd")).unwrap();
    let numbers = open.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u64>().ok());
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let few = Rlimit { current: numbers.max().map(|last| last + 20), maximum: hard };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    let told = loop {
        let (socket, line) = ask(&server.address);
        if line != SERVED {
            break line;
        }
        held.push(socket);
        assert!(held.len() < 1_000, "files are left");
    };
    assert_eq!(told, TURNED_AWAY);
    for _ in 0..50 {
        assert_eq!(ask(&server.address).1, TURNED_AWAY);
    }
    assert!(server.log().matches("a connection could not be taken").count() < 10, "{}", server.log());
    held.clear();
    prlimit(pid, Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    assert_eq!(ask(&server.address).1, SERVED);
}
