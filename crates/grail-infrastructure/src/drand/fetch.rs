//! One question to one relay, with bounds on the answer.

use std::net::IpAddr;

use grail_ports::beacon::BeaconError;
use grail_protocol::ids::Digest;
use reqwest::{Client, StatusCode, Url, redirect};
use serde::Deserialize;

use self::NoPage::{Away, TooLong};
use super::{DrandChain, DrandConfigError, VerifiedRound};
use crate::tls;

/// Largest answer; real ones have about 500 bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// A relay.
pub(super) struct Relay {
    client: Client,
    base: String,
    chain: DrandChain,
}

/// A good answer.
pub(super) enum Fetched {
    /// The round.
    Round(VerifiedRound),
    /// The relay has no such round yet.
    NotYet,
}

/// A round as drand's HTTP interface gives it.
#[derive(Deserialize)]
struct Answer {
    round: u64,
    randomness: Digest,
    signature: String,
    #[serde(default)]
    previous_signature: String,
}

impl Relay {
    pub(super) fn new(base: &str, chain: DrandChain) -> Result<Self, DrandConfigError> {
        Ok(Self { client: client(base)?, base: base.to_owned(), chain })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Returns `round`; whoever calls bounds the time.
    pub(super) async fn fetch(&self, round: u64) -> Result<Fetched, BeaconError> {
        let page = format!("{}/public/{round}", self.chain.hash());
        match get(&self.client, &self.base, &page).await {
            Ok(Some(body)) => read(self.chain, round, &body).map(Fetched::Round),
            Ok(None) => Ok(Fetched::NotYet),
            Err(Away(reason)) => Err(BeaconError::Unavailable(reason)),
            Err(TooLong) => {
                let reason = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
                Err(BeaconError::Invalid { round, reason })
            }
        }
    }
}

/// Why a page was not read.
pub(super) enum NoPage {
    /// No answer, or none of use: with the relay's address.
    Away(String),
    /// More than [`ANSWER_BYTES_MAX`].
    TooLong,
}

/// Returns a page of the relay at `base`, or `None` if it has no such page; whoever calls bounds the
/// time.
pub(super) async fn get(
    client: &Client,
    base: &str,
    page: &str,
) -> Result<Option<Vec<u8>>, NoPage> {
    let base = base.trim_end_matches('/');
    let away = |error: reqwest::Error| Away(format!("{base}: {}", error.without_url()));
    let mut response = client.get(format!("{base}/{page}")).send().await.map_err(away)?;
    match response.status() {
        StatusCode::OK => {}
        // drand answers so for rounds that are not out, by its own clock.
        StatusCode::NOT_FOUND | StatusCode::TOO_EARLY => return Ok(None),
        status => return Err(Away(format!("{base}: HTTP {status}"))),
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(away)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// Returns a client for the relay at `base`.
pub(super) fn client(base: &str) -> Result<Client, DrandConfigError> {
    let url = address(base)?;
    tls::install_provider();
    let mut client = Client::builder().redirect(redirect::Policy::limited(3));
    if is_loopback(&url) {
        // A proxy from the environment cannot reach this machine's loopback.
        client = client.no_proxy();
    }
    client.build().map_err(|error| DrandConfigError::Client(error.to_string()))
}

/// Checks the address of a relay.
pub(super) fn address(base: &str) -> Result<Url, DrandConfigError> {
    let url: Option<Url> = base.parse().ok();
    url.filter(|url| matches!(url.scheme(), "https" | "http"))
        .ok_or_else(|| DrandConfigError::Address(base.chars().take(128).collect()))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns the round in the answer `body` to a question for `round`, if it is genuine.
///
/// # Errors
/// [`BeaconError::Invalid`] otherwise.
pub fn read(chain: DrandChain, round: u64, body: &[u8]) -> Result<VerifiedRound, BeaconError> {
    let refuse = |reason: &str| BeaconError::Invalid { round, reason: reason.to_owned() };
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| refuse("the answer is no round"))?;
    if answer.round != round {
        return Err(refuse("the answer is for another round"));
    }
    let unhex =
        |digits: &str| hex::decode(digits).map_err(|_| refuse("its signature is not hexadecimal"));
    let (signature, previous) = (unhex(&answer.signature)?, unhex(&answer.previous_signature)?);
    let verified = chain.verify(round, &previous, &signature)?;
    if verified.randomness != answer.randomness {
        return Err(refuse("its randomness is not the hash of its signature"));
    }
    Ok(verified)
}
