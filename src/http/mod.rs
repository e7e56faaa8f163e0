//! Owns the front door: what arrives over HTTP and how it is answered.
//! Never decides anything a use case should: handlers extract, call, map.

pub mod door;
pub mod edge;
pub mod problem;
pub mod seen;

pub mod api;
pub mod auth;
pub mod body;
pub mod client_limit;
pub mod docs;
pub mod fields;
pub mod health;
pub mod openapi;
pub mod stream_places;
pub mod surface;

use std::sync::Arc;

use actix_web::web::Bytes;

use crate::actors::AddressBook;
use crate::control::Control;
use crate::routing::Tables;

/// What the control surface's handlers work with. Made once, in the composition root.
#[derive(Debug)]
pub struct FrontDoor {
    pub rules: Arc<crate::routing::HostRules>,
    pub control: Arc<Control>,
    pub tables: Arc<Tables>,
    pub book: Arc<AddressBook>,
    pub health: Arc<health::Health>,
    pub status_limit: client_limit::ClientLimit,
    pub trusted_proxies: Arc<edge::TrustedProxies>,
    /// Streams of logs and events that may be open at once.
    pub streams: Arc<stream_places::StreamPlaces>,
    /// The OpenAPI document, written once.
    pub openapi: Bytes,
    pub draining: tokio_util::sync::CancellationToken,
}
