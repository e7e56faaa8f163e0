//! Joins HTTPS to the front door: which listeners speak it, and what plain requests owe to it.

use std::net::TcpListener;
use std::sync::Arc;

use super::AppError;
use crate::config::Settings;
use crate::http::door::Listener;
use crate::http::edge::secure::{Secure, ToHttps};
use crate::tls::{Tls, server_config};

/// The same front door, in clear and by TLS.
///
/// # Errors
/// If the system gives no randomness.
pub fn listeners_of(
    front: Vec<TcpListener>,
    secure: Vec<TcpListener>,
    tls: &Tls,
) -> Result<Vec<Listener>, AppError> {
    let mut listeners: Vec<Listener> =
        front.into_iter().map(|socket| Listener { socket, tls: None }).collect();
    if !secure.is_empty() {
        let config = server_config(Arc::clone(&tls.table))
            .map_err(|e| AppError::Make { what: "the TLS configuration", source: e.into() })?;
        let with_tls = |socket| Listener { socket, tls: Some(Arc::clone(&config)) };
        listeners.extend(secure.into_iter().map(with_tls));
    }
    Ok(listeners)
}

/// Nobody is sent to HTTPS where there is none.
pub fn secure(settings: &Settings, tls: &Tls) -> Secure {
    let speaks = settings.tls.redirect && !settings.tls.listen.is_empty();
    let redirect =
        speaks.then(|| ToHttps { certificates: Arc::clone(&tls.table), port: settings.tls.public_port });
    Secure { challenges: Arc::clone(&tls.challenges), redirect }
}
