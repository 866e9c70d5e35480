//! A scripted chain behind a node: real metadata, blocks that a test makes, calls that succeed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use grail_infrastructure::substrate::{
    EventRecord, Extrinsic, Header, Metadata, Phase, SigningContext, Value, blake2_256,
};
use grail_testkit::vectors;
use serde_json::{Value as Json, json};

use super::node::{Answer, Node, Step};

pub const NETUID: u16 = 1;
pub const SPEC: u32 = 461;
const GENESIS_MS: u64 = 1_790_000_000_000;
const BLOCK_MS: u64 = 12_000;

#[derive(Clone)]
struct Block {
    header: Header,
    extrinsics: Vec<Vec<u8>>,
    events: Vec<EventRecord>,
}

/// What a chain does that it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Hang,
    Reset,
    Slow,
    WrongData,
    NoJson,
    Restart,
    Pruned,
    Upgrade,
    Reorg,
    OtherChain,
}

pub const FAULTS: [Fault; 10] = [
    Fault::Hang,
    Fault::Reset,
    Fault::Slow,
    Fault::WrongData,
    Fault::NoJson,
    Fault::Restart,
    Fault::Pruned,
    Fault::Upgrade,
    Fault::Reorg,
    Fault::OtherChain,
];

/// What a node tells of a watched extrinsic, or what happens meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    /// A status of one word, such as `ready`.
    Word(&'static str),
    /// A status with the hash of the block that has the extrinsic, such as `inBlock`.
    Of(&'static str),
    /// A status of a block that is none of this chain's.
    Elsewhere(&'static str),
    /// Nothing is told: the extrinsic's block is taken away.
    TakenAway,
    /// Nothing is told: the extrinsic comes into another block.
    Again,
    /// Nothing is told: the chain gets another runtime.
    Upgraded,
}

/// The extrinsic that was handed in last.
#[derive(Clone)]
struct Watched {
    bytes: Vec<u8>,
    hash: [u8; 32],
}

struct State {
    blocks: Vec<Block>,
    storage: BTreeMap<Vec<u8>, Vec<u8>>,
    metagraph: Vec<u8>,
    spec: u32,
    nonce: u64,
    fault: Fault,
    /// Time between two blocks.
    block_time: Duration,
    /// Blocks that come by themselves, from which moment on.
    alive_since: tokio::time::Instant,
    /// A watched extrinsic's connection breaks right after the call.
    breaks_watch: bool,
    /// The next call fails with this error of a pallet.
    refuse_next: Option<(u8, u8)>,
    /// The pool's answers to the next extrinsics, instead of taking them.
    pool_refuses: Vec<Json>,
    /// Whether the pool has the extrinsic all the same.
    pool_lies: bool,
    /// Answers with an error instead.
    errors: BTreeMap<String, Json>,
    /// What is told of the next extrinsic, and whether it is in a block at all.
    script: Option<(bool, Vec<(u64, Told)>)>,
    watched: Option<Watched>,
    /// The runtime changes when the next extrinsic is handed in.
    upgrade_at_hand_in: bool,
    /// What subscribers to heads get: `None` for a refusal.
    heads: Option<u64>,
}

/// A chain; clones are the same one.
#[derive(Clone)]
pub struct Chain {
    metadata: Arc<Metadata>,
    blob: Arc<Vec<u8>>,
    /// What the runtime says when it is asked for metadata of format 15.
    offer: Offer,
    down: Arc<Mutex<bool>>,
    state: Arc<Mutex<State>>,
}

/// Which metadata a runtime offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Format 15.
    Described,
    /// Only format 14, and it says so.
    Old,
    /// Only format 14, and it has no function that says so.
    VeryOld,
}

impl Chain {
    /// Starts a chain at block 100, with a neuron registered as uid 0.
    pub fn new(hotkey: [u8; 32]) -> Self {
        // Parsed once for all tests: it takes longer than most of them.
        static RUNTIME: OnceLock<(Arc<Metadata>, Arc<Vec<u8>>)> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| parse("subtensor_spec461_v15.scale"));
        Self::with(hotkey, runtime, Offer::Described)
    }

    /// As [`Self::new`], of a runtime whose metadata has format 14.
    pub fn old(hotkey: [u8; 32], offer: Offer) -> Self {
        static RUNTIME: OnceLock<(Arc<Metadata>, Arc<Vec<u8>>)> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| parse("subtensor_spec425_fast_v14.scale"));
        Self::with(hotkey, runtime, offer)
    }

    fn with(hotkey: [u8; 32], runtime: &(Arc<Metadata>, Arc<Vec<u8>>), offer: Offer) -> Self {
        static METAGRAPH: OnceLock<Vec<u8>> = OnceLock::new();
        let metagraph = METAGRAPH.get_or_init(|| {
            let path = vectors::shared("bittensor/metagraph", "synthetic_metagraph_spec461.json");
            let file: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            vectors::bytes(&file["cases"][0]["option_scale"])
        });
        let (metadata, blob) = runtime;
        let chain = Self {
            metadata: metadata.clone(),
            blob: blob.clone(),
            offer,
            down: Arc::default(),
            state: Arc::new(Mutex::new(State {
                blocks: Vec::new(),
                storage: BTreeMap::new(),
                metagraph: metagraph.clone(),
                spec: SPEC,
                nonce: 0,
                fault: Fault::None,
                block_time: Duration::from_millis(BLOCK_MS),
                alive_since: tokio::time::Instant::now(),
                breaks_watch: false,
                refuse_next: None,
                pool_refuses: Vec::new(),
                pool_lies: false,
                errors: BTreeMap::new(),
                script: None,
                watched: None,
                upgrade_at_hand_in: false,
                heads: Some(0),
            })),
        };
        let net = Value::from(NETUID);
        for (item, keys, value) in [
            ("NetworksAdded", vec![net.clone()], true.into()),
            ("SubnetworkN", vec![net.clone()], 4_u16.into()),
            ("Uids", vec![net.clone(), hotkey.into()], 0_u16.into()),
            ("Tempo", vec![net.clone()], 360_u16.into()),
            ("CommitRevealWeightsEnabled", vec![net.clone()], false.into()),
            ("MinAllowedWeights", vec![net.clone()], 1_u16.into()),
            ("WeightsSetRateLimit", vec![net], 100_u64.into()),
        ] {
            chain.put("SubtensorModule", item, &keys, &value);
        }
        chain.advance(101);
        chain
    }

    /// Returns a node of the chain; all of them are down together.
    pub fn node(&self) -> Node {
        let chain = self.clone();
        let node = Node::new(move |method, params| chain.answer(method, params, false));
        node.going_down_with(&self.down)
    }

    /// Returns a node of the chain that drops no state.
    pub fn archive_node(&self) -> Node {
        let chain = self.clone();
        Node::new(move |method, params| chain.answer(method, params, true))
    }

    /// Refuses connections to every node of the chain while `down`.
    pub fn set_down(&self, down: bool) {
        *self.down.lock().unwrap() = down;
    }

    /// Lets the subnet take weights sealed, or in the clear.
    pub fn seal(&self, is_sealed: bool) {
        let net = [Value::from(NETUID)];
        self.put("SubtensorModule", "CommitRevealWeightsEnabled", &net, &is_sealed.into());
    }

    pub fn set(&self, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.fault = fault;
        match fault {
            Fault::Upgrade => state.spec += 1,
            Fault::Reorg => {
                let n = state.blocks.len();
                for block in &mut state.blocks[n - 3..] {
                    block.header.extrinsics_root[0] ^= 0xff;
                }
                relink(&mut state.blocks);
            }
            _ => {}
        }
    }

    pub fn set_breaks_watch(&self, breaks: bool) {
        self.state.lock().unwrap().breaks_watch = breaks;
    }

    pub fn refuse_next(&self, pallet: u8, error: u8) {
        self.state.lock().unwrap().refuse_next = Some((pallet, error));
    }

    /// Answers the next extrinsics with these errors, one each; `lies` if the pool has taken them.
    pub fn refuse_in_pool(&self, errors: Vec<Json>, lies: bool) {
        let mut state = self.state.lock().unwrap();
        (state.pool_refuses, state.pool_lies) = (errors, lies);
    }

    /// Answers calls of `method` with `error` from now on, or as usual again.
    pub fn answer_with(&self, method: &str, error: Option<Json>) {
        let mut state = self.state.lock().unwrap();
        match error {
            Some(error) => drop(state.errors.insert(method.to_owned(), error)),
            None => drop(state.errors.remove(method)),
        }
    }

    /// Tells this of the next extrinsic, each after so many seconds; `lands` if it is in a block.
    pub fn tell(&self, lands: bool, script: &[(u64, Told)]) {
        self.state.lock().unwrap().script = Some((lands, script.to_vec()));
    }

    /// Changes the runtime at the moment when the next extrinsic is handed in.
    pub fn upgrade_at_hand_in(&self) {
        self.state.lock().unwrap().upgrade_at_hand_in = true;
    }

    /// Tells subscribers of so many heads, one a block; `None` refuses them.
    pub fn tell_heads(&self, heads: Option<u64>) {
        self.state.lock().unwrap().heads = heads;
    }

    /// Makes a block every so often from now on.
    pub fn set_block_time(&self, block_time: Duration) {
        let mut state = self.state.lock().unwrap();
        self.catch_up(&mut state);
        (state.block_time, state.alive_since) = (block_time, tokio::time::Instant::now());
    }

    pub fn set_metagraph(&self, answer: Vec<u8>) {
        self.state.lock().unwrap().metagraph = answer;
    }

    /// Lets `told` happen, and returns the message about it.
    fn happen(&self, told: Told) -> Option<Json> {
        let mut state = self.state.lock().unwrap();
        self.catch_up(&mut state);
        let watched = state.watched.clone()?;
        let at = state.blocks.iter().position(|block| block.extrinsics.contains(&watched.bytes));
        match told {
            Told::Word(word) => return Some(json!(word)),
            Told::Of(word) => {
                let hash = at.map_or(watched.hash, |at| state.blocks[at].header.hash());
                return Some(json!({word: text(&hash)}));
            }
            Told::Elsewhere(word) => return Some(json!({word: text(&[0xab; 32])})),
            Told::TakenAway => {
                let at = at?;
                state.blocks[at].extrinsics.clear();
                state.blocks[at].events.clear();
                state.blocks[at].header.extrinsics_root[0] ^= 0xff;
                relink(&mut state.blocks);
            }
            Told::Again => include(&mut state, watched.bytes, None),
            Told::Upgraded => state.spec += 1,
        }
        None
    }

    /// Makes a block every block time, so that whoever waits for one gets it.
    fn catch_up(&self, state: &mut State) {
        let block_time = state.block_time;
        while state.alive_since.elapsed() >= block_time {
            state.alive_since += block_time;
            push(state, Vec::new(), Vec::new());
        }
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub fn put(&self, pallet: &str, item: &str, keys: &[Value], value: &Value) {
        let item = self.metadata.storage(pallet, item).unwrap();
        let (key, value) = (item.key(keys).unwrap(), item.encode(value).unwrap());
        self.state.lock().unwrap().storage.insert(key, value);
    }

    /// Makes blocks and returns the head's number.
    pub fn advance(&self, blocks: u64) -> u32 {
        let mut state = self.state.lock().unwrap();
        for _ in 0..blocks {
            push(&mut state, Vec::new(), Vec::new());
        }
        state.blocks.last().unwrap().header.number
    }

    /// Makes no blocks until a test asks for them.
    pub fn freeze(&self) {
        self.state.lock().unwrap().alive_since = tokio::time::Instant::now();
    }

    pub fn head_hash(&self) -> [u8; 32] {
        self.state.lock().unwrap().blocks.last().unwrap().header.hash()
    }

    fn answer(&self, method: &str, params: &Json, is_archive: bool) -> Answer {
        let mut state = self.state.lock().unwrap();
        self.catch_up(&mut state);
        if let Some(error) = state.errors.get(method) {
            return Answer::Error(error.clone());
        }
        let is_state = method.starts_with("state_");
        match state.fault {
            Fault::Hang => return Answer::Silence,
            Fault::Reset | Fault::Restart => return Answer::HangUp,
            Fault::NoJson => return Answer::Text("<html>502 Bad Gateway</html>".to_owned()),
            Fault::WrongData if method != "chain_getBlockHash" => {
                return Answer::Result(json!({"surprise": [1, 2, 3]}));
            }
            Fault::Pruned if is_state && !is_archive => {
                let message = "Client error: UnknownBlock: State already discarded for 0x12";
                return Answer::Error(json!({"code": 4003, "message": message}));
            }
            Fault::OtherChain if method == "chain_getBlockHash" => {
                return Answer::Result(json!(format!("0x{}", "11".repeat(32))));
            }
            _ => {}
        }
        let answer = self.honest(&mut state, method, params);
        if state.fault == Fault::Slow {
            return Answer::After(Duration::from_secs(20), Box::new(answer));
        }
        answer
    }

    fn honest(&self, state: &mut State, method: &str, params: &Json) -> Answer {
        let at = |state: &State, index: usize| -> Option<Block> {
            match params[index].as_str() {
                None => state.blocks.last().cloned(),
                Some(hash) => {
                    let found = |block: &&Block| text(&block.header.hash()) == hash;
                    state.blocks.iter().rev().find(found).cloned()
                }
            }
        };
        let unknown = || {
            let message = "Client error: UnknownBlock: Header was not found in the database";
            Answer::Error(json!({"code": 4003, "message": message}))
        };
        Answer::Result(match method {
            "chain_getHeader" => at(state, 0).map_or(Json::Null, |block| header(&block.header)),
            "chain_getFinalizedHead" => {
                let last = state.blocks.len() - 3;
                json!(text(&state.blocks[last].header.hash()))
            }
            "chain_getBlockHash" => {
                let number = usize::try_from(params[0].as_u64().unwrap()).unwrap();
                let block = state.blocks.get(number);
                block.map_or(Json::Null, |block| json!(text(&block.header.hash())))
            }
            "chain_getBlock" => match at(state, 0) {
                None => Json::Null,
                Some(block) => {
                    let extrinsics: Vec<String> =
                        block.extrinsics.iter().map(|bytes| text(bytes)).collect();
                    let block = json!({"header": header(&block.header), "extrinsics": extrinsics});
                    json!({"block": block, "justifications": null})
                }
            },
            "state_getRuntimeVersion" => match at(state, 0) {
                None => return unknown(),
                Some(_) => json!({"specVersion": state.spec, "transactionVersion": 1}),
            },
            "state_getStorage" => match at(state, 1) {
                None => return unknown(),
                Some(block) => self.storage(state, &block, params[0].as_str().unwrap()),
            },
            "state_queryStorageAt" => {
                let Some(block) = at(state, 1) else { return unknown() };
                let keys = params[0].as_array().unwrap().iter();
                let changes: Vec<Json> = keys
                    .map(|key| json!([key, self.storage(state, &block, key.as_str().unwrap())]))
                    .collect();
                json!([{"block": params[1], "changes": changes}])
            }
            "state_getKeysPaged" => {
                let bytes =
                    |index: usize| hex::decode(&params[index].as_str().unwrap()[2..]).unwrap();
                let (prefix, start) = (bytes(0), bytes(2));
                let count = usize::try_from(params[1].as_u64().unwrap()).unwrap();
                let keys =
                    state.storage.keys().filter(|key| key.starts_with(&prefix) && **key > start);
                json!(keys.take(count).map(|key| text(key)).collect::<Vec<_>>())
            }
            "state_call" => match params[0].as_str().unwrap() {
                "Metadata_metadata_at_version" if self.offer == Offer::Old => json!("0x00"),
                name @ "Metadata_metadata_at_version" if self.offer == Offer::VeryOld => {
                    let reason = format!("Exported method {name} is not found");
                    let message = format!("Client error: Execution failed: Other: {reason}");
                    return Answer::Error(json!({"code": 4003, "message": message}));
                }
                "Metadata_metadata_at_version" => {
                    let length = u32::try_from(self.blob.len()).unwrap() << 2 | 2;
                    let mut answer = vec![1];
                    answer.extend(length.to_le_bytes());
                    answer.extend(self.blob.iter());
                    json!(text(&answer))
                }
                "SubnetInfoRuntimeApi_get_metagraph" => json!(text(&state.metagraph)),
                other => panic!("{other} is not scripted"),
            },
            "system_accountNextIndex" => json!(state.nonce),
            "author_submitAndWatchExtrinsic" => {
                let bytes = hex::decode(&params[0].as_str().unwrap()[2..]).unwrap();
                return self.submit(state, &bytes);
            }
            "author_unwatchExtrinsic" | "chain_unsubscribeNewHeads" => json!(true),
            "state_getMetadata" => json!(text(&self.blob)),
            "chain_subscribeNewHeads" => {
                let Some(count) = state.heads else {
                    return Answer::Error(json!({"code": -32601, "message": "Method not found"}));
                };
                let chain = self.clone();
                let step = Step::new(move || {
                    let mut state = chain.state.lock().unwrap();
                    chain.catch_up(&mut state);
                    state.blocks.last().map(|block| header(&block.header))
                });
                let block_time = state.block_time;
                let wait = |n| if n == 0 { Duration::ZERO } else { block_time };
                return Answer::Steps {
                    id: json!("heads"),
                    method: "chain_newHead".to_owned(),
                    steps: (0..=count).map(|n| (wait(n), step.clone())).collect(),
                };
            }
            other => panic!("{other} is not scripted"),
        })
    }

    fn storage(&self, state: &State, block: &Block, key: &str) -> Json {
        let key = hex::decode(&key[2..]).unwrap();
        let is = |pallet: &str, item: &str| {
            self.metadata.storage(pallet, item).unwrap().key(&[]).unwrap() == key
        };
        if is("Timestamp", "Now") {
            let now = GENESIS_MS + u64::from(block.header.number) * BLOCK_MS;
            return json!(text(&now.to_le_bytes()));
        }
        if is("System", "Events") {
            return json!(text(&self.metadata.encode_events(&block.events).unwrap()));
        }
        state.storage.get(&key).map_or(Json::Null, |value| json!(text(value)))
    }

    /// Checks the signature as the pool does, makes a block with the call, and tells of it.
    fn submit(&self, state: &mut State, bytes: &[u8]) -> Answer {
        let invalid = |data: &str| {
            Answer::Error(json!({"code": 1010, "message": "Invalid Transaction", "data": data}))
        };
        let Ok(Extrinsic::Signed(signed)) = self.metadata.decode_extrinsic(bytes) else {
            return Answer::Error(json!({"code": 1040, "message": "Client error: no extrinsic"}));
        };
        if !state.pool_refuses.is_empty() {
            let error = state.pool_refuses.remove(0);
            if state.pool_lies {
                state.nonce += 1;
                include(state, bytes.to_vec(), None);
            }
            return Answer::Error(error);
        }
        if std::mem::take(&mut state.upgrade_at_hand_in) {
            state.spec += 1;
        }
        let head = u64::from(state.blocks.last().unwrap().header.number);
        let birth = usize::try_from(signed.with.era.birth(head)).unwrap();
        let context = SigningContext {
            genesis: state.blocks[0].header.hash(),
            spec_version: state.spec,
            transaction_version: 1,
        };
        let birth_hash = state.blocks[birth].header.hash();
        if signed.verify(&self.metadata, &context, birth_hash).unwrap().is_err() {
            return invalid("Transaction has a bad signature");
        }
        if signed.with.nonce != state.nonce {
            return invalid("Transaction is outdated");
        }
        state.nonce += 1;
        let call = self.metadata.decode_call(&signed.call).unwrap();
        let refusal = state.refuse_next.take();
        if refusal.is_none() {
            self.apply(state, signed.account, &call.name, &call.arguments);
        }
        let script = state.script.take();
        let lands = script.as_ref().is_none_or(|(lands, _)| *lands);
        if lands {
            include(state, bytes.to_vec(), refusal);
        }
        let hash = state.blocks.last().unwrap().header.hash();
        state.watched = Some(Watched { bytes: bytes.to_vec(), hash });
        if state.breaks_watch {
            return Answer::HangUp;
        }
        let usual =
            vec![(0, Told::Word("ready")), (12, Told::Of("inBlock")), (24, Told::Of("finalized"))];
        let script = script.map_or(usual, |(_, script)| script);
        let steps = script.into_iter().map(|(seconds, told)| {
            let chain = self.clone();
            (Duration::from_secs(seconds), Step::new(move || chain.happen(told)))
        });
        Answer::Steps {
            id: json!("watch"),
            method: "author_extrinsicUpdate".to_owned(),
            steps: steps.collect(),
        }
    }

    fn apply(&self, state: &mut State, account: [u8; 32], name: &str, arguments: &Value) {
        let mut put = |pallet: &str, item: &str, keys: &[Value], value: &Value| {
            let item = self.metadata.storage(pallet, item).unwrap();
            state.storage.insert(item.key(keys).unwrap(), item.encode(value).unwrap());
        };
        let block = u64::try_from(state.blocks.len()).unwrap();
        match name {
            "set_commitment" => {
                let info = arguments.field("info").unwrap().clone();
                let value = Value::record([
                    ("deposit", 0_u64.into()),
                    ("block", block.into()),
                    ("info", info),
                ]);
                put("Commitments", "CommitmentOf", &[NETUID.into(), account.into()], &value);
            }
            "set_mechanism_weights" => {
                let list = |name: &str| arguments.field(name).unwrap().as_list().unwrap().to_vec();
                let pairs = list("dests").into_iter().zip(list("weights"));
                let row = Value::list(pairs.map(|(uid, weight)| Value::list([uid, weight])));
                put("SubtensorModule", "Weights", &[NETUID.into(), 0_u16.into()], &row);
                let updates = Value::list([block, 0, 0, 0]);
                put("SubtensorModule", "LastUpdate", &[NETUID.into()], &updates);
            }
            "commit_timelocked_mechanism_weights" => {
                let updates = Value::list([block, 0, 0, 0]);
                put("SubtensorModule", "LastUpdate", &[NETUID.into()], &updates);
            }
            _ => {}
        }
    }
}

/// Makes a block with an extrinsic; an inherent comes first, as in real blocks.
fn include(state: &mut State, extrinsic: Vec<u8>, refusal: Option<(u8, u8)>) {
    let inherent = vec![0x0c, 0x04, 0x02, 0x00];
    let events = vec![outcome(0, None), outcome(1, refusal)];
    push(state, vec![inherent, extrinsic], events);
}

fn parse(file: &str) -> (Arc<Metadata>, Arc<Vec<u8>>) {
    let blob = std::fs::read(vectors::shared("bittensor/metadata", file)).unwrap();
    (Arc::new(Metadata::parse(&blob).unwrap()), Arc::new(blob))
}

fn outcome(index: u32, refusal: Option<(u8, u8)>) -> EventRecord {
    let weight = Value::record([("ref_time", 1_u64.into()), ("proof_size", 0_u64.into())]);
    let info = Value::record([
        ("weight", weight),
        ("class", Value::unit("Normal")),
        ("pays_fee", Value::unit("No")),
    ]);
    let (name, fields) = match refusal {
        None => ("ExtrinsicSuccess", Value::record([("dispatch_info", info)])),
        Some((pallet, error)) => {
            let module = Value::record([
                ("index", pallet.into()),
                ("error", Value::bytes([error, 0, 0, 0])),
            ]);
            let error = Value::variant("Module", module);
            ("ExtrinsicFailed", Value::record([("dispatch_error", error), ("dispatch_info", info)]))
        }
    };
    EventRecord {
        phase: Phase::ApplyExtrinsic(index),
        pallet: "System".to_owned(),
        name: name.to_owned(),
        fields,
    }
}

fn push(state: &mut State, extrinsics: Vec<Vec<u8>>, events: Vec<EventRecord>) {
    let number = u32::try_from(state.blocks.len()).unwrap();
    let parent = state.blocks.last().map_or([0; 32], |block| block.header.hash());
    let extrinsics_root = blake2_256(&extrinsics.concat());
    let header =
        Header { parent, number, state_root: [2; 32], extrinsics_root, digest: Vec::new() };
    state.blocks.push(Block { header, extrinsics, events });
}

fn relink(blocks: &mut [Block]) {
    for index in 1..blocks.len() {
        blocks[index].header.parent = blocks[index - 1].header.hash();
    }
}

fn header(header: &Header) -> Json {
    json!({
        "parentHash": text(&header.parent),
        "number": format!("{:#x}", header.number),
        "stateRoot": text(&header.state_root),
        "extrinsicsRoot": text(&header.extrinsics_root),
        "digest": {"logs": []},
    })
}

fn text(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}
