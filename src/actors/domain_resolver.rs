//! The only writer of the host table: proved custom domains and the Workers they lead to. Reads the whole record
//! once, a page at a time, then what changed since; keeps no list of its own beside the table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::routing::CustomHost;
use crate::store::StoreError;
use crate::store::hosts::{HostCursor, HostMarks, ServedDomain};

/// A changed domain is seen within this, also when the broker is away.
const POLL: Duration = Duration::from_secs(1);
/// Reading all domains again takes at most a twentieth of the time: a million of them are read rarely, ten at once.
const REST: u32 = 20;
/// Rows of one question: some milliseconds of work for the database, some hundred kilobytes for us.
const PAGE: u64 = 1_000;

#[derive(Debug)]
pub struct DomainResolver {
    parts: Parts,
    owner: Recipient<ChildStopped>,
    known: Known,
}

/// How far this actor has read.
#[derive(Debug, Default, Clone)]
struct Known {
    /// Nothing was read yet where there is none.
    read: Option<Read>,
    rests_until: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Read {
    next: HostCursor,
    /// Changes without marks that the last reading of everything has seen.
    unmarked: i64,
    /// A change was forgotten before it was read here.
    missed: bool,
}

impl Read {
    /// Whether changes alone can't tell what is served now.
    fn is_broken(&self, marks: &HostMarks) -> bool {
        // The epoch went back: the database was put back to an earlier day.
        let went_back = marks.epoch + 1 < self.next.epoch;
        self.missed || went_back || marks.unmarked != self.unmarked || marks.forgotten >= self.next.epoch
    }
}

/// Kept apart so that `Debug` stays short.
struct Parts(ActorParts);

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

impl DomainResolver {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts: Parts(parts), owner, known: Known::default() }
    }
}

impl Actor for DomainResolver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(Look);
        ctx.run_interval(POLL, |_, ctx| ctx.notify(Look));
        // Told at once of what this server itself changed.
        let control = Arc::clone(&self.parts.0.pipeline.control);
        let address = ctx.address();
        ctx.spawn(
            async move {
                loop {
                    control.hosts_changed.notified().await;
                    // A full mailbox has a look waiting already.
                    drop(address.try_send(Look));
                }
            }
            .into_actor(self),
        );
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::DomainResolver)));
    }
}

child_actor!(DomainResolver);

/// Reads what has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Look;

impl Handler<Look> for DomainResolver {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        let parts = self.parts.0.clone();
        let known = self.known.clone();
        let work = async move {
            let mut known = known;
            let read = look(&parts, &mut known).await;
            (known, read)
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|(known, read), this, _| {
            this.known = known;
            if let Err(e) = read {
                tracing::warn!(error = %e, "custom domains could not be read; the last table serves");
            }
        })))
    }
}

/// Where a served domain leads to.
pub fn leads_to(domain: &ServedDomain) -> CustomHost {
    match (domain.project_active, &domain.redirect_to) {
        (false, _) => CustomHost::Inactive,
        (true, Some(to)) => CustomHost::Redirect(to.as_str().into()),
        (true, None) => CustomHost::Worker(domain.worker_name.as_str().into()),
    }
}

async fn look(parts: &ActorParts, known: &mut Known) -> Result<(), StoreError> {
    let store = &parts.pipeline.control.store;
    let marks = store.host_marks().await?;
    let is_whole_due = known.read.as_ref().is_none_or(|read| read.is_broken(&marks));
    if is_whole_due && known.rests_until.is_none_or(|until| Instant::now() >= until) {
        let started = Instant::now();
        read_all(parts).await?;
        // What changed meanwhile is read once more, as a change.
        known.read =
            Some(Read { next: HostCursor::behind(marks.epoch), unmarked: marks.unmarked, missed: false });
        known.rests_until = Some(Instant::now() + started.elapsed() * REST);
        parts.tables.hosts_are_at(u64::try_from(marks.epoch).unwrap_or(0));
    }
    match &mut known.read {
        Some(read) if marks.epoch >= read.next.epoch => read_changes(parts, read).await,
        _ => Ok(()),
    }
}

async fn read_all(parts: &ActorParts) -> Result<(), StoreError> {
    let (store, tables) = (&parts.pipeline.control.store, &parts.tables);
    tables.hosts_reading_begins();
    let (mut after, mut domains) = (String::new(), 0_usize);
    loop {
        let page = store.host_list(&after, PAGE).await?;
        for domain in &page {
            tables.publish_host(&domain.hostname, &leads_to(domain));
        }
        domains += page.len();
        match page.into_iter().last() {
            Some(last) => after = last.id,
            None => break,
        }
    }
    let gone = tables.hosts_reading_ends();
    tracing::info!(domains, gone, "all custom domains were read");
    Ok(())
}

async fn read_changes(parts: &ActorParts, read: &mut Read) -> Result<(), StoreError> {
    let (store, tables) = (&parts.pipeline.control.store, &parts.tables);
    loop {
        let page = store.host_changes(&read.next, PAGE).await?;
        // Seen in the same moment as the page, and for good: the cursor moves on behind what is missing.
        read.missed |= page.marks.forgotten >= read.next.epoch;
        for (hostname, now) in &page.names {
            match now {
                Some(domain) => tables.publish_host(hostname, &leads_to(domain)),
                None => tables.remove_host(hostname),
            }
        }
        if !page.names.is_empty() {
            tracing::debug!(
                names = page.names.len(),
                epoch = page.marks.epoch,
                "changed custom domains were read"
            );
        }
        read.next = page.next;
        if page.is_last {
            tables.hosts_are_at(u64::try_from(page.marks.epoch).unwrap_or(0));
            return Ok(());
        }
    }
}
