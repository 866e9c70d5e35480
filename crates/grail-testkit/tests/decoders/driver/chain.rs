//! What nodes of a chain send: metadata, extrinsics, storage, summaries of subnets, JSON-RPC replies.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use futures::{Sink, Stream};
use grail_infrastructure::substrate::{
    Extrinsic, Metadata, SigningContext, StorageItem, Value as ChainValue,
};
use grail_infrastructure::subtensor::node::{Node, PAGE_KEYS_MAX, read_head};
use grail_infrastructure::subtensor::rpc::{
    Connector, Endpoint, RpcClient, RpcConfig, RpcError, Wire, WireFuture,
};
use grail_protocol::ids::Digest;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::driver::Target;

/// Descriptions of runtimes.
pub const METADATA: Target =
    Target { name: "metadata", drive: metadata, heap_per_byte: 96, heap_beside: 1 << 20 };

/// Extrinsics of blocks, with the calls in them.
pub const EXTRINSIC: Target =
    Target { name: "extrinsic", drive: extrinsic, heap_per_byte: 600, heap_beside: 256 << 10 };

/// Keys and values of storage.
pub const STORAGE: Target =
    Target { name: "storage", drive: storage, heap_per_byte: 600, heap_beside: 256 << 10 };

/// What the runtime tells of a subnet at once.
pub const METAGRAPH: Target =
    Target { name: "metagraph", drive: metagraph, heap_per_byte: 600, heap_beside: 256 << 10 };

/// Replies of a node, to each question that is asked.
pub const RPC: Target =
    Target { name: "rpc", drive: rpc, heap_per_byte: 400, heap_beside: 512 << 10 };

/// Most bytes of an error's text: it tells what is wrong, and does not repeat the input.
const ERROR_BYTES_MAX: usize = 8_000;

/// A real runtime's metadata.
static RUNTIME: LazyLock<Metadata> = LazyLock::new(|| {
    let bytes =
        include_bytes!("../../../../grail-infrastructure/assets/subtensor_spec461_v15.scale");
    Metadata::parse(bytes).expect("it is that of a real runtime")
});

/// Reads the metadata that inputs are read with, which takes more heap than any of them.
pub fn warm_up() {
    LazyLock::force(&RUNTIME);
}

/// Items whose values strangers, or a node, decide.
pub const ITEMS: [(&str, &str); 12] = [
    ("System", "Account"),
    ("System", "Events"),
    ("Timestamp", "Now"),
    ("SubtensorModule", "Tempo"),
    ("SubtensorModule", "Uids"),
    ("SubtensorModule", "Keys"),
    ("SubtensorModule", "Weights"),
    ("SubtensorModule", "LastUpdate"),
    ("SubtensorModule", "TimelockedWeightCommits"),
    ("Commitments", "CommitmentOf"),
    ("Commitments", "RevealedCommitments"),
    ("Drand", "Pulses"),
];

/// Functions of the runtime that tell of many neurons.
pub const FUNCTIONS: [(&str, &str); 4] = [
    ("SubnetInfoRuntimeApi", "get_metagraph"),
    ("SubnetInfoRuntimeApi", "get_selective_metagraph"),
    ("NeuronInfoRuntimeApi", "get_neurons_lite"),
    ("NeuronInfoRuntimeApi", "get_neurons"),
];

/// What a node is asked, by the first byte of an input.
pub const QUESTIONS: [&str; 12] = [
    "chain_getHeader",
    "chain_getFinalizedHead",
    "chain_getBlockHash",
    "chain_getBlock",
    "state_getRuntimeVersion",
    "state_getStorage",
    "state_queryStorageAt",
    "state_getKeysPaged",
    "state_call",
    "state_getMetadata",
    "system_accountNextIndex",
    "chain_subscribeNewHeads",
];

/// Set in the first byte where the rest is a whole message and not only its result.
pub const WHOLE: u8 = 0x80;

/// Number of the question in the client's messages: the first asks which chain it is.
pub const QUESTION_ID: u64 = 2;

/// Keys that are asked for; replies must name them.
pub const KEYS: [&[u8]; 2] = [b"\x01\x02", b"\x01\x03"];

fn told_briefly(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(text.len() < ERROR_BYTES_MAX, "an error of {} bytes", text.len());
}

/// Whatever a runtime says of itself, using it neither panics nor takes for ever.
fn metadata(data: &[u8]) -> bool {
    let metadata = match Metadata::parse(data) {
        Ok(metadata) => metadata,
        Err(error) => {
            told_briefly(&error);
            return false;
        }
    };
    let pallets: Vec<String> = metadata.pallets().map(str::to_owned).collect();
    for pallet in &pallets {
        metadata.pallet_index(pallet).expect("a pallet that is listed has an index");
    }
    for (pallet, item) in ITEMS {
        let Ok(item) = metadata.storage(pallet, item) else { continue };
        if let Ok(Some(value)) = item.decode(None) {
            let written = item.encode(&value).expect("a value that was read can be written");
            assert_eq!(written, item.default_bytes());
        }
        let key = item.key(&[]).expect("the prefix takes no keys");
        drop(item.read_key(&key));
    }
    let remark = [("remark", ChainValue::bytes(b"remark"))];
    if let Ok(call) = metadata.encode_call("System", "remark", remark) {
        let read = metadata.decode_call(&call).expect("a call that was written can be read");
        assert_eq!(metadata.encode(&read).as_ref(), Ok(&call));
    }
    drop(metadata.constant("Aura", "SlotDuration"));
    drop(metadata.error(7, [1, 0, 0, 0]));
    drop(metadata.decode_events(Some(&[4, 0, 0, 0, 0, 0, 0, 0, 0])));
    for (api, name) in FUNCTIONS {
        let Ok(function) = metadata.runtime_function(api, name) else { continue };
        drop(function.decode_arguments(&[0; 64]));
        drop(function.decode_start(&[1; 256]));
    }
    true
}

/// What is read is written back to the same bytes: an extrinsic has one encoding.
fn extrinsic(data: &[u8]) -> bool {
    let context = SigningContext { genesis: [1; 32], spec_version: 461, transaction_version: 1 };
    match RUNTIME.decode_extrinsic(data) {
        Ok(Extrinsic::Bare(call)) => is_call(&call),
        Ok(Extrinsic::Signed(signed)) => {
            let payload = RUNTIME
                .signing_payload(&signed.call, signed.with, &context, [2; 32])
                .expect("what was read can be signed again");
            assert_eq!(payload.into_extrinsic(signed.account, &signed.signature), data);
            is_call(&signed.call)
        }
        Err(error) => {
            told_briefly(&error);
            false
        }
    }
}

fn is_call(bytes: &[u8]) -> bool {
    match RUNTIME.decode_call(bytes) {
        Ok(call) => {
            assert_eq!(RUNTIME.encode(&call).expect("a call that was read can be written"), bytes);
            true
        }
        Err(error) => {
            told_briefly(&error);
            false
        }
    }
}

/// The first byte picks an item, the second its key or its value.
fn storage(data: &[u8]) -> bool {
    let [item, part, bytes @ ..] = data else { return false };
    let (pallet, name) = ITEMS[usize::from(*item) % ITEMS.len()];
    let item = RUNTIME.storage(pallet, name).expect("the runtime has the item");
    if part % 2 == 0 { is_key(&item, bytes) } else { is_value(&item, bytes) }
}

fn is_key(item: &StorageItem<'_>, bytes: &[u8]) -> bool {
    match item.read_key(bytes) {
        Ok(keys) => {
            assert_eq!(item.key(&keys).expect("keys that were read can be written"), bytes);
            true
        }
        Err(error) => {
            told_briefly(&error);
            false
        }
    }
}

fn is_value(item: &StorageItem<'_>, bytes: &[u8]) -> bool {
    match item.decode(Some(bytes)) {
        Ok(value) => {
            let value = value.expect("there are bytes");
            assert_eq!(item.encode(&value).expect("a value that was read can be written"), bytes);
            true
        }
        Err(error) => {
            told_briefly(&error);
            false
        }
    }
}

/// The first byte picks a function; what newer runtimes append may follow its answer.
fn metagraph(data: &[u8]) -> bool {
    let [function, answer @ ..] = data else { return false };
    let (api, name) = FUNCTIONS[usize::from(*function) % FUNCTIONS.len()];
    let function = RUNTIME.runtime_function(api, name).expect("the runtime has the function");
    match function.decode_start(answer) {
        Ok(value) => {
            let written = function.encode(&value).expect("what was read can be written");
            assert!(answer.starts_with(&written), "it is what the answer starts with");
            true
        }
        Err(error) => {
            told_briefly(&error);
            false
        }
    }
}

/// The first byte picks a question, the rest is the node's reply.
fn rpc(data: &[u8]) -> bool {
    let Some((kind, text)) = data.split_first() else { return false };
    let question = QUESTIONS[usize::from(kind & !WHOLE) % QUESTIONS.len()];
    let reply = Reply {
        is_whole: kind & WHOLE != 0,
        is_subscription: question == "chain_subscribeNewHeads",
        text: String::from_utf8_lossy(text).into_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // What a client waits for costs nothing.
        .start_paused(true)
        .build()
        .expect("a runtime without I/O starts");
    let outcome = runtime.block_on(async {
        let endpoint = Endpoint::parse("ws://node.test").expect("it is an address");
        let config = RpcConfig { jitter_seed: Some(1), ..RpcConfig::new(vec![endpoint]) };
        let client = RpcClient::start(config, Arc::new(Host(Arc::new(reply))));
        let node = Node::new(client.clone(), None, None);
        let outcome = ask(&node, question).await;
        client.close().await;
        outcome
    });
    if let Err(error) = &outcome {
        told_briefly(error);
    }
    outcome.is_ok()
}

async fn ask(node: &Node, question: &str) -> Result<(), RpcError> {
    let at = Digest([9; 32]);
    match question {
        "chain_getHeader" => node.header(Some(at)).await.map(drop),
        "chain_getFinalizedHead" => node.finalized().await.map(drop),
        "chain_getBlockHash" => node.block_hash(7).await.map(drop),
        "chain_getBlock" => node.body(at).await.map(drop),
        "state_getRuntimeVersion" => node.runtime_version(at).await.map(drop),
        "state_getStorage" => node.storage(b"key", at).await.map(drop),
        "state_queryStorageAt" => {
            let values = node.values(&KEYS.map(<[u8]>::to_vec), at).await?;
            assert_eq!(values.len(), KEYS.len(), "one for each key");
            Ok(())
        }
        "state_getKeysPaged" => {
            let keys = node.keys(&KEYS[0][..1], at, PAGE_KEYS_MAX).await?;
            assert!(keys.len() <= PAGE_KEYS_MAX && keys.is_sorted());
            assert!(keys.iter().all(|key| key.starts_with(&KEYS[0][..1])));
            Ok(())
        }
        "state_call" => node.runtime_call("function", &[], at).await.map(drop),
        "state_getMetadata" => node.metadata(at).await.map(drop),
        "system_accountNextIndex" => node.next_nonce("address").await.map(drop),
        _ => {
            let mut heads = node.subscribe_heads().await?;
            read_head(&heads.next().await?).map(drop)
        }
    }
}

/// A node that says the same to every question but the one which chain it serves.
struct Reply {
    is_whole: bool,
    is_subscription: bool,
    text: String,
}

impl Reply {
    fn to(&self, request: &Value) -> Vec<String> {
        let id = &request["id"];
        let result = |text: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{text}}}"#);
        let is_which = request["method"] == "chain_getBlockHash" && request["params"] == json!([0]);
        if is_which {
            return vec![result(&format!("\"0x{}\"", "00".repeat(32)))];
        }
        if self.is_whole {
            return vec![self.text.clone()];
        }
        if self.is_subscription {
            let message = format!(
                r#"{{"jsonrpc":"2.0","method":"m","params":{{"subscription":"s","result":{}}}}}"#,
                self.text
            );
            return vec![result("\"s\""), message];
        }
        vec![result(&self.text)]
    }
}

/// Where the node is reached.
struct Host(Arc<Reply>);

impl Connector for Host {
    fn connect<'a>(&'a self, _: &'a Endpoint) -> WireFuture<'a> {
        let line = Line { node: self.0.clone(), waiting: VecDeque::new(), reader: None };
        Box::pin(async move { Ok(Box::new(line) as Box<dyn Wire>) })
    }
}

/// A connection in memory.
struct Line {
    node: Arc<Reply>,
    waiting: VecDeque<Message>,
    reader: Option<Waker>,
}

impl Stream for Line {
    type Item = Result<Message, WsError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.waiting.pop_front() {
            Some(message) => Poll::Ready(Some(Ok(message))),
            None => {
                self.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Sink<Message> for Line {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), WsError> {
        if let Message::Text(text) = message {
            let request: Value = serde_json::from_str(&text).expect("the client writes JSON");
            let replies = self.node.to(&request);
            self.waiting.extend(replies.into_iter().map(|reply| Message::Text(reply.into())));
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}
