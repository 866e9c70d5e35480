//! Single questions that a real node was recorded to answer, and the messages of its subscriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use grail_protocol::ids::{Digest, Hotkey};
use grail_testkit::vectors;
use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::Message;

use super::replay::{ENDOWMENT_RAO, SESSION, at_least, recorded, recorded_runtime};
use super::tests::ask;
use super::*;
use crate::local::chain::rules::ChainRules;
use crate::substrate::Extrinsic;

const RECORDS: &str = "recorded/rpc_node425.json";

/// What answers otherwise on purpose, or tells what only the recorded chain had done.
const OTHERWISE: [&str; 12] = [
    // Names of another program, and of a development chain.
    "system_chain",
    "system_name",
    "system_properties",
    "system_version",
    "rpc_methods",
    "state_getRuntimeVersion",
    // Other formats of metadata.
    "state_call",
    // Hashes, roots, seals and times of other blocks.
    "chain_getHeader",
    "chain_getBlock",
    "chain_getFinalizedHead",
    "state_queryStorageAt",
    // Other neurons.
    "state_getKeysPaged",
];

/// A node in the place of the recorded one, and that one's block hashes with ours.
struct StandIn {
    node: Arc<Node>,
    hashes: BTreeMap<String, String>,
}

impl StandIn {
    fn new(records: &[Json]) -> Self {
        let session = recorded(SESSION);
        let runtime = recorded_runtime(&session);
        let signers = records.iter().filter_map(|record| {
            let bytes = record["params"][0].as_str()?.strip_prefix("0x")?;
            match runtime.metadata.decode_extrinsic(&hex::decode(bytes).ok()?).ok()? {
                Extrinsic::Signed(signed) => Some(Hotkey(signed.account)),
                Extrinsic::Bare(_) => None,
            }
        });
        let rules = ChainRules {
            block_time_ms: 250,
            finality_lag: 3,
            endowed: signers.map(|who| (who, ENDOWMENT_RAO)).collect(),
            ..ChainRules::local(0)
        };
        let blocks: BTreeMap<u64, String> = records
            .iter()
            .filter(|record| record["method"] == "chain_getBlockHash")
            .filter_map(|record| {
                Some((record["params"][0].as_u64()?, record["result"].as_str()?.to_owned()))
            })
            .collect();
        let genesis =
            blocks.get(&0).map_or_else(|| session["genesis_hash"].clone(), |it| json!(it));
        let genesis = Digest(vectors::bytes(&genesis).try_into().unwrap());
        let chain = LocalChain::standing_in(rules, genesis, &[(Hotkey([0; 32]), 1)], |state| {
            for record in records.iter().filter(|record| record["method"] == "account_nextIndex") {
                let who = vectors::text(&record["params"][0]).parse().unwrap();
                state.accounts.entry(who).or_default().nonce = record["result"].as_u64().unwrap();
            }
        });
        let chain = chain.unwrap();
        chain.advance(blocks.keys().max().unwrap() + 5).unwrap();
        let ours = |number: &u64| {
            let row = chain.block(grail_protocol::ids::BlockNumber(*number)).unwrap().unwrap();
            format!("0x{}", row.hash)
        };
        let hashes = blocks.iter().map(|(number, hash)| (hash.clone(), ours(number))).collect();
        Self { node: Node::new(chain, runtime), hashes }
    }

    /// Returns JSON of the recorded chain with our block hashes.
    fn ours(&self, recorded: &Json) -> Json {
        let mut text = recorded.to_string();
        for (theirs, ours) in &self.hashes {
            text = text.replace(theirs, ours);
        }
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test]
async fn questions_get_the_recorded_answers() {
    let file = recorded(RECORDS);
    let records = vectors::list(&file["records"]);
    let stand_in = StandIn::new(records);
    let (mut refusals, mut answers, mut other) = (0, 0, Vec::new());
    for record in records {
        let Some(method) = record["method"].as_str() else { continue };
        let found = ask(&stand_in.node, method, stand_in.ours(&record["params"])).await;
        if let Some(error) = record.get("error") {
            // A backtrace names addresses in the recorded node's program.
            let text = |error: &Json| {
                let text = error["message"].as_str().unwrap().to_owned();
                text.split("\nWASM backtrace").next().unwrap().to_owned()
            };
            assert_eq!(found["error"]["code"], error["code"], "{method}");
            assert_eq!(text(&found["error"]), text(error), "{method}");
            if !error.to_string().contains("WASM backtrace") {
                assert_eq!(found["error"]["data"], error["data"], "{method}");
            }
            refusals += 1;
        } else if found["result"] == stand_in.ours(&record["result"]) {
            answers += 1;
        } else {
            assert!(OTHERWISE.contains(&method), "{method}: {found}, not {}", record["result"]);
            other.push(method);
        }
    }
    println!("{refusals} refusals and {answers} answers alike; otherwise: {other:?}");
    assert!(refusals >= at_least(10) && answers >= at_least(12), "{refusals} and {answers}");
}

/// A connection by WebSocket that is driven by hand.
struct Socket {
    stream: tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>,
}

impl Socket {
    async fn connect(node: &Arc<Node>) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, node.routes()).into_future());
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) =
            tokio_tungstenite::client_async(format!("ws://{address}"), tcp).await.unwrap();
        Self { stream }
    }

    async fn send(&mut self, method: &str, params: &Json) {
        let request = json!({"jsonrpc": "2.0", "id": method, "method": method, "params": params});
        self.stream.send(Message::text(request.to_string())).await.unwrap();
    }

    async fn receive(&mut self) -> Json {
        let next = tokio::time::timeout(Duration::from_secs(20), self.stream.next());
        let message = next.await.expect("a message").unwrap().unwrap();
        serde_json::from_slice(&message.into_data()).unwrap()
    }
}

/// Returns JSON without what differs from chain to chain: the text of hexadecimal values and ids.
fn shape(json: &Json) -> Json {
    match json {
        Json::String(text) if text.starts_with("0x") || text.starts_with("grail") => json!("0x"),
        Json::Array(_) => json!([]),
        Json::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn subscriptions_tell_what_the_real_ones_told() {
    let file = recorded(RECORDS);
    let records = vectors::list(&file["records"]);
    let stand_in = StandIn::new(records);
    let chain = &stand_in.node.chain;
    let mut socket = Socket::connect(&stand_in.node).await;
    let mut kinds = Vec::new();
    for record in records {
        let Some(method) = record["subscription"].as_str() else { continue };
        let params = record.get("params").cloned().unwrap_or_else(|| json!([]));
        socket.send(method, &params).await;
        let answer = socket.receive().await;
        let id = answer["result"].clone();
        assert!(id.is_string(), "{answer}");
        for recorded in vectors::list(&record["messages"]) {
            let mut found = socket.receive().await;
            assert_eq!(found["params"]["subscription"], id);
            assert_eq!(shape(&found), shape(recorded), "{method}");
            if let Some(included) = found["params"]["result"].get_mut("finalized") {
                let block = ask(&stand_in.node, "chain_getBlock", json!([included])).await;
                let body = vectors::list(&block["result"]["block"]["extrinsics"]).to_vec();
                assert!(body.contains(&params[0]), "the final block has the extrinsic");
            }
            // One more than finality lags, so that the next message is due.
            chain.advance(4).unwrap();
        }
        kinds.push(method.to_owned());
        let end = method.replace("submitAndWatch", "unwatch").replace("_subscribe", "_unsubscribe");
        socket.send(&end, &json!([id])).await;
        while socket.receive().await.get("id") != Some(&json!(end)) {}
    }
    println!("{kinds:?}");
    assert!(kinds.len() >= at_least(3), "{kinds:?}");
}
