//! A scripted node: answers JSON-RPC as it is told, and misbehaves as it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use grail_infrastructure::subtensor::rpc::{
    Backoff, Connector, Endpoint, RpcClient, RpcConfig, WebSocketConnector, WireFuture,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// What a node does about a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers with a result.
    Result(Value),
    /// Answers with an error object.
    Error(Value),
    /// Says nothing, ever.
    Silence,
    /// Drops the connection without a word.
    HangUp,
    /// Sends this text instead of an answer.
    Text(String),
    /// Does it later.
    After(Duration, Box<Answer>),
    /// Answers with a subscription's id, then sends each message after its wait.
    Messages { id: Value, method: String, messages: Vec<(Duration, Value)> },
    /// As before, with messages that are made when they are sent.
    Steps { id: Value, method: String, steps: Vec<(Duration, Step)> },
}

/// Something that happens while a subscription runs, and what is told of it; `None` for nothing.
#[derive(Clone)]
pub struct Step(Arc<dyn Fn() -> Option<Value> + Send + Sync>);

impl Step {
    pub fn new(happen: impl Fn() -> Option<Value> + Send + Sync + 'static) -> Self {
        Self(Arc::new(happen))
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

/// Returns what a recorded node did about a request.
pub fn recorded_answer(record: &Value) -> Answer {
    if record["subscription"].is_string() {
        let messages = record["messages"].as_array().unwrap();
        return Answer::Messages {
            id: record["id"].clone(),
            method: messages[0]["method"].as_str().unwrap().to_owned(),
            messages: messages
                .iter()
                .map(|message| (Duration::ZERO, message["params"]["result"].clone()))
                .collect(),
        };
    }
    match record.get("error") {
        Some(error) => Answer::Error(error.clone()),
        None => Answer::Result(record["result"].clone()),
    }
}

/// Decides what a node does; called once for every request.
pub type Script = Arc<dyn Fn(&str, &Value) -> Answer + Send + Sync>;

/// A node; clones are the same one.
#[derive(Clone)]
pub struct Node {
    script: Script,
    calls: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicU64>,
    /// Connections are refused while this is set.
    down: Arc<Mutex<bool>>,
}

impl Node {
    pub fn new(script: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            calls: Arc::default(),
            connections: Arc::default(),
            down: Arc::default(),
        }
    }

    /// Answers each call with the method's name.
    pub fn echo() -> Self {
        Self::new(|method, params| Answer::Result(json!([method, params])))
    }

    /// Refuses connections while `down` is set.
    pub fn going_down_with(mut self, down: &Arc<Mutex<bool>>) -> Self {
        self.down = down.clone();
        self
    }

    pub fn set_down(&self, down: bool) {
        *self.down.lock().unwrap() = down;
    }

    fn is_down(&self) -> bool {
        *self.down.lock().unwrap()
    }

    /// Returns the methods that were called, oldest first.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Speaks over `stream` until the other side leaves or the script hangs up.
    pub async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let Ok(wire) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await
        else {
            return;
        };
        self.connections.fetch_add(1, Ordering::SeqCst);
        let (mut sink, mut source) = wire.split();
        let (outbox, mut outgoing) = mpsc::unbounded_channel::<Option<String>>();
        loop {
            tokio::select! {
                message = source.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let request: Value = serde_json::from_str(&text).unwrap();
                        let method = request["method"].as_str().unwrap();
                        self.calls.lock().unwrap().push(method.to_owned());
                        let answer = (self.script)(method, &request["params"]);
                        tokio::spawn(perform(answer, request["id"].clone(), outbox.clone()));
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
                text = outgoing.recv() => match text.flatten() {
                    Some(text) => {
                        if sink.send(Message::Text(text.into())).await.is_err() {
                            return;
                        }
                    }
                    None => return,
                },
            }
        }
    }
}

async fn perform(mut answer: Answer, id: Value, outbox: mpsc::UnboundedSender<Option<String>>) {
    while let Answer::After(wait, then) = answer {
        tokio::time::sleep(wait).await;
        answer = *then;
    }
    let head = |key: &str, value: &Value| json!({"jsonrpc": "2.0", "id": id, key: value});
    let send = |text: String| drop(outbox.send(Some(text)));
    match answer {
        Answer::Result(value) => send(head("result", &value).to_string()),
        Answer::Error(value) => send(head("error", &value).to_string()),
        Answer::Silence => {}
        Answer::HangUp => drop(outbox.send(None)),
        Answer::Text(text) => send(text),
        Answer::After(..) => unreachable!("the loop above has waited"),
        Answer::Messages { id: subscription, method, messages } => {
            let steps = messages.into_iter();
            let steps = steps.map(|(wait, told)| (wait, Step::new(move || Some(told.clone()))));
            send(head("result", &subscription).to_string());
            follow(&subscription, &method, steps.collect(), &outbox).await;
        }
        Answer::Steps { id: subscription, method, steps } => {
            send(head("result", &subscription).to_string());
            follow(&subscription, &method, steps, &outbox).await;
        }
    }
}

async fn follow(
    subscription: &Value,
    method: &str,
    steps: Vec<(Duration, Step)>,
    outbox: &mpsc::UnboundedSender<Option<String>>,
) {
    for (wait, Step(happen)) in steps {
        tokio::time::sleep(wait).await;
        let Some(result) = happen() else { continue };
        let params = json!({"subscription": subscription, "result": result});
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        if outbox.send(Some(message.to_string())).is_err() {
            // The connection is gone, and so is whoever listened.
            return;
        }
    }
}

/// Connects to scripted nodes over memory.
pub struct Memory {
    nodes: BTreeMap<String, Node>,
    /// What was tried, oldest first.
    tried: Arc<Mutex<Vec<(String, tokio::time::Instant)>>>,
}

impl Memory {
    pub fn new(nodes: &[(&str, Node)]) -> Arc<Self> {
        let nodes = nodes.iter().map(|(name, node)| (url(name), node.clone())).collect();
        Arc::new(Self { nodes, tried: Arc::default() })
    }

    pub fn tried(&self) -> Vec<(String, tokio::time::Instant)> {
        self.tried.lock().unwrap().clone()
    }
}

/// Returns the address of the node `name`.
pub fn url(name: &str) -> String {
    format!("ws://{name}.test:9944")
}

impl Connector for Memory {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> WireFuture<'a> {
        Box::pin(async move {
            let tried = (endpoint.url().to_owned(), tokio::time::Instant::now());
            self.tried.lock().unwrap().push(tried);
            let node = self.nodes.get(endpoint.url()).ok_or("there is no such host")?;
            if node.is_down() {
                return Err("connection refused".to_owned());
            }
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(node.clone().serve(theirs));
            WebSocketConnector::new(0).over(endpoint, ours).await
        })
    }
}

/// Returns settings for the nodes `names`, with times that tests can add up.
pub fn config(names: &[&str]) -> RpcConfig {
    let endpoints = names.iter().map(|name| Endpoint::parse(&url(name)).unwrap()).collect();
    RpcConfig {
        connect_timeout: Duration::from_secs(10),
        call_timeout: Duration::from_secs(15),
        ping_every: Duration::from_secs(20),
        backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) },
        jitter_seed: Some(7),
        ..RpcConfig::new(endpoints)
    }
}

/// Returns a client of `nodes`, in that order, and what connects it.
pub fn client(nodes: &[(&str, Node)]) -> (RpcClient, Arc<Memory>) {
    let memory = Memory::new(nodes);
    let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
    (RpcClient::start(config(&names), memory.clone()), memory)
}
