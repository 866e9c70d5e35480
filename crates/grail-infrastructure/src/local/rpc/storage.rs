//! Shows the state of a block as the storage of the real chain: keys and values in its encoding.

use std::collections::BTreeMap;

use crate::local::chain::data::{Data, HashKind};
use crate::local::chain::event::{EventRecord, Field};
use crate::local::chain::recent::SealedBlock;
use crate::local::chain::rules::ChainRules;
use crate::local::chain::state::{Neuron, State};
use crate::substrate::{self, Metadata, Phase, Value};

/// Storage of one block, in the order of the keys.
pub type Storage = BTreeMap<Vec<u8>, Vec<u8>>;

/// Collects entries; what this runtime does not have is left out.
struct Writer<'a> {
    metadata: &'a Metadata,
    storage: Storage,
}

impl Writer<'_> {
    fn put(&mut self, pallet: &str, item: &str, keys: &[Value], value: impl Into<Value>) {
        let Ok(item) = self.metadata.storage(pallet, item) else { return };
        let (key, value) = (item.key(keys), item.encode(&value.into()));
        match (key, value) {
            (Ok(key), Ok(value)) => {
                self.storage.insert(key, value);
            }
            (Err(error), _) => tracing::warn!(%error, "cannot show a storage key"),
            (_, Err(error)) => tracing::warn!(%error, "cannot show a storage value"),
        }
    }

    fn subtensor(&mut self, item: &str, keys: &[Value], value: impl Into<Value>) {
        self.put("SubtensorModule", item, keys, value);
    }
}

/// Returns the storage after `block`.
pub fn storage(metadata: &Metadata, rules: &ChainRules, block: &SealedBlock) -> Storage {
    let mut writer = Writer { metadata, storage: Storage::new() };
    let number = u32::try_from(block.number.0).unwrap_or(u32::MAX);
    writer.put("System", "Number", &[], number);
    writer.put("System", "ParentHash", &[], block.row.parent.0);
    writer.put("Timestamp", "Now", &[], block.row.timestamp_ms);
    let events: Vec<_> = block.events.iter().filter_map(|record| event(metadata, record)).collect();
    match (metadata.storage("System", "Events"), metadata.encode_events(&events)) {
        (Ok(item), Ok(bytes)) => {
            if let Ok(key) = item.key(&[]) {
                writer.storage.insert(key, bytes);
            }
        }
        (_, Err(error)) => tracing::warn!(%error, "cannot show the events of a block"),
        _ => {}
    }
    let state = &*block.state;
    accounts(&mut writer, state);
    parameters(&mut writer, rules.netuid.0, state);
    neurons(&mut writer, rules.netuid.0, block.number.0, state);
    commitments(&mut writer, rules.netuid.0, state);
    beacon(&mut writer, rules, state);
    writer.storage
}

fn accounts(writer: &mut Writer<'_>, state: &State) {
    for (who, account) in &state.accounts {
        let data = Value::record([
            ("free", Value::from(account.free)),
            ("reserved", Value::from(0_u64)),
            ("frozen", Value::from(0_u64)),
            ("flags", Value::from(1_u128 << 127)),
        ]);
        let nonce = u32::try_from(account.nonce).unwrap_or(u32::MAX);
        let value = Value::record([
            ("nonce", Value::from(nonce)),
            ("consumers", Value::from(0_u32)),
            ("providers", Value::from(1_u32)),
            ("sufficients", Value::from(0_u32)),
            ("data", data),
        ]);
        writer.put("System", "Account", &[who.0.into()], value);
    }
}

fn parameters(writer: &mut Writer<'_>, netuid: u16, state: &State) {
    let key = &[Value::from(netuid)][..];
    let (params, schedule) = (&state.params, &state.schedule);
    writer.subtensor("NetworksAdded", &[Value::from(0_u16)], true);
    writer.subtensor("NetworksAdded", key, true);
    writer.subtensor("TotalNetworks", &[], 2_u16);
    for (item, value) in [
        ("SubnetworkN", u16::try_from(state.neurons.len()).unwrap_or(u16::MAX)),
        ("MaxAllowedUids", params.neurons_max),
        ("MaxAllowedValidators", params.validators_max),
        ("Tempo", params.tempo),
        ("MinAllowedWeights", params.min_allowed_weights),
        ("MaxWeightsLimit", params.max_weights_limit),
        ("ImmunityPeriod", params.immunity_period),
    ] {
        writer.subtensor(item, key, value);
    }
    for (item, value) in [
        ("LastEpochBlock", schedule.last_epoch_block),
        ("PendingEpochAt", schedule.pending_epoch_at),
        ("SubnetEpochIndex", schedule.index),
        ("BlocksSinceLastStep", schedule.blocks_since_last_step),
        ("RevealPeriodEpochs", params.reveal_period),
        ("WeightsSetRateLimit", params.weights_rate_limit),
        ("WeightsVersionKey", params.weights_version),
        ("Burn", state.burn),
        ("RAORecycledForRegistration", state.recycled),
        ("MinBurn", params.min_burn),
        ("MaxBurn", params.max_burn),
    ] {
        writer.subtensor(item, key, value);
    }
    for (item, value) in [
        ("CommitRevealWeightsEnabled", params.commit_reveal),
        ("NetworkRegistrationAllowed", params.registration_allowed),
        ("SubtokenEnabled", params.subtoken_enabled),
    ] {
        writer.subtensor(item, key, value);
    }
    writer.subtensor("StakeThreshold", &[], params.stake_threshold);
    for (epoch, commits) in &state.commits {
        let rows = commits.iter().map(|commit| {
            Value::List(vec![
                commit.who.0.into(),
                commit.block.into(),
                Value::bytes(&commit.commit),
                commit.round.into(),
            ])
        });
        let keys = [Value::from(netuid), Value::from(*epoch)];
        writer.subtensor("TimelockedWeightCommits", &keys, Value::list(rows));
    }
}

/// Returns whether `neuron` set weights lately enough to count.
pub(super) fn is_active(state: &State, neuron: &Neuron, block: u64) -> bool {
    block.saturating_sub(neuron.last_update.0) <= state.params.activity_cutoff()
}

fn neurons(writer: &mut Writer<'_>, netuid: u16, block: u64, state: &State) {
    let key = &[Value::from(netuid)][..];
    let all = &state.neurons;
    writer.subtensor("Active", key, Value::list(all.iter().map(|n| is_active(state, n, block))));
    writer.subtensor("ValidatorPermit", key, Value::list(all.iter().map(|n| n.permit)));
    writer.subtensor("LastUpdate", key, Value::list(all.iter().map(|n| n.last_update.0)));
    writer.subtensor("Incentive", key, Value::list(all.iter().map(|n| n.incentive)));
    writer.subtensor("Consensus", key, Value::list(all.iter().map(|n| n.incentive)));
    writer.subtensor("Dividends", key, Value::list(all.iter().map(|n| n.dividends)));
    writer.subtensor("Emission", key, Value::list(all.iter().map(|_| 0_u64)));
    for (uid, neuron) in (0_u16..).zip(all) {
        let hotkey = Value::from(neuron.hotkey.0);
        let by_uid = [Value::from(netuid), Value::from(uid)];
        writer.subtensor("Uids", &[Value::from(netuid), hotkey.clone()], uid);
        writer.subtensor("Keys", &by_uid, hotkey.clone());
        writer.subtensor("BlockAtRegistration", &by_uid, neuron.registered_at.0);
        writer.subtensor("IsNetworkMember", &[hotkey, Value::from(netuid)], true);
        if !neuron.weights.is_empty() {
            let pair = |(to, weight): &(u16, u16)| Value::list([*to, *weight]);
            writer.subtensor("Weights", &by_uid, Value::list(neuron.weights.iter().map(pair)));
        }
    }
    for (hotkey, coldkey) in &state.owners {
        writer.subtensor("Owner", &[hotkey.0.into()], coldkey.0);
    }
}

fn commitments(writer: &mut Writer<'_>, netuid: u16, state: &State) {
    let key = |hotkey: &grail_protocol::ids::Hotkey| [Value::from(netuid), hotkey.0.into()];
    let block_value = |block: u64| Value::from(u32::try_from(block).unwrap_or(u32::MAX));
    for (hotkey, commitment) in &state.commitments {
        let fields = Value::list(commitment.fields.iter().map(data));
        let value = Value::record([
            ("deposit", Value::from(0_u64)),
            ("block", block_value(commitment.block)),
            ("info", Value::record([("fields", fields)])),
        ]);
        writer.put("Commitments", "CommitmentOf", &key(hotkey), value);
    }
    for (hotkey, space) in &state.spaces {
        writer.put("Commitments", "LastCommitment", &key(hotkey), block_value(space.last_block));
        let value = Value::record([
            ("last_epoch", Value::from(space.epoch)),
            ("used_space", Value::from(space.used)),
        ]);
        writer.put("Commitments", "UsedSpaceOf", &key(hotkey), value);
    }
    for (hotkey, revealed) in &state.revealed {
        let rows = revealed.iter().map(|revealed| {
            Value::List(vec![Value::bytes(&revealed.content), revealed.block.into()])
        });
        writer.put("Commitments", "RevealedCommitments", &key(hotkey), Value::list(rows));
    }
}

fn beacon(writer: &mut Writer<'_>, rules: &ChainRules, state: &State) {
    if let (Some(key), Some(times)) = (rules.beacon_key, rules.beacon_times) {
        let text = |text: &str| Value::bytes(text);
        let info = Value::record([("beacon_id", text("embedded"))]);
        let value = Value::record([
            ("public_key", Value::bytes(key.0)),
            ("period", Value::from(times.period_s)),
            ("genesis_time", Value::from(times.genesis_s)),
            ("hash", Value::bytes([])),
            ("group_hash", Value::bytes([])),
            ("scheme_id", text("bls-unchained-g1-rfc9380")),
            ("metadata", info),
        ]);
        writer.put("Drand", "BeaconConfig", &[], value);
    }
    for (round, pulse) in &state.pulses {
        let value = Value::record([
            ("round", Value::from(*round)),
            ("randomness", Value::bytes(&pulse.randomness)),
            ("signature", Value::bytes(&pulse.signature)),
        ]);
        writer.put("Drand", "Pulses", &[Value::from(*round)], value);
    }
    writer.put("Drand", "LastStoredRound", &[], state.last_stored_round());
    let oldest = state.pulses.first_key_value().map_or(0, |(round, _)| *round);
    writer.put("Drand", "OldestStoredRound", &[], oldest);
}

fn data(data: &Data) -> Value {
    let timelocked = |name, encrypted: &[u8], round: u64| {
        let fields = [("encrypted", Value::bytes(encrypted)), ("reveal_round", Value::from(round))];
        Value::variant_of(name, fields)
    };
    match data {
        Data::None => Value::unit("None"),
        Data::ResetBonds => Value::unit("ResetBondsFlag"),
        Data::Raw { bytes } => Value::variant(&format!("Raw{}", bytes.len()), Value::bytes(bytes)),
        Data::BigRaw { bytes } => Value::variant("BigRaw", Value::bytes(bytes)),
        Data::Hash { of, digest } => {
            let name = HashKind::NAMES.iter().find(|(kind, _)| kind == of);
            Value::variant(name.map_or("None", |(_, name)| *name), Value::bytes(digest))
        }
        Data::Timelocked { encrypted, round } => timelocked("TimelockEncrypted", encrypted, *round),
        Data::RevealFailed { encrypted, round } => {
            timelocked("TimelockRevealFailed", encrypted, *round)
        }
    }
}

/// Returns an event in the shape of the metadata, or `None` if this runtime lacks its error.
fn event(metadata: &Metadata, record: &EventRecord) -> Option<substrate::EventRecord> {
    let event = &record.event;
    let mut values = Vec::new();
    for field in &event.fields {
        values.push(event_field(metadata, field)?);
    }
    let names: &[&str] = match (event.pallet, event.name) {
        ("Balances", "Withdraw") => &["who", "amount"],
        ("TransactionPayment", "TransactionFeePaid") => &["who", "actual_fee", "tip"],
        ("System", "ExtrinsicSuccess") => &["dispatch_info"],
        ("System", "ExtrinsicFailed") => &["dispatch_error", "dispatch_info"],
        ("Sudo", "Sudid") => &["sudo_result"],
        ("Commitments", "TimelockCommitment") => &["netuid", "who", "reveal_round"],
        ("Commitments", _) => &["netuid", "who"],
        _ => &[],
    };
    let fields = if names.is_empty() {
        Value::List(values)
    } else {
        Value::record(names.iter().copied().zip(values))
    };
    Some(substrate::EventRecord {
        phase: record.extrinsic.map_or(Phase::Initialization, Phase::ApplyExtrinsic),
        pallet: event.pallet.to_owned(),
        name: event.name.to_owned(),
        fields,
    })
}

fn event_field(metadata: &Metadata, field: &Field) -> Option<Value> {
    let error = |refusal: &crate::local::chain::refusal::Refusal| {
        metadata.error_value(refusal.pallet(), refusal.name()).ok()
    };
    Some(match field {
        Field::Number(number) => (*number).into(),
        Field::Flag(flag) => (*flag).into(),
        Field::Account(account) => account.0.into(),
        Field::Bytes(bytes) => Value::bytes(bytes),
        Field::Error(refusal) => error(refusal).unwrap_or_else(|| Value::unit("BadOrigin")),
        Field::Outcome(Ok(())) => Value::variant("Ok", Value::List(Vec::new())),
        Field::Outcome(Err(refusal)) => Value::variant("Err", error(refusal)?),
        Field::Info(info) => Value::record([
            (
                "weight",
                Value::record([
                    ("ref_time", Value::from(info.ref_time)),
                    ("proof_size", Value::from(0_u64)),
                ]),
            ),
            ("class", Value::unit("Normal")),
            ("pays_fee", Value::unit(if info.pays_fee { "Yes" } else { "No" })),
        ]),
    })
}
