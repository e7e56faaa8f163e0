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

/// Nobody is sent to HTTPS where there is none. `listening`: the port of the first listener that speaks it.
pub fn secure(settings: &Settings, tls: &Tls, listening: Option<u16>) -> Secure {
    let set = settings.tls.public_port;
    let port = listening.filter(|_| settings.tls.redirect).map(|own| if set == 0 { own } else { set });
    let redirect = port.map(|port| ToHttps { certificates: Arc::clone(&tls.table), port });
    Secure { challenges: Arc::clone(&tls.challenges), redirect }
}
