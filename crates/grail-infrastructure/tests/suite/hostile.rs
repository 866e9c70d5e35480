//! Peers that lie: to the server with requests, and to the clients with answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use grail_infrastructure::drand::{Drand, DrandBeacon, DrandChain, DrandConfig, OwnChain};
use grail_infrastructure::local::client::{Http, HttpBuckets};
use grail_infrastructure::local::network::{NetworkFile, Node};
use grail_infrastructure::local::store::credentials::BucketKeys;
use grail_infrastructure::wallet::Wallet;
use grail_ports::beacon::{Beacon, BeaconError};
use grail_ports::object_store::{Buckets, StoreError};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Digest};
use serde_json::{Value, json};

use crate::common::{Served, config, loopback};

// ---- lying clients

/// A miner's own keys, used without the client.
struct Attacker {
    served: Served,
    http: reqwest::Client,
    node: Node,
    keys: BucketKeys,
}

impl Attacker {
    async fn start() -> Self {
        let served = Served::start(&config()).await;
        let node = served.remote("miner-1").await;
        let keys = BucketKeys::load(&served.dir().join("wallets/miner-1/bucket.json")).unwrap();
        grail_infrastructure::tls::install_provider();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { served, http, node, keys }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.served.server.endpoint())
    }

    fn genesis(&self) -> Digest {
        self.served.network.file().genesis
    }

    /// Returns the headers of a signed change, as documented.
    fn change(
        &self,
        signer: &dyn Signer,
        method: &str,
        key: &str,
        nonce: u64,
        body: &[u8],
    ) -> Change {
        let bucket = self.keys.write.account_id.clone();
        let mut message = b"grail/v6/local-store-change\0".to_vec();
        message.extend_from_slice(&self.genesis().0);
        for text in [method, &bucket, key] {
            message.extend_from_slice(&u64::try_from(text.len()).unwrap().to_le_bytes());
            message.extend_from_slice(text.as_bytes());
        }
        message.extend_from_slice(&nonce.to_le_bytes());
        message.extend_from_slice(&Digest::of(body).0);
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: String| {
            headers.insert(name, value.parse().unwrap());
        };
        let write = &self.keys.write;
        set("authorization", format!("Grail {}:{}", write.access_key_id, *write.secret_access_key));
        set("x-grail-nonce", nonce.to_string());
        set("x-grail-sha256", Digest::of(body).to_hex());
        set("x-grail-signature", String::from(signer.sign(&message)));
        Change { url: self.url(&format!("/store/{bucket}/{key}")), headers, body: body.to_vec() }
    }

    async fn put(&self, change: &Change) -> (StatusCode, Value) {
        let request = self.http.put(&change.url).headers(change.headers.clone());
        answer(request.body(change.body.clone()).send().await.unwrap()).await
    }
}

#[derive(Clone)]
struct Change {
    url: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

async fn answer(response: reqwest::Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_captured_upload_cannot_be_sent_again() {
    let attacker = Attacker::start().await;
    let wallet = Arc::clone(&attacker.node.wallet);
    let old = attacker.change(&*wallet, "PUT", "a", 0, b"old");
    assert_eq!(attacker.put(&old).await.0, StatusCode::NO_CONTENT);
    let new = attacker.change(&*wallet, "PUT", "a", 1, b"new");
    assert_eq!(attacker.put(&new).await.0, StatusCode::NO_CONTENT);
    for replayed in [&old, &new] {
        let (status, body) = attacker.put(replayed).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(body, json!({"error": "bad_nonce", "expected": 2}));
    }
    let own = attacker.node.buckets.own();
    assert_eq!(own.get("a", 10).await.unwrap().as_deref(), Some(b"new".as_slice()));
    own.put("b", "client".into()).await.expect("the client finds the nonce that is due");
}

#[tokio::test]
async fn an_altered_upload_is_refused() {
    let attacker = Attacker::start().await;
    let wallet = Arc::clone(&attacker.node.wallet);
    let good = attacker.change(&*wallet, "PUT", "a", 0, b"bytes");
    let stranger = Wallet::from_seed(&[50; 32]);
    let with = |name: &'static str, value: &str| {
        let mut change = good.clone();
        change.headers.insert(name, value.parse().unwrap());
        change
    };
    let without = |name: &'static str| {
        let mut change = good.clone();
        change.headers.remove(name);
        change
    };
    let read = &attacker.keys.read;
    let read_key = format!("Grail {}:{}", read.access_key_id, read.secret_access_key);
    for (what, change, status) in [
        ("another body", Change { body: b"other".to_vec(), ..good.clone() }, 400),
        ("another key", Change { url: good.url.clone() + "b", ..good.clone() }, 403),
        ("another nonce", with("x-grail-nonce", "1"), 403),
        ("another hash", with("x-grail-sha256", &Digest::of(b"other").to_hex()), 403),
        ("a stranger's signature", attacker.change(&stranger, "PUT", "a", 0, b"bytes"), 403),
        ("another method's signature", attacker.change(&*wallet, "DELETE", "a", 0, b"bytes"), 403),
        ("the read key", with("authorization", &read_key), 403),
        ("no key", without("authorization"), 403),
        ("a key of another scheme", with("authorization", "Bearer x"), 403),
        ("no nonce", without("x-grail-nonce"), 400),
        ("no hash", without("x-grail-sha256"), 400),
        ("no signature", without("x-grail-signature"), 400),
        ("half a signature", with("x-grail-signature", "abcd"), 400),
        ("a nonce too large", with("x-grail-nonce", "18446744073709551616"), 400),
    ] {
        let (found, body) = attacker.put(&change).await;
        assert_eq!(found.as_u16(), status, "{what}: {body}");
        assert!(body["error"].is_string(), "{what} is explained");
        let text = body.to_string();
        assert!(!text.contains(&attacker.keys.write.secret_access_key[..16]), "{what}");
    }
    assert_eq!(attacker.node.buckets.own().list("").await.unwrap(), []);
}

#[tokio::test]
async fn escaped_keys_do_not_leave_the_bucket() {
    let attacker = Attacker::start().await;
    let bucket = &attacker.keys.write.account_id;
    let write = &attacker.keys.write;
    let key = format!("Grail {}:{}", write.access_key_id, *write.secret_access_key);
    for path in ["..%2f..%2fnetwork.json", "%2e%2e/x", "a%2f%2fb", "a%00b", "a%5cb", "%2Fetc"] {
        // Sent raw: clients tidy addresses up before they send them.
        let mut stream = TcpStream::connect(attacker.served.server.address()).unwrap();
        let head = format!(
            "GET /store/{bucket}/{path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n\
             connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let text = read.await.unwrap();
        assert!(text.starts_with("HTTP/1.1 400"), "{path}: {text}");
        assert!(!text.contains("genesis_ms"));
    }
}

#[tokio::test]
async fn oversized_bodies_are_refused_unread() {
    let attacker = Attacker::start().await;
    let wallet = Arc::clone(&attacker.node.wallet);
    let change = attacker.change(&*wallet, "PUT", "a", 0, b"x");
    let mut stream = TcpStream::connect(attacker.served.server.address()).unwrap();
    let path = change.url.strip_prefix(&attacker.served.server.endpoint()).unwrap();
    let mut head = format!("PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    head.push_str("content-length: 99999999999999\r\n");
    for (name, value) in &change.headers {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 12];
        stream.read_exact(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    assert_eq!(text.await.unwrap(), "HTTP/1.1 413");
}

#[tokio::test]
async fn a_captured_extrinsic_is_included_once_and_a_forged_one_never() {
    let attacker = Attacker::start().await;
    let chain = attacker.served.network.chain();
    let submit = async |extrinsic: &[u8]| {
        let params = [format!("0x{}", hex::encode(extrinsic))];
        let request = json!({"id": 1, "method": "author_submitExtrinsic", "params": params});
        let response = attacker.http.post(attacker.url("/")).json(&request).send().await.unwrap();
        answer(response).await.1
    };
    attacker.node.chain.set_commitment(b"first").await.unwrap();
    let row = chain.block(BlockNumber(1)).unwrap().unwrap();
    let captured = row.extrinsics[0].bytes.clone().unwrap();
    assert_eq!(submit(&captured).await["error"]["data"], "Transaction is outdated");
    attacker.node.chain.set_commitment(b"second").await.unwrap();
    assert_eq!(submit(&captured).await["error"]["data"], "Transaction is outdated");
    let head = chain.head();
    for position in 0..captured.len() {
        let mut forged = captured.clone();
        forged[position] ^= 1;
        let answer = submit(&forged).await;
        assert!(answer["error"]["code"].is_i64(), "byte {position}: {answer}");
    }
    assert_eq!(chain.head(), head, "no block was made for any of them");
    assert_eq!(chain.commitments()[&attacker.node.wallet.hotkey()], b"second");
}

#[tokio::test]
async fn pages_answer_nonsense_with_reasons() {
    let attacker = Attacker::start().await;
    let hash = attacker.served.network.file().beacon.hash;
    let max = u64::MAX;
    for (path, status) in [
        (format!("/{hash}/public/{max}"), 404),
        (format!("/{hash}/public/0"), 404),
        (format!("/{hash}/public/latest"), 200),
        (format!("/{hash}/public/x"), 400),
        (format!("/{hash}/info"), 200),
        (format!("/{}/info", "0".repeat(64)), 404),
        ("/chains".into(), 200),
        ("/health".into(), 200),
        ("/nothing".into(), 404),
        ("/store/x".into(), 403),
        (format!("/store/{}?prefix=a", attacker.keys.write.account_id), 403),
    ] {
        let response = attacker.http.get(attacker.url(&path)).send().await.unwrap();
        assert!(response.headers().contains_key("x-grail-network"), "{path}");
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

// ---- lying servers

/// Serves `respond` as if it were the network of `file`, and returns the address.
async fn impostor<F>(file: &NetworkFile, respond: F) -> String
where
    F: Fn(&str) -> Response + Clone + Send + Sync + 'static,
{
    let genesis = file.genesis.to_hex();
    let app = Router::new().fallback(move |request: Request| {
        let mut response = respond(request.uri().path());
        response.headers_mut().insert("x-grail-network", genesis.parse().unwrap());
        async move { response }
    });
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn a_forged_round_is_never_believed() {
    let served = Served::start(&config()).await;
    served.network.chain().advance(10).unwrap();
    let file = served.network.file();
    let path = format!("{}/{}/public/3", served.server.endpoint(), file.beacon.hash);
    grail_infrastructure::tls::install_provider();
    let genuine = reqwest::Client::builder().no_proxy().build().unwrap();
    let genuine: Value = genuine.get(path).send().await.unwrap().json().await.unwrap();
    let beacon_at = |relay: &str| {
        let chain = DrandChain::Own(OwnChain::new(&file.beacon).unwrap());
        let config = DrandConfig { relays: vec![relay.to_owned()], ..DrandConfig::public() };
        let drand = Drand::new(chain, config, Arc::new(|| u64::MAX)).unwrap();
        DrandBeacon::new(Arc::new(drand)).unwrap()
    };
    let honest = beacon_at(&served.server.endpoint());
    assert!(honest.round(3).await.unwrap().is_some());
    let altered = |field: &str, value: Value| {
        let mut answer = genuine.clone();
        answer[field] = value;
        answer.to_string()
    };
    let signature = genuine["signature"].as_str().unwrap();
    for body in [
        altered("randomness", json!("00".repeat(32))),
        altered("round", json!(4)),
        altered("signature", json!(format!("{}00", &signature[..94]))),
        altered("signature", json!("")),
        altered("signature", json!("zz")),
        altered("signature", json!(signature.repeat(100_000))),
        altered("signature", json!(7)),
        "{".into(),
        String::new(),
    ] {
        let endpoint = impostor(&file, move |_| body.clone().into_response()).await;
        let outcome = beacon_at(&endpoint).round(3).await;
        assert!(matches!(outcome, Err(BeaconError::Invalid { round: 3, .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn objects_of_a_lying_store_are_bounded() {
    let served = Served::start(&config()).await;
    let file = served.network.file();
    let wallet = Arc::new(Wallet::from_seed(&[1; 32]));
    let keys = BucketKeys::from_seed(wallet.hotkey(), &[1; 32]);
    let store_at = |endpoint: &str| {
        let http = Http::new(endpoint, file.genesis).unwrap();
        HttpBuckets::new(http, keys.clone(), Arc::clone(&wallet) as Arc<dyn Signer>).own()
    };
    let large = impostor(&file, |_| ([("x-grail-size", "3")], vec![7; 5000]).into_response()).await;
    let outcome = store_at(&large).get("a", 100).await;
    assert!(matches!(outcome, Err(StoreError::TooLarge { limit: 100, .. })), "{outcome:?}");
    let outcome = store_at(&large).get("a", 5000).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    let bare = impostor(&file, |_| "bytes".into_response()).await;
    let outcome = store_at(&bare).get("a", 100).await;
    assert!(matches!(outcome, Err(StoreError::Malformed(_))), "{outcome:?}");
    let outcome = store_at(&bare).head("a").await;
    assert!(matches!(outcome, Err(StoreError::Malformed(_))), "{outcome:?}");
    let outcome = store_at(&bare).list("").await;
    assert!(matches!(outcome, Err(StoreError::Malformed(_))), "{outcome:?}");
    let nonces = r#"{"error": "bad_nonce", "expected": 5}"#;
    let endless = impostor(&file, move |_| (StatusCode::CONFLICT, nonces).into_response()).await;
    let outcome = store_at(&endless).put("a", "b".into()).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}
