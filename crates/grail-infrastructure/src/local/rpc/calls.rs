//! Understands the calls of extrinsics by the names that the metadata gives them.

use grail_protocol::ids::Hotkey;

use crate::local::chain::call::{Call, Pulse};
use crate::local::chain::data::{Data, HashKind};
use crate::local::chain::params::Parameter;
use crate::substrate::{Call as Named, Metadata, ShapeError, Value};

/// What the owner's unknown calls do.
const NOTHING: Call = Call::Remark { bytes: 0 };

/// Returns what `call` asks of the chain. Calls that this chain does not know do nothing but cost
/// their fee, as `System.remark` does.
///
/// # Errors
/// When arguments have another shape than this program knows.
pub fn understand(metadata: &Metadata, call: &Named) -> Result<Call, ShapeError> {
    let args = &call.arguments;
    let number = |name: &str| args.field(name)?.as_uint::<u64>();
    let netuid = || args.field("netuid")?.as_uint::<u16>();
    let account = |name: &str| args.field(name)?.as_bytes32().map(Hotkey);
    Ok(match (call.pallet.as_str(), call.name.as_str()) {
        ("SubtensorModule", "burned_register") => {
            Call::BurnedRegister { netuid: netuid()?, hotkey: account("hotkey")?, limit: None }
        }
        ("SubtensorModule", "register_limit") => Call::BurnedRegister {
            netuid: netuid()?,
            hotkey: account("hotkey")?,
            limit: Some(number("limit_price")?),
        },
        ("SubtensorModule", "add_stake") => Call::AddStake {
            netuid: netuid()?,
            hotkey: account("hotkey")?,
            amount: number("amount_staked")?,
        },
        ("SubtensorModule", "set_weights" | "set_mechanism_weights") => Call::SetWeights {
            netuid: netuid()?,
            mechanism: mechanism(args)?,
            uids: args.field("dests")?.map_list(Value::as_uint)?,
            weights: args.field("weights")?.map_list(Value::as_uint)?,
            version_key: number("version_key")?,
        },
        (
            "SubtensorModule",
            "commit_timelocked_weights" | "commit_timelocked_mechanism_weights",
        ) => Call::CommitTimelockedWeights {
            netuid: netuid()?,
            mechanism: mechanism(args)?,
            commit: args.field("commit")?.as_bytes()?.to_vec(),
            reveal_round: number("reveal_round")?,
            version: args.field("commit_reveal_version")?.as_uint()?,
        },
        ("Commitments", "set_commitment") => Call::SetCommitment {
            netuid: netuid()?,
            fields: args.field("info")?.field("fields")?.map_list(field)?,
        },
        ("Sudo", "sudo" | "sudo_unchecked_weight") => {
            let inner = Named::from_value(args.field("call")?.clone());
            let inner = inner.map(|inner| administer(metadata, &inner)).transpose()?;
            Call::Sudo { inner: Box::new(inner.unwrap_or(NOTHING)) }
        }
        _ => Call::Remark { bytes: remark_bytes(metadata, call) },
    })
}

/// Returns how many bytes a call says that does nothing.
fn remark_bytes(metadata: &Metadata, call: &Named) -> u64 {
    let said = call.arguments.optional_field("remark").and_then(|said| said.as_bytes().ok());
    let bytes = match said {
        Some(said) => said.len(),
        None => metadata.encode(call).map_or(0, |encoded| encoded.len()),
    };
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn mechanism(args: &Value) -> Result<u8, ShapeError> {
    args.optional_field("mecid").map_or(Ok(0), Value::as_uint)
}

/// Reads a field of a commitment.
fn field(value: &Value) -> Result<Data, ShapeError> {
    let (name, fields) = value.as_variant()?;
    if let Some((of, _)) = HashKind::NAMES.into_iter().find(|(_, known)| *known == name) {
        return Ok(Data::Hash { of, digest: fields.item(0)?.as_bytes32()? });
    }
    let timelocked = || -> Result<_, ShapeError> {
        let encrypted = fields.field("encrypted")?.as_bytes()?.to_vec();
        Ok((encrypted, fields.field("reveal_round")?.as_uint()?))
    };
    Ok(match name {
        "None" => Data::None,
        "ResetBondsFlag" => Data::ResetBonds,
        "BigRaw" => Data::BigRaw { bytes: fields.item(0)?.as_bytes()?.to_vec() },
        "TimelockEncrypted" => {
            let (encrypted, round) = timelocked()?;
            Data::Timelocked { encrypted, round }
        }
        "TimelockRevealFailed" => {
            let (encrypted, round) = timelocked()?;
            Data::RevealFailed { encrypted, round }
        }
        // `Raw0` to `Raw128`.
        _ => Data::Raw { bytes: fields.item(0)?.as_bytes()?.to_vec() },
    })
}

/// Returns what a call made as the chain's owner asks for.
fn administer(metadata: &Metadata, call: &Named) -> Result<Call, ShapeError> {
    let Value::Record(args) = &call.arguments else { return Ok(NOTHING) };
    let Some((_, value)) = args.last() else { return Ok(NOTHING) };
    let parameter = match (call.pallet.as_str(), call.name.as_str()) {
        ("AdminUtils", "sudo_set_tempo") => Parameter::Tempo(value.as_uint()?),
        ("AdminUtils", "sudo_set_weights_set_rate_limit") => {
            Parameter::WeightsRateLimit(value.as_uint()?)
        }
        ("AdminUtils", "sudo_set_weights_version_key") => {
            Parameter::WeightsVersion(value.as_uint()?)
        }
        ("AdminUtils", "sudo_set_min_allowed_weights") => {
            Parameter::MinAllowedWeights(value.as_uint()?)
        }
        ("AdminUtils", "sudo_set_commit_reveal_weights_enabled") => {
            Parameter::CommitReveal(value.as_bool()?)
        }
        ("AdminUtils", "sudo_set_subtoken_enabled") => Parameter::SubtokenEnabled(value.as_bool()?),
        ("AdminUtils", "sudo_set_stake_threshold") => Parameter::StakeThreshold(value.as_uint()?),
        ("AdminUtils", "sudo_set_network_registration_allowed") => {
            Parameter::RegistrationAllowed(value.as_bool()?)
        }
        ("System", "set_storage") => return Ok(pulse(metadata, value).unwrap_or(NOTHING)),
        _ => return Ok(NOTHING),
    };
    Ok(Call::Set { parameter })
}

/// Reads a round of the beacon that is put into storage directly, the one thing for which this chain
/// lets that be done.
fn pulse(metadata: &Metadata, items: &Value) -> Option<Call> {
    let pulses = metadata.storage("Drand", "Pulses").ok()?;
    let [item] = items.as_list().ok()? else { return None };
    let (key, value) = (item.item(0).ok()?.as_bytes().ok()?, item.item(1).ok()?.as_bytes().ok()?);
    let round = pulses.read_key(key).ok()?.first()?.as_uint().ok()?;
    let value = pulses.decode(Some(value)).ok()??;
    let bytes = |name| value.field(name).ok()?.as_bytes().ok().map(<[u8]>::to_vec);
    let pulse = Pulse { randomness: bytes("randomness")?, signature: bytes("signature")? };
    Some(Call::StorePulse { round, pulse })
}
