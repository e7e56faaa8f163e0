//! The one way from a build to hosts beyond the registry: a CONNECT proxy on a unix socket of the
//! sandbox's own, for the hosts that the project lists and no others. Without a list nothing passes.
//!
//! Names are resolved here, once, and the connection goes to exactly the address that was checked: a
//! build can reach neither this host, nor its networks, nor a cloud's metadata service, whatever a
//! name it controls resolves to. What passed and what was refused is told to the build's log.

mod book;
mod proxy;
mod target;

use std::sync::Arc;

pub(super) use book::Book;
pub(super) use proxy::EgressSocket;

use super::settings::EgressSettings;
use crate::domain::egress::EgressHost;

/// What every connection of one sandbox shares.
pub(super) struct Egress {
    settings: EgressSettings,
    allowed: Vec<EgressHost>,
    book: Arc<Book>,
}

impl Egress {
    pub(super) fn new(settings: &EgressSettings, allowed: Vec<EgressHost>) -> Arc<Self> {
        let book = Arc::new(Book::new(settings.total_bytes));
        Arc::new(Self { settings: settings.clone(), allowed, book })
    }
}
