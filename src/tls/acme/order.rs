//! One order for one name: question, answer, certificate. Bounded by the caller's time.

use std::cell::Cell;
use std::error::Error as _;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::failure::{Failure, FailureKind};
use crate::domain::{ChallengeKind, time};
use crate::tls::Certificate;

/// Between the first two looks whether the issuer is done; doubled each time.
const LOOK: Duration = Duration::from_millis(250);
/// Longest chain that is kept, in bytes.
const CHAIN_BYTES: usize = 65_536;

/// What the issuer will come for.
#[derive(Debug, Clone)]
pub struct Question {
    pub token: String,
    pub key_authorization: String,
}

/// How far an order has come, also where it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Begun,
    /// The issuer looks, or has looked.
    Asked,
    /// A certificate may be there, whether or not we get to see it.
    Finalizing,
}

/// What is ordered, and from whom.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub issuer: &'a str,
    pub hostname: &'a str,
    pub kind: ChallengeKind,
    /// How long the issuer may take for one thing.
    pub patience: Duration,
    pub stage: &'a Cell<Stage>,
}

/// What the issuer gave.
pub struct Obtained {
    pub chain_pem: String,
    pub key_pem: String,
    pub certificate: Certificate,
}

#[derive(Debug)]
pub enum OrderError<E> {
    /// The answer could not be put where the issuer will look.
    Present(E),
    Failed(Failure),
}

impl<E> From<Failure> for OrderError<E> {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Orders a certificate for exactly `hostname`. `present` returns when every server answers the question.
///
/// # Errors
/// Why there is none.
pub async fn obtain<E>(
    account: &Account,
    wanted: &Wanted<'_>,
    present: impl AsyncFnOnce(Question) -> Result<(), E>,
) -> Result<Obtained, OrderError<E>> {
    let Wanted { issuer, hostname, stage, .. } = *wanted;
    let failed = |step: &'static str| move |e: Error| logged(issuer, step, &e);
    let names = [Identifier::Dns(hostname.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(failed("new order"))?;
    let policy = RetryPolicy::new().initial_delay(LOOK).timeout(wanted.patience);
    if prove(&mut order, wanted, present).await? {
        match order.poll_ready(&policy).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) | Err(Error::Api(_)) => return Err(refused(&mut order, issuer).await.into()),
            Err(e) => return Err(logged(issuer, "validation", &e).into()),
        }
    }
    let made = (|| {
        let mut asked = CertificateParams::new(vec![hostname.to_owned()])?;
        asked.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = asked.serialize_request(&key)?;
        Ok::<_, rcgen::Error>((key, request))
    })();
    let (key, request) =
        made.map_err(|_| Failure::new(FailureKind::Ours, "A certificate request could not be made."))?;
    stage.set(Stage::Finalizing);
    order.finalize_csr(request.der()).await.map_err(failed("finalize"))?;
    let chain_pem = order.poll_certificate(&policy).await.map_err(failed("certificate"))?;
    let key_pem = key.serialize_pem();
    let certificate = checked(hostname, &chain_pem, &key_pem)?;
    Ok(Obtained { chain_pem, key_pem, certificate })
}

/// Answers the open questions of the order. False: the issuer still remembers an earlier proof.
async fn prove<E>(
    order: &mut Order,
    &Wanted { issuer, hostname, kind, stage, .. }: &Wanted<'_>,
    present: impl AsyncFnOnce(Question) -> Result<(), E>,
) -> Result<bool, OrderError<E>> {
    let mut authorizations = order.authorizations();
    let Some(authorization) = authorizations.next().await else { return Ok(false) };
    let mut authorization = authorization.map_err(|e| logged(issuer, "authorization", &e))?;
    match authorization.status {
        AuthorizationStatus::Valid => return Ok(false),
        AuthorizationStatus::Pending => {}
        _ => return Err(Failure::new(FailureKind::Refused, "The issuer's authorization is over.").into()),
    }
    // An issuer that asks about another name than ordered must not be helped to prove it.
    if !matches!(authorization.identifier().identifier, Identifier::Dns(name) if name == hostname) {
        return Err(Failure::new(FailureKind::Refused, "The issuer asked about another name.").into());
    }
    let asked = match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let Some(mut challenge) = authorization.challenge(asked) else {
        let words = format!("The issuer offers no {kind} for this name.");
        return Err(Failure::new(FailureKind::Refused, words).into());
    };
    let question = Question {
        token: challenge.token.clone(),
        key_authorization: challenge.key_authorization().as_str().to_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if question.token.is_empty() || question.token.len() > 255 || !question.token.chars().all(plain) {
        return Err(Failure::new(FailureKind::Refused, "The issuer's token is malformed.").into());
    }
    present(question).await.map_err(OrderError::Present)?;
    stage.set(Stage::Asked);
    challenge.set_ready().await.map_err(|e| logged(issuer, "challenge", &e))?;
    Ok(true)
}

/// What the issuer found wrong: it stands with the challenge, or else with the order.
async fn refused(order: &mut Order, issuer: &str) -> Failure {
    let of_order = order.state().error.clone();
    let mut authorizations = order.authorizations();
    if let Some(Ok(mut authorization)) = authorizations.next().await {
        // Read anew: what is in memory is from before the issuer looked.
        if let Ok(state) = authorization.refresh().await
            && let Some(problem) = state.challenges.iter().find_map(|c| c.error.as_ref())
        {
            let failure = Failure::of_problem(problem, FailureKind::Validation);
            tracing::info!(issuer, words = %failure.words, "an issuer's look failed");
            return failure;
        }
    }
    match of_order {
        Some(problem) => Failure::of_problem(&problem, FailureKind::Validation),
        None => {
            Failure::new(FailureKind::Validation, "The issuer did not find the proof, and gave no reason.")
        }
    }
}

fn checked(hostname: &str, chain_pem: &str, key_pem: &str) -> Result<Certificate, Failure> {
    let unusable = |words: &str| Failure::new(FailureKind::Refused, words);
    if chain_pem.len() > CHAIN_BYTES {
        return Err(unusable("The issuer's chain is too long to be kept."));
    }
    let certificate = Certificate::from_pem(chain_pem.as_bytes(), key_pem.as_bytes())
        .map_err(|e| unusable(&format!("The issuer's certificate can't be used: {e}.")))?;
    if !certificate.is_for(hostname) {
        return Err(unusable("The issuer's certificate is for another name."));
    }
    if certificate.not_after <= time::now_ms() {
        return Err(unusable("The issuer's certificate has ended already."));
    }
    Ok(certificate)
}

/// The failure that an error means; its whole chain is written to the log, here and nowhere else.
pub(super) fn logged(issuer: &str, step: &str, error: &Error) -> Failure {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        chain.push_str(": ");
        chain.push_str(&next.to_string());
        cause = next.source();
    }
    tracing::warn!(issuer, step, error = %chain, "an issuer gave no certificate");
    Failure::of(error)
}
