//! Extrinsics, subscriptions and forks.

use grail_infrastructure::local::chain::rules::{ALICE, ChainRules};
use grail_infrastructure::local::rpc::Runtime;
use grail_infrastructure::substrate::{Value, blake2_256, outcome};
use grail_protocol::ids::Hotkey;
use serde_json::{Value as Json, json};

use super::{NETUID, Served, Socket, hex_of, key, rules, unhex};

fn number(header: &Json) -> u64 {
    u64::from_str_radix(header["number"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// Returns the hash of the chain's block `number` as clients see it.
fn hash(served: &Served, number: u64) -> String {
    let row = served.chain.block(grail_protocol::ids::BlockNumber(number)).unwrap();
    format!("0x{}", row.unwrap().hash)
}

#[tokio::test]
async fn an_extrinsic_by_http_is_in_the_next_block_and_its_events_tell_the_outcome() {
    let served = Served::start(rules()).await;
    let (miner, stranger) = (key("Miner"), key("Stranger"));
    let good = served.commitment(&miner, "hello").await;
    let answer = served.ask("author_submitExtrinsic", json!([hex_of(&good)])).await;
    assert_eq!(answer["result"], hex_of(&blake2_256(&good)));
    let again = served.ask("author_submitExtrinsic", json!([hex_of(&good)])).await;
    assert_eq!(again["error"]["code"], 1013);
    let pending = served.ask("author_pendingExtrinsics", json!([])).await;
    assert_eq!(pending["result"], json!([hex_of(&good)]));
    let nonce = served.ask("system_accountNextIndex", json!([miner.address().to_ss58()])).await;
    assert_eq!(nonce["result"], 1, "the pool counts");

    let strange = served.commitment(&stranger, "hello").await;
    let refused = served.ask("author_submitExtrinsic", json!([hex_of(&strange)])).await;
    assert_eq!(refused["error"]["code"], 1010, "nobody knows the account");
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused = served.ask("author_submitExtrinsic", json!([hex_of(&forged)])).await;
    assert_eq!(refused["error"]["data"], "Transaction has a bad signature");
    // A call that the chain's rules refuse is included all the same.
    let args = vec![("netuid", NETUID.into()), ("hotkey", Value::from(miner.address().0))];
    let failing = served.sign(&key("Alice"), ("SubtensorModule", "burned_register"), args).await;
    served.ask("author_submitExtrinsic", json!([hex_of(&failing)])).await;

    served.chain.advance(1).unwrap();
    let at = hash(&served, 1);
    let block = served.ask("chain_getBlock", json!([at])).await["result"]["block"].clone();
    let body: Vec<Vec<u8>> = block["extrinsics"].as_array().unwrap().iter().map(unhex).collect();
    assert_eq!(body[1..], [good, failing], "behind the block's own time");
    let runtime = Runtime::current();
    let item = runtime.metadata.storage("System", "Events").unwrap();
    let item_key = hex_of(&item.key(&[]).unwrap());
    let stored = served.ask("state_getStorage", json!([item_key, at])).await;
    let events = runtime.metadata.decode_events(Some(&unhex(&stored["result"]))).unwrap();
    assert_eq!(outcome(&runtime.metadata, &events, 1).unwrap(), Some(Ok(())));
    let failed = outcome(&runtime.metadata, &events, 2).unwrap().unwrap().unwrap_err();
    assert!(failed.to_string().contains("HotKeyAlreadyRegisteredInSubNet"), "{failed}");
    assert_eq!(served.ask("author_pendingExtrinsics", json!([])).await["result"], json!([]));
    assert_eq!(served.chain.commitments()[&miner.address()], b"hello");
}

#[tokio::test]
async fn a_future_nonce_waits_for_the_ones_before() {
    let served = Served::start(rules()).await;
    let miner = key("Miner");
    let first = served.commitment(&miner, "first").await;
    served.ask("author_submitExtrinsic", json!([hex_of(&first)])).await;
    let second = served.commitment(&miner, "second").await;
    // The fork forgets the first one, so that the second one's turn has not come.
    served.chain.advance(1).unwrap();
    served.chain.set_finality_lag(5);
    let other = Served::start(rules()).await;
    let early = other.ask("author_submitExtrinsic", json!([hex_of(&second)])).await;
    assert_eq!(early["result"], hex_of(&blake2_256(&second)), "accepted silently");
    other.chain.advance(1).unwrap();
    assert!(other.chain.commitments().is_empty());
    other.ask("author_submitExtrinsic", json!([hex_of(&first)])).await;
    other.chain.advance(1).unwrap();
    assert_eq!(other.chain.commitments()[&miner.address()], b"second");
}

#[tokio::test]
async fn a_watched_extrinsic_is_told_through_a_fork_to_finality() {
    let served = Served::start(ChainRules { finality_lag: 3, ..rules() }).await;
    served.chain.advance(5).unwrap();
    let mut socket = Socket::connect(&served).await;
    let bytes = served.commitment(&key("Miner"), "watched").await;
    let id = socket.subscribe("author_submitAndWatchExtrinsic", json!([hex_of(&bytes)])).await;
    assert_eq!(socket.told(&id).await, "ready");
    served.chain.advance(1).unwrap();
    let left = hash(&served, 6);
    assert_eq!(socket.told(&id).await, json!({"inBlock": left}));
    served.chain.fork(1, true).unwrap();
    assert_ne!(hash(&served, 6), left);
    assert_eq!(socket.told(&id).await, json!({"retracted": left}));
    assert_eq!(socket.told(&id).await, json!({"inBlock": hash(&served, 6)}));
    served.chain.advance(2).unwrap();
    assert_eq!(socket.told(&id).await, json!({"finalized": hash(&served, 6)}));
    let refused = served.commitment(&key("Stranger"), "x").await;
    socket.send(8, "author_submitAndWatchExtrinsic", json!([hex_of(&refused)])).await;
    let answer = socket.receive().await.unwrap();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(8), &json!(1010)));
}

#[tokio::test]
async fn heads_are_told_with_the_lag_of_finality_and_again_after_a_fork() {
    let served = Served::start(ChainRules { finality_lag: 2, ..rules() }).await;
    served.chain.advance(4).unwrap();
    let mut socket = Socket::connect(&served).await;
    let best = socket.subscribe("chain_subscribeNewHeads", json!([])).await;
    assert_eq!(number(&socket.told(&best).await), 4);
    served.chain.advance(1).unwrap();
    let fifth = socket.told(&best).await;
    assert_eq!((number(&fifth), &fifth["parentHash"]), (5, &json!(hash(&served, 4))));
    let gone = served.ask("chain_getHeader", json!([hash(&served, 5)])).await["result"].clone();
    assert_eq!(gone, fifth);
    served.chain.fork(1, false).unwrap();
    let sixth = socket.told(&best).await;
    assert_eq!((number(&sixth), &sixth["parentHash"]), (6, &json!(hash(&served, 5))));
    assert!(served.chain.fork(3, false).is_err(), "what is final stays");

    let mut other = Socket::connect(&served).await;
    let last = other.subscribe("chain_subscribeFinalizedHeads", json!([])).await;
    assert_eq!(number(&other.told(&last).await), 4);
    served.chain.set_finality_lag(4);
    served.chain.advance(1).unwrap();
    assert_eq!(number(&socket.told(&best).await), 7);
    let head = served.ask("chain_getFinalizedHead", json!([])).await;
    assert_eq!(head["result"], hash(&served, 4), "finality stands still while it lags more");
    served.chain.advance(2).unwrap();
    assert_eq!(number(&other.told(&last).await), 5);
    other.send(9, "chain_unsubscribeFinalizedHeads", json!([last])).await;
    assert_eq!(other.receive().await.unwrap()["result"], true);
    other.send(9, "chain_unsubscribeFinalizedHeads", json!([last])).await;
    assert_eq!(other.receive().await.unwrap()["result"], false, "it has ended");
}

#[tokio::test]
async fn the_owner_rules_by_sudo_and_nobody_else() {
    let served = Served::start(ChainRules { sudo: Some(ALICE), ..rules() }).await;
    let tempo = |tempo: u16| {
        let inner = Value::variant_of(
            "sudo_set_tempo",
            [("netuid", NETUID.into()), ("tempo", tempo.into())],
        );
        vec![("call", Value::variant("AdminUtils", inner))]
    };
    for (who, value) in [("Alice", 50), ("Miner", 60)] {
        let bytes = served.sign(&key(who), ("Sudo", "sudo"), tempo(value)).await;
        served.ask("author_submitExtrinsic", json!([hex_of(&bytes)])).await;
        served.chain.advance(1).unwrap();
        assert_eq!(served.chain.hyperparameters().tempo, 50, "{who}");
    }
}

#[tokio::test]
async fn a_batch_is_answered_whole_and_a_notification_not_at_all() {
    let served = Served::start(rules()).await;
    let one = |id: u64, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method});
    let batch = json!([one(1, "system_chain"), one(2, "mint"), one(3, "chain_getHead")]);
    let answers = served.post(&batch).await;
    assert_eq!(answers[0]["result"], "Bittensor local (development)");
    assert_eq!((&answers[1]["error"]["code"], &answers[1]["id"]), (&json!(-32601), &json!(2)));
    assert_eq!(answers[2]["result"], hash(&served, 0));
    let properties = served.ask("system_properties", json!([])).await;
    assert_eq!(properties["result"]["isDevelopment"], true);
    let unknown: Hotkey = Hotkey([9; 32]);
    let nonce = served.ask("system_accountNextIndex", json!([unknown.to_ss58()])).await;
    assert_eq!(nonce["result"], 0);
}
