//! A validator's weights: how they are sent, and whether they arrived.
//!
//! The chain is asked at one block which way is open: in the clear, or sealed with a timelock that
//! it opens an epoch later. An accepted seal is no success yet, since the chain drops what it cannot
//! open in time without telling anybody; so the row of weights that it counts is compared later.

use std::collections::BTreeMap;

use grail_ports::beacon::BeaconSchedule;
use grail_ports::chain::{ChainError, WeightSubmission};
use grail_protocol::ids::{Hotkey, Uid};
use grail_protocol::timelock::{BeaconPublicKey, SealTo, drand};

use super::error::{Trouble, unreadable};
use super::pool;
use super::runtime::Runtime;
use super::schedule::{self, EpochState, Opening};
use super::subnet::{PALLET, Subnet};
use crate::substrate::{LookupError, ShapeError, Value};

/// Key of quicknet, the beacon that the chain opens seals with. Source: `spec/bittensor.md`.
pub const QUICKNET_KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c\
                                8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb\
                                5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";

const CALL: &str = "set_weights";

/// Weights as the chain takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantised {
    /// Uids, each once.
    pub uids: Vec<u16>,
    /// Their weights, the largest 65,535.
    pub values: Vec<u16>,
    /// Version of the scoring rules.
    pub version_key: u64,
}

/// Weights that the chain accepted, to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Uid that set them.
    pub uid: Uid,
    /// What was sent.
    pub weights: Quantised,
    /// Block that includes them.
    pub block: u64,
    /// When they are opened, if they are sealed.
    pub opening: Option<Opening>,
}

fn refused(name: &str) -> ChainError {
    let advice = pool::advice(name).to_owned();
    ChainError::Refused { call: CALL.to_owned(), name: name.to_owned(), advice }
}

/// Returns the weights as the chain will take them. What it would refuse for certain is not sent.
///
/// # Errors
/// [`ChainError::Refused`] with the chain's own name of the error.
pub fn quantise(
    subnet: &Subnet,
    submission: &WeightSubmission,
) -> Result<(Uid, Quantised), ChainError> {
    let own = subnet.uid.ok_or_else(|| refused("HotKeyNotRegisteredInSubNet"))?;
    if submission.version_key < subnet.weights_version {
        return Err(refused("IncorrectWeightVersionKey"));
    }
    let mut weights = BTreeMap::new();
    for (uid, weight) in &submission.weights {
        if uid.0 >= subnet.neurons {
            return Err(refused("UidVecContainInvalidOne"));
        }
        if !weight.is_finite() || *weight < 0.0 {
            return Err(refused("WeightsNotFinite"));
        }
        if weights.insert(uid.0, *weight).is_some() {
            return Err(refused("DuplicateUids"));
        }
    }
    let is_self = weights.len() == 1 && weights.contains_key(&own.0);
    let mut floats: Vec<f64> = weights.values().copied().collect();
    if subnet.weight_share_max < u16::MAX && !is_self {
        clip(&mut floats, f64::from(subnet.weight_share_max) / f64::from(u16::MAX));
    }
    let largest = floats.iter().copied().fold(0.0, f64::max);
    let (mut uids, mut values) = (Vec::new(), Vec::new());
    for (uid, weight) in weights.keys().zip(&floats) {
        let value = (weight / largest * f64::from(u16::MAX)).round_ties_even();
        #[expect(clippy::cast_possible_truncation, reason = "a share of the largest: 0 to 65,535")]
        #[expect(clippy::cast_sign_loss, reason = "no weight is negative")]
        let value = value as u16;
        if value > 0 {
            uids.push(*uid);
            values.push(value);
        }
    }
    let weights_min = usize::from(subnet.weights_min.min(subnet.neurons));
    if uids.is_empty() || (uids.len() < weights_min && !is_self) {
        return Err(refused("WeightVecLengthIsLow"));
    }
    let version_key = submission.version_key.max(subnet.weights_version);
    Ok((own, Quantised { uids, values, version_key }))
}

/// Lowers the largest weights until none is more than `limit` of the sum.
///
/// Source: `spec/bittensor.md`, section 6, clip.
fn clip(weights: &mut [f64], limit: f64) {
    const EPSILON: f64 = 1e-7;
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        return;
    }
    let n = weights.len();
    #[expect(clippy::cast_precision_loss, reason = "at most 65,536 uids")]
    let count = |items: usize| items as f64;
    if count(n) * limit <= 1.0 {
        weights.fill(1.0 / count(n));
        return;
    }
    let mut sorted: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    sorted.sort_by(f64::total_cmp);
    if sorted.last().is_some_and(|largest| *largest <= limit) {
        weights.iter_mut().for_each(|weight| *weight /= sum);
        return;
    }
    let cumulative: Vec<f64> = sorted
        .iter()
        .scan(0.0, |total, share| {
            *total += share;
            Some(*total)
        })
        .collect();
    let below = (0..n)
        .filter(|&i| sorted[i] / (count(n - i - 1) * sorted[i] + cumulative[i] + EPSILON) < limit)
        .count();
    let last = below.checked_sub(1).map_or(0.0, |last| cumulative[last]);
    let cutoff = (limit * last - EPSILON) / (1.0 - limit * count(n - below)) * sum;
    weights.iter_mut().for_each(|weight| *weight = weight.min(cutoff));
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// Returns when weights that are sent after this block are opened; `None` if they are not sealed.
///
/// # Errors
/// When the subnet never opens any.
pub fn opening(
    subnet: &Subnet,
    block_time_ms: u64,
    beacon: BeaconSchedule,
) -> Result<Option<Opening>, Trouble> {
    if !subnet.commit_reveal {
        return Ok(None);
    }
    let mut opening = schedule::opening_by(
        beacon,
        EpochState::of(subnet),
        subnet.number,
        subnet.timestamp_ms,
        block_time_ms,
        subnet.reveal_period_epochs,
    )
    .map_err(|error| unreadable("the subnet's schedule", error))?;
    // The chain refuses rounds that it has seen; where blocks are fast, an epoch may be that near.
    opening.round = opening.round.max(subnet.last_stored_round.saturating_add(1));
    Ok(Some(opening))
}

/// Returns the call that sets weights in the clear.
///
/// # Errors
/// When the runtime has none.
pub fn open_call(
    runtime: &Runtime,
    netuid: u16,
    mechanism: u8,
    weights: &Quantised,
) -> Result<Vec<u8>, Trouble> {
    let rest = || {
        [
            ("netuid", Value::from(netuid)),
            ("dests", Value::list(weights.uids.iter().copied())),
            ("weights", Value::list(weights.values.iter().copied())),
            ("version_key", Value::from(weights.version_key)),
        ]
    };
    newest_call(
        runtime,
        (
            "set_mechanism_weights",
            rest().into_iter().chain([("mecid", mechanism.into())]).collect(),
        ),
        ("set_weights", rest().into_iter().collect()),
        mechanism,
    )
}

/// Returns the call that sets sealed weights.
///
/// # Errors
/// When the runtime has none.
pub fn sealed_call(
    runtime: &Runtime,
    netuid: u16,
    mechanism: u8,
    commit: &[u8],
    opening: &Opening,
    version: u16,
) -> Result<Vec<u8>, Trouble> {
    let rest = || {
        [
            ("netuid", Value::from(netuid)),
            ("commit", Value::bytes(commit)),
            ("reveal_round", Value::from(opening.round)),
            ("commit_reveal_version", Value::from(version)),
        ]
    };
    newest_call(
        runtime,
        (
            "commit_timelocked_mechanism_weights",
            rest().into_iter().chain([("mecid", mechanism.into())]).collect(),
        ),
        ("commit_timelocked_weights", rest().into_iter().collect()),
        mechanism,
    )
}

type NamedCall = (&'static str, Vec<(&'static str, Value)>);

/// Returns the call that knows mechanisms, or for mechanism 0 the older one that does not.
fn newest_call(
    runtime: &Runtime,
    newer: NamedCall,
    older: NamedCall,
    mechanism: u8,
) -> Result<Vec<u8>, Trouble> {
    let has_newer: Result<_, LookupError> = runtime.metadata.arguments(PALLET, newer.0);
    let (name, arguments) = if has_newer.is_ok() || mechanism != 0 { newer } else { older };
    runtime
        .metadata
        .encode_call(PALLET, name, arguments)
        .map_err(|error| unreadable(&format!("{PALLET}.{name}"), error))
}

/// Returns the public key of quicknet.
pub fn quicknet_key() -> BeaconPublicKey {
    let mut key = [0; 96];
    hex::decode_to_slice(QUICKNET_KEY, &mut key).expect("the constant has 192 digits");
    BeaconPublicKey(key)
}

/// Seals weights to quicknet's round that opens them; `entropy` must be drawn afresh.
///
/// # Errors
/// When there are more weights than a seal takes.
pub fn seal(
    hotkey: Hotkey,
    weights: &Quantised,
    round: u64,
    entropy: &[u8; 32],
) -> Result<Vec<u8>, Trouble> {
    seal_to(SealTo { key: quicknet_key(), round }, hotkey, weights, entropy)
}

/// As [`seal`], to a round of any beacon.
///
/// # Errors
/// As there.
pub fn seal_to(
    to: SealTo,
    hotkey: Hotkey,
    weights: &Quantised,
    entropy: &[u8; 32],
) -> Result<Vec<u8>, Trouble> {
    use parity_scale_codec::Encode as _;
    let payload = (hotkey.0.to_vec(), &weights.uids, &weights.values, weights.version_key).encode();
    let commit = drand::seal_commit(to, &payload, entropy)
        .map_err(|error| unreadable("the seal of weights", error))?;
    if commit.len() > drand::COMMIT_BYTES_MAX {
        let reason = format!("{} bytes, the chain takes {}", commit.len(), drand::COMMIT_BYTES_MAX);
        return Err(unreadable("the seal of weights", reason));
    }
    Ok(commit)
}

/// Returns whether the chain's row of weights is what was sent.
pub fn is_row(row: &Value, sent: &Quantised) -> Result<bool, Trouble> {
    let pair = |pair: &Value| -> Result<(u16, u16), ShapeError> {
        Ok((pair.item(0)?.as_uint()?, pair.item(1)?.as_uint()?))
    };
    let row = row.map_list(pair).map_err(|error| unreadable("SubtensorModule.Weights", error))?;
    let row: BTreeMap<u16, u16> = row.into_iter().filter(|(_, weight)| *weight > 0).collect();
    let sent = sent.uids.iter().copied().zip(sent.values.iter().copied()).collect();
    Ok(row == sent)
}
