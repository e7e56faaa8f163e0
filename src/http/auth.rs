//! Who asks: the bearer token of a request as a principal.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};

use super::FrontDoor;
use super::problem::Problem;
use crate::domain::{Principal, Scope};

/// An authenticated caller.
#[derive(Debug)]
pub struct Caller(Principal);

impl Caller {
    /// # Errors
    /// A 403 that names the missing scope.
    pub fn with(&self, scope: Scope) -> Result<&Principal, Problem> {
        if self.0.may(scope) {
            Ok(&self.0)
        } else {
            Err(Problem::forbidden(format!("This token lacks the scope {scope}; ask for one that has it.")))
        }
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let token = bearer(req).map(ToOwned::to_owned);
        let door = req.app_data::<Data<FrontDoor>>().cloned();
        Box::pin(async move {
            let (Some(token), Some(door)) = (token, door) else { return Err(Problem::unauthorized()) };
            let principal = door.control.authenticate(&token).await?;
            principal.map(Self).ok_or_else(Problem::unauthorized)
        })
    }
}

fn bearer(req: &HttpRequest) -> Option<&str> {
    let value = req.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
