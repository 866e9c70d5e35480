//! Learns a chain from its relays: they describe it, and its hash says whether they do so truly.

use grail_ports::beacon::BeaconError;
use grail_protocol::ids::Digest;
use tokio::time::timeout;

use super::fetch::{self, NoPage};
use super::{DrandChain, DrandConfig, OwnChain};
use crate::beacon::verify::BeaconInfo;

/// Returns the chain whose hash is `hash`: a public one, or what the first truthful relay describes.
///
/// # Errors
/// [`BeaconError::Unavailable`] when no relay describes it in time, with what the last one said.
///
/// # Cancel safety
/// Dropping the future drops the request.
pub async fn describe(hash: Digest, config: &DrandConfig) -> Result<DrandChain, BeaconError> {
    for known in [DrandChain::Quicknet, DrandChain::Default] {
        if known.hash() == hash.to_hex() {
            return Ok(known);
        }
    }
    timeout(config.deadline, ask(hash, config)).await.unwrap_or_else(|_| {
        Err(unavailable(&format!("no relay described chain {hash} within {:?}", config.deadline)))
    })
}

async fn ask(hash: Digest, config: &DrandConfig) -> Result<DrandChain, BeaconError> {
    let page = format!("{}/info", hash.to_hex());
    let mut last = "there is no relay".to_owned();
    for base in &config.relays {
        let client = fetch::client(base).map_err(|error| unavailable(&error.to_string()))?;
        last = match fetch::get(&client, base, &page).await {
            Ok(None) => format!("{base} has no chain {hash}; check beacon.chain and beacon.relays"),
            Ok(Some(body)) => match read(hash, &body) {
                Ok(chain) => return Ok(DrandChain::Own(chain)),
                Err(reason) => format!("{base}: {reason}"),
            },
            Err(NoPage::Away(reason)) => reason,
            Err(NoPage::TooLong) => format!("{base} describes the chain at too great a length"),
        };
    }
    Err(unavailable(&last))
}

fn read(hash: Digest, body: &[u8]) -> Result<OwnChain, String> {
    let info: BeaconInfo = serde_json::from_slice(body)
        .map_err(|_| "the answer does not describe a chain".to_owned())?;
    if info.hash != hash {
        return Err(format!("it describes chain {} instead of {hash}", info.hash));
    }
    OwnChain::new(&info).map_err(|error| error.to_string())
}

fn unavailable(reason: &str) -> BeaconError {
    BeaconError::Unavailable(reason.to_owned())
}
