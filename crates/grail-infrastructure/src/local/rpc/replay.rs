//! What a real node was recorded to answer, asked of this chain: the same extrinsics byte for byte,
//! the same refusals, the same storage.
//!
//! The chain stands in for the recorded one: its metadata, its genesis hash, its accounts. What
//! cannot be the same is named and counted in the output of each test.

use std::collections::{BTreeMap, BTreeSet};

use grail_ports::signer::Signer as _;
use grail_protocol::ids::{BlockNumber, Digest, Hotkey, Netuid};
use grail_testkit::vectors;
use parity_scale_codec::Encode as _;
use serde_json::{Value as Json, json};

use super::tests::{ask, unhex};
use super::*;
use crate::local::chain::header::blake2_256;
use crate::local::chain::rules::ChainRules;
use crate::substrate::{
    DispatchError, Era, EventRecord, Extrinsic, Metadata, MultiSignature, Phase, SignedExtrinsic,
    SigningContext, Value, outcome,
};
use crate::wallet::{Key, Scheme};

pub(super) const SESSION: &str = "recorded/session_node425.json";

/// Answers that tell more of a subnet's economy than this chain has: pools, emission, ranks.
const POORER: [&str; 4] = [
    "SubnetInfoRuntimeApi_get_metagraph",
    "SubnetInfoRuntimeApi_get_selective_metagraph",
    "NeuronInfoRuntimeApi_get_neurons",
    "NeuronInfoRuntimeApi_get_neurons_lite",
];

/// Balance of those who could pay, and price of a registration in block 0 of the recorded chain.
pub(super) const ENDOWMENT_RAO: u64 = 1_000_000_000_000_000;
const FIRST_BURN_RAO: u64 = 100_000_000;

/// Tempo of the recorded chain before its owner changed it.
const FIRST_TEMPO: u64 = 100;

/// Pallets whose events must be the recorded ones, field by field.
const SAME_EVENTS: [&str; 4] = ["SubtensorModule", "Commitments", "Sudo", "TransactionPayment"];

/// Returns a recording; one of another set of vectors, if that has it.
pub(super) fn recorded(file: &str) -> Json {
    let text = std::fs::read_to_string(vectors::shared("bittensor", file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Returns how many entries a recording must have: `own` in this project's own set.
pub(super) fn at_least(own: usize) -> usize {
    if vectors::is_own() { own } else { 1 }
}

pub(super) fn recorded_runtime(session: &Json) -> Arc<Runtime> {
    let path = vectors::shared("bittensor", "metadata/subtensor_spec425_fast_v14.scale");
    let version = u32::try_from(vectors::size(&session["spec_version"])).unwrap();
    Arc::new(Runtime::new(&std::fs::read(path).unwrap(), version).unwrap())
}

fn signed(metadata: &Metadata, bytes: &[u8]) -> SignedExtrinsic {
    match metadata.decode_extrinsic(bytes).unwrap() {
        Extrinsic::Signed(signed) => signed,
        Extrinsic::Bare(_) => panic!("an extrinsic without signature"),
    }
}

/// Returns a node that stands in for the recorded one before its first transaction.
fn stand_in(session: &Json) -> Arc<Node> {
    let runtime = recorded_runtime(session);
    let metadata = &runtime.metadata;
    let (mut netuid, mut sudo, mut endowed) = (None, None, BTreeSet::new());
    for transaction in vectors::list(&session["transactions"]) {
        let signer = vectors::text(&transaction["signer"]).parse::<Hotkey>().unwrap();
        let call = metadata.decode_call(&vectors::bytes(&transaction["call"])).unwrap();
        let is_good = transaction["ok"] == true;
        if call.name == "burned_register" && is_good {
            netuid = Some(call.arguments.field("netuid").unwrap().as_uint().unwrap());
        }
        if call.pallet == "Sudo" && is_good {
            sudo = Some(signer);
        }
        if transaction["block"].is_u64() {
            endowed.insert(signer);
        }
    }
    let block_time_ms = metadata.constant("Aura", "SlotDuration").unwrap().as_uint().unwrap();
    let rules = ChainRules {
        netuid: Netuid(netuid.expect("a registration")),
        block_time_ms,
        genesis_ms: genesis_ms(session, block_time_ms),
        tempo: FIRST_TEMPO,
        commit_reveal: true,
        sudo,
        endowed: endowed.into_iter().map(|who| (who, ENDOWMENT_RAO)).collect(),
        ..ChainRules::local(0)
    };
    let genesis = Digest(vectors::bytes(&session["genesis_hash"]).try_into().unwrap());
    // A fresh node's subnet belongs to the account of zeros, which is its neuron 0.
    let neurons = [(Hotkey([0; 32]), 1)];
    let chain = LocalChain::standing_in(rules, genesis, &neurons, |state| {
        state.burn = FIRST_BURN_RAO;
        state.neurons[0].permit = false;
    });
    Node::new(chain.unwrap(), runtime)
}

/// Returns the time of block 0 if a block came out in every slot since.
fn genesis_ms(session: &Json, block_time_ms: u64) -> u64 {
    let read = |item: &str| {
        let mut reads = vectors::list(&session["reads"]).iter();
        reads.find(|read| read["item"] == item).and_then(|read| read["decoded"].as_u64())
    };
    let (now, number) = (read("Now").unwrap_or(0), read("Number").unwrap_or(0));
    now.saturating_sub(number * block_time_ms)
}

/// A session on its way through the chain.
struct Replay {
    node: Arc<Node>,
    runtime: Arc<Runtime>,
    /// What was not done as it was recorded, and how often.
    notes: BTreeMap<String, usize>,
}

impl Replay {
    fn note(&mut self, what: impl Into<String>) {
        *self.notes.entry(what.into()).or_default() += 1;
    }

    fn advance_to(&self, block: u64) {
        let head = self.node.chain.head().number.0;
        self.node.chain.advance(block.checked_sub(head).expect("blocks in order")).unwrap();
    }

    /// Makes the calls between a signer's last nonce and this one, which are not in the recording:
    /// the call of that signer again.
    fn fill(&mut self, extrinsic: &SignedExtrinsic) {
        let signer = Hotkey(extrinsic.account);
        let due = self.node.chain.next_nonce(signer);
        for nonce in due..extrinsic.with.nonce {
            let call = self.runtime.metadata.decode_call(&extrinsic.call).unwrap();
            let call = calls::understand(&self.runtime.metadata, &call).unwrap();
            let bytes = (nonce, &extrinsic.call).encode();
            let hash = blake2_256(&bytes);
            let transaction =
                crate::local::chain::extrinsic::Transaction { bytes, hash, signer, nonce, call };
            self.node.chain.submit_transaction(transaction).unwrap();
            self.note("calls that the recording leaves out, made without signature");
        }
    }

    /// Signs a mortal extrinsic for this chain, whose blocks have other hashes; `None` if its
    /// signer is none of the well-known accounts.
    fn sign_again(&self, extrinsic: &SignedExtrinsic) -> Option<Vec<u8>> {
        let names = ["Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie"];
        let keys = names.map(|name| Key::from_secret_uri(Scheme::Sr25519, &format!("//{name}")));
        let key = keys.into_iter().flatten().find(|key| key.address().0 == extrinsic.account)?;
        let next = self.node.chain.head().number.0 + 1;
        let birth = self.node.chain.sealed_at(BlockNumber(extrinsic.with.era.birth(next)))?;
        let context = SigningContext {
            genesis: self.node.chain.genesis().0,
            spec_version: self.runtime.spec_version,
            transaction_version: self.runtime.transaction_version,
        };
        let metadata = &self.runtime.metadata;
        let payload =
            metadata.signing_payload(&extrinsic.call, extrinsic.with, &context, birth.row.hash.0);
        let payload = payload.ok()?;
        let signature = MultiSignature::Sr25519(key.sign(&payload.bytes_to_sign()).0);
        Some(payload.into_extrinsic(extrinsic.account, &signature))
    }

    /// Hands in a recorded transaction and compares what comes of it.
    async fn transaction(&mut self, recorded: &Json) {
        let label = vectors::text(&recorded["label"]);
        let mut bytes = vectors::bytes(&recorded["extrinsic"]);
        let extrinsic = signed(&self.runtime.metadata, &bytes);
        let block = recorded["block"].as_u64();
        if let Some(block) = block {
            if extrinsic.with.nonce > self.node.chain.next_nonce(Hotkey(extrinsic.account)) {
                self.advance_to(block - 2);
                self.fill(&extrinsic);
            }
            self.advance_to(block - 1);
            if extrinsic.with.era != Era::Immortal {
                match self.sign_again(&extrinsic) {
                    Some(again) => bytes = again,
                    None => {
                        return self.note(format!("not replayable, signed for a block: {label}"));
                    }
                }
                self.note("signed again, since it names a recorded block");
            }
        }
        let hex = format!("0x{}", hex::encode(&bytes));
        let answer = ask(&self.node, "author_submitExtrinsic", json!([hex])).await;
        if let Some(error) = recorded.get("rpc_error") {
            assert_eq!(&answer["error"], error, "{label}");
            return self.note("refused by the pool alike");
        }
        let hash = format!("0x{}", blake2_256(&bytes));
        assert_eq!(answer["result"], hash, "{label}: {answer}");
        if extrinsic.with.era == Era::Immortal {
            assert_eq!(hash, recorded["extrinsic_hash"], "{label}");
        }
        let Some(block) = block else {
            let pending = ask(&self.node, "author_pendingExtrinsics", json!([])).await;
            assert_eq!(pending["result"], json!([]), "{label} waits");
            return self.note("waiting silently alike");
        };
        self.advance_to(block);
        let (events, index) = self.events_of(&bytes).await;
        let metadata = &self.runtime.metadata;
        let found = outcome(metadata, &events, index).unwrap().expect("an outcome");
        match (recorded.get("error"), found) {
            (None, Ok(())) => {}
            (Some(error), Err(DispatchError::Module(module))) => {
                assert_eq!(json!(module.name), error["name"], "{label}");
                let pallet = metadata.pallet_index(&module.pallet).unwrap();
                assert_eq!(json!(pallet), error["pallet_index"], "{label}");
                self.note("failed in its block alike");
            }
            (expected, found) => panic!("{label}: {found:?}, not {expected:?}"),
        }
        self.compare_events(recorded, &events, index);
    }

    /// Returns the events of the newest block, and the index of `extrinsic` in it.
    async fn events_of(&self, extrinsic: &[u8]) -> (Vec<EventRecord>, u32) {
        let hash = format!("0x{}", self.node.chain.head().hash);
        let body = ask(&self.node, "chain_getBlock", json!([hash])).await;
        let body = vectors::list(&body["result"]["block"]["extrinsics"]).to_vec();
        let index = body.iter().position(|other| unhex(other) == extrinsic).expect("in the block");
        (self.events_at(&hash).await, u32::try_from(index).unwrap())
    }

    async fn events_at(&self, hash: &str) -> Vec<EventRecord> {
        let item = self.runtime.metadata.storage("System", "Events").unwrap();
        let key = format!("0x{}", hex::encode(item.key(&[]).unwrap()));
        let stored = ask(&self.node, "state_getStorage", json!([key, hash])).await;
        self.runtime.metadata.decode_events(Some(&unhex(&stored["result"]))).unwrap()
    }

    fn compare_events(&mut self, recorded: &Json, ours: &[EventRecord], index: u32) {
        let theirs = vectors::bytes(&recorded["events_scale"]);
        let theirs = self.runtime.metadata.decode_events(Some(&theirs)).unwrap();
        let at = u32::try_from(vectors::size(&recorded["extrinsic_index"])).unwrap();
        let own = |events: &[EventRecord], index| -> Vec<EventRecord> {
            let phase = Phase::ApplyExtrinsic(index);
            events.iter().filter(|event| event.phase == phase).cloned().collect()
        };
        let (ours, theirs) = (own(ours, index), own(&theirs, at));
        let same = |events: &[EventRecord]| -> Vec<(String, Option<Value>)> {
            let mut kept = Vec::new();
            for event in events.iter().filter(|event| SAME_EVENTS.contains(&&*event.pallet)) {
                // Stake costs no more than itself here: there is no pool of alpha.
                let fields = (event.name != "StakeAdded").then(|| event.fields.clone());
                kept.push((format!("{}.{}", event.pallet, event.name), fields));
            }
            kept
        };
        assert_eq!(same(&ours), same(&theirs), "{}", recorded["label"]);
        let mut rest = theirs.iter();
        for event in &ours {
            let is_same =
                |other: &&EventRecord| (&other.pallet, &other.name) == (&event.pallet, &event.name);
            for skipped in rest.by_ref().take_while(|other| !is_same(other)) {
                self.note(format!("event not told here: {}.{}", skipped.pallet, skipped.name));
            }
        }
    }
}

#[tokio::test]
async fn a_recorded_session_ends_the_same() {
    let session = recorded(SESSION);
    let node = stand_in(&session);
    let mut replay =
        Replay { runtime: node.runtime(), node: Arc::clone(&node), notes: BTreeMap::new() };
    let transactions = vectors::list(&session["transactions"]);
    let first = node.chain.rules().clone();
    for transaction in transactions {
        replay.transaction(transaction).await;
    }
    // What the chain did by itself: it opened the sealed weights where the real one did.
    let revealed = session["commit_reveal"]["revealed_block"].as_u64().unwrap();
    let block = node.chain.sealed_at(BlockNumber(revealed)).unwrap();
    let events = replay.events_at(&format!("0x{}", block.row.hash)).await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    for event in vectors::list(&session["commit_reveal"]["events"]) {
        assert!(names.contains(&vectors::text(&event["event"])), "{names:?}");
    }
    println!("{} transactions on netuid {}", transactions.len(), first.netuid.0);
    for (note, count) in &replay.notes {
        println!("  {count:>3} {note}");
    }
    let skipped = replay.notes.iter().filter(|(note, _)| note.starts_with("not replayable"));
    let replayed = transactions.len() - skipped.map(|(_, count)| count).sum::<usize>();
    assert!(replayed >= at_least(61), "{replayed} transactions were replayed");

    let reads = vectors::list(&session["reads"]);
    let other = differing_reads(&replay, reads).await;
    println!("{} of {} reads are the same; the others:", reads.len() - other.len(), reads.len());
    for name in &other {
        println!("  {name}");
    }
    assert!(other.iter().all(|name| POORER.contains(&name.as_str())), "{other:?}");
    assert!(reads.len() - other.len() >= at_least(56), "{other:?}");
}

/// Returns the names of the reads that no block answers as recorded, where the blocks that answer
/// the others are in the order of the recording.
async fn differing_reads(replay: &Replay, reads: &[Json]) -> Vec<String> {
    let head = replay.node.chain.head().number.0;
    let mut blocks: Vec<Vec<bool>> = Vec::new();
    for number in 0..=head {
        let Some(block) = replay.node.chain.sealed_at(BlockNumber(number)) else { continue };
        let hash = format!("0x{}", block.row.hash);
        let mut same = Vec::new();
        for read in reads {
            same.push(is_same(replay, read, &hash).await);
        }
        blocks.push(same);
    }
    let (mut from, mut other) = (0, Vec::new());
    for (index, read) in reads.iter().enumerate() {
        match (from..blocks.len()).find(|block| blocks[*block][index]) {
            Some(block) => from = block,
            None => {
                let name = ["runtime_api", "rpc", "item"].iter().find_map(|key| read[key].as_str());
                other.push(name.unwrap_or_default().to_owned());
            }
        }
    }
    other
}

async fn is_same(replay: &Replay, read: &Json, hash: &str) -> bool {
    let ask = async |method: &str, params: Json| {
        ask(&replay.node, method, params).await.get("result").cloned().unwrap_or_default()
    };
    if let Some(function) = read.get("runtime_api") {
        let ours = ask("state_call", json!([function, read["args"], hash])).await;
        // Newer runtimes append to what older ones answer.
        let theirs = vectors::text(&read["result_scale"]);
        return ours.as_str().is_some_and(|ours| ours.starts_with(theirs));
    }
    if let Some(method) = read.get("rpc") {
        let mut params = vectors::list(&read["params"]).to_vec();
        params.push(json!(hash));
        return ask(vectors::text(method), json!(params)).await == read["result"];
    }
    let (pallet, item) = (vectors::text(&read["pallet"]), vectors::text(&read["item"]));
    let item = replay.runtime.metadata.storage(pallet, item).unwrap();
    let decode = |json: &Json| {
        let bytes = (!json.is_null()).then(|| unhex(json));
        item.decode(bytes.as_deref()).unwrap()
    };
    // Where nothing is stored, the default is meant.
    decode(&ask("state_getStorage", json!([read["key"], hash])).await)
        == decode(&read["value_scale"])
}
