//! The local chain as a node: JSON-RPC over HTTP and WebSocket as any client speaks it.

mod faults;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use grail_infrastructure::local::chain::LocalChain;
use grail_infrastructure::local::chain::rules::ChainRules;
use grail_infrastructure::local::rpc::{Node, Runtime};
use grail_infrastructure::substrate::{
    Era, Metadata, MultiSignature, SignedWith, SigningContext, Value,
};
use grail_infrastructure::wallet::{Key, Scheme};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::Hotkey;
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::common::{GENESIS_MS, loopback};

const NETUID: u16 = 81;

fn key(name: &str) -> Key {
    Key::from_secret_uri(Scheme::Sr25519, &format!("//{name}")).unwrap()
}

/// A node that is served, with neurons `//Validator` and `//Miner`. Blocks come when they are asked
/// for.
struct Served {
    node: Arc<Node>,
    chain: Arc<LocalChain>,
    address: std::net::SocketAddr,
    serving: AbortHandle,
}

impl Served {
    async fn start(rules: ChainRules) -> Self {
        let neurons: [(Hotkey, u64); 2] =
            [(key("Validator").address(), 1000), (key("Miner").address(), 0)];
        let chain = LocalChain::in_memory(rules, &[1; 32], &neurons).unwrap();
        let node = Node::new(Arc::clone(&chain), Runtime::current());
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(&node, listener);
        Self { node, chain, address, serving }
    }

    fn endpoint(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Asks by HTTP.
    async fn post(&self, body: &Json) -> Json {
        grail_infrastructure::tls::install_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}", self.address);
        let answer = client.post(url).body(body.to_string()).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    async fn ask(&self, method: &str, params: Json) -> Json {
        self.post(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).await
    }

    /// Signs a call as an account would that knows the chain's metadata only.
    async fn sign(&self, signer: &Key, call: (&str, &str), args: Vec<(&str, Value)>) -> Vec<u8> {
        let blob = self.ask("state_getMetadata", json!([])).await;
        let metadata = Metadata::parse(&unhex(&blob["result"])).unwrap();
        let version = self.ask("state_getRuntimeVersion", json!([])).await["result"].clone();
        let nonce = self.ask("system_accountNextIndex", json!([signer.address().to_ss58()])).await;
        let number = |name: &str| u32::try_from(version[name].as_u64().unwrap()).unwrap();
        let context = SigningContext {
            genesis: self.chain.genesis().0,
            spec_version: number("specVersion"),
            transaction_version: number("transactionVersion"),
        };
        let nonce = nonce["result"].as_u64().unwrap();
        let with = SignedWith { era: Era::Immortal, nonce, tip: 0 };
        let call = metadata.encode_call(call.0, call.1, args).unwrap();
        let payload = metadata.signing_payload(&call, with, &context, context.genesis).unwrap();
        let signature = MultiSignature::Sr25519(signer.sign(&payload.bytes_to_sign()).0);
        payload.into_extrinsic(signer.address().0, &signature)
    }

    /// Signs a commitment of `text`.
    async fn commitment(&self, signer: &Key, text: &str) -> Vec<u8> {
        let field = Value::variant(&format!("Raw{}", text.len()), Value::bytes(text));
        let info = Value::record([("fields", Value::List(vec![field]))]);
        let args = vec![("netuid", NETUID.into()), ("info", info)];
        self.sign(signer, ("Commitments", "set_commitment"), args).await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn serve(node: &Arc<Node>, listener: TcpListener) -> AbortHandle {
    tokio::spawn(axum::serve(listener, node.routes()).into_future()).abort_handle()
}

fn rules() -> ChainRules {
    ChainRules { weights_rate_limit: 0, tempo: 20, ..ChainRules::local(GENESIS_MS) }
}

fn hex_of(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn unhex(json: &Json) -> Vec<u8> {
    hex::decode(json.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

/// A connection by WebSocket that is driven by hand.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn connect(served: &Served) -> Self {
        let tcp = TcpStream::connect(served.address).await.unwrap();
        Self(tokio_tungstenite::client_async(served.endpoint(), tcp).await.unwrap().0)
    }

    async fn send(&mut self, id: u64, method: &str, params: Json) {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.0.send(Message::text(request.to_string())).await.unwrap();
    }

    /// Returns the next message, or `None` when the node closed the connection.
    async fn receive(&mut self) -> Option<Json> {
        // Far longer than anything takes; only a broken node comes near.
        let next = tokio::time::timeout(Duration::from_secs(30), self.0.next());
        match next.await.expect("a message in time") {
            Some(Ok(Message::Close(_)) | Err(_)) | None => None,
            Some(Ok(message)) => Some(serde_json::from_slice(&message.into_data()).unwrap()),
        }
    }

    /// Subscribes and returns the subscription's id.
    async fn subscribe(&mut self, method: &str, params: Json) -> Json {
        self.send(7, method, params).await;
        let answer = self.receive().await.unwrap();
        assert_eq!(answer["id"], 7, "{answer}");
        answer["result"].clone()
    }

    /// Returns what the next message of a subscription says.
    async fn told(&mut self, id: &Json) -> Json {
        let message = self.receive().await.unwrap();
        assert_eq!(message["params"]["subscription"], *id, "{message}");
        message["params"]["result"].clone()
    }
}
