//! Connections by WebSocket, and what they subscribe to.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use grail_protocol::ids::{BlockNumber, Digest};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::RpcError;
use super::methods::{bytes, hex, submit};
use super::{MESSAGE_BYTES_MAX, Node, answer, failure, parse, read, success};

/// Most subscriptions on one connection.
const SUBSCRIPTIONS_MAX: usize = 128;

/// Most messages that wait to be sent on one connection; then its subscriptions wait too.
const OUTBOX_MAX: usize = 256;

/// Most requests of one connection that are answered at once.
const REQUESTS_MAX: usize = 64;

pub(super) async fn upgrade(State(node): State<Arc<Node>>, upgrade: WebSocketUpgrade) -> Response {
    let Ok(permit) = Arc::clone(&node.sockets).try_acquire_owned() else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    upgrade.max_message_size(MESSAGE_BYTES_MAX).on_upgrade(async move |socket| {
        serve(node, socket).await;
        drop(permit);
    })
}

/// Serves a connection until either side closes it; its tasks end with it.
async fn serve(node: Arc<Node>, mut socket: WebSocket) {
    let (outbox, mut outgoing) = mpsc::channel::<Json>(OUTBOX_MAX);
    let mut tasks: JoinSet<Option<()>> = JoinSet::new();
    let mut subscriptions = BTreeMap::new();
    let mut cuts = node.faults.cuts();
    let mut count = 0_u64;
    loop {
        let message = tokio::select! {
            message = socket.recv(), if tasks.len() < REQUESTS_MAX + SUBSCRIPTIONS_MAX => message,
            Some(json) = outgoing.recv() => {
                if socket.send(Message::text(json.to_string())).await.is_err() {
                    return;
                }
                continue;
            }
            Some(ended) = tasks.join_next() => {
                // A fault closes the connection, as does a task that panicked.
                if !matches!(ended, Ok(Some(()))) && !ended.is_err_and(|error| error.is_cancelled())
                {
                    return;
                }
                continue;
            }
            _ = cuts.changed() => return,
        };
        let text = match message {
            Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
            Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            _ => return,
        };
        let request = parse(&text).ok().filter(|(_, is_batch)| !is_batch);
        let request = request.and_then(|(mut requests, _)| requests.pop());
        let method = request.as_ref().and_then(|request| read(request).ok().map(|parts| parts.1));
        match (method.and_then(Subscription::of), &request) {
            (Some(Wish::Begin(kind)), Some(request)) => {
                let id = request.get("id").cloned().unwrap_or(Json::Null);
                if subscriptions.len() >= SUBSCRIPTIONS_MAX {
                    let error = RpcError::too_many_subscriptions(SUBSCRIPTIONS_MAX);
                    drop(outbox.try_send(failure(&id, &error)));
                    continue;
                }
                count += 1;
                let name = format!("grail{count:08}");
                let params = request.get("params").and_then(Json::as_array).cloned();
                let stream = Stream {
                    node: Arc::clone(&node),
                    outbox: outbox.clone(),
                    name: name.clone(),
                    kind,
                };
                let task = tasks.spawn(stream.run(id, params.unwrap_or_default()));
                subscriptions.insert(name, task);
            }
            (Some(Wish::End), Some(request)) => {
                let id = request.get("id").unwrap_or(&Json::Null);
                let name = request["params"][0].as_str().unwrap_or_default();
                let ended = subscriptions.remove(name).map(|task| task.abort());
                drop(outbox.try_send(success(id, &json!(ended.is_some()))));
            }
            _ => {
                let (node, outbox) = (Arc::clone(&node), outbox.clone());
                tasks.spawn(async move {
                    let answer = answer(&node, &text).await?;
                    outbox.send(answer).await.ok()
                });
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Subscription {
    NewHeads,
    FinalisedHeads,
    RuntimeVersion,
    Extrinsic,
}

enum Wish {
    Begin(Subscription),
    End,
}

impl Subscription {
    fn of(method: &str) -> Option<Wish> {
        Some(match method {
            "chain_subscribeNewHeads" | "chain_subscribeNewHead" | "chain_subscribeAllHeads" => {
                Wish::Begin(Self::NewHeads)
            }
            "chain_subscribeFinalizedHeads" | "chain_subscribeFinalisedHeads" => {
                Wish::Begin(Self::FinalisedHeads)
            }
            "state_subscribeRuntimeVersion" | "chain_subscribeRuntimeVersion" => {
                Wish::Begin(Self::RuntimeVersion)
            }
            "author_submitAndWatchExtrinsic" => Wish::Begin(Self::Extrinsic),
            "author_unwatchExtrinsic"
            | "chain_unsubscribeNewHeads"
            | "chain_unsubscribeNewHead"
            | "chain_unsubscribeAllHeads"
            | "chain_unsubscribeFinalizedHeads"
            | "chain_unsubscribeFinalisedHeads"
            | "state_unsubscribeRuntimeVersion"
            | "chain_unsubscribeRuntimeVersion" => Wish::End,
            _ => return None,
        })
    }

    fn message(self) -> &'static str {
        match self {
            Self::NewHeads => "chain_newHead",
            Self::FinalisedHeads => "chain_finalizedHead",
            Self::RuntimeVersion => "state_runtimeVersion",
            Self::Extrinsic => "author_extrinsicUpdate",
        }
    }
}

/// One subscription of one connection.
struct Stream {
    node: Arc<Node>,
    outbox: mpsc::Sender<Json>,
    name: String,
    kind: Subscription,
}

impl Stream {
    async fn run(self, id: Json, params: Vec<Json>) -> Option<()> {
        match self.kind {
            Subscription::Extrinsic => {
                self.node.faults.before("author_submitAndWatchExtrinsic").await?;
                let submitted = match bytes(&params, 0) {
                    Ok(bytes) => submit(&self.node, bytes).await,
                    Err(error) => Err(error),
                };
                match submitted {
                    Ok(hash) => {
                        self.outbox.send(success(&id, &json!(self.name))).await.ok()?;
                        self.watch(hash).await
                    }
                    Err(error) => self.outbox.send(failure(&id, &error)).await.ok(),
                }
            }
            kind => {
                self.outbox.send(success(&id, &json!(self.name))).await.ok()?;
                self.heads(kind).await
            }
        }
    }

    async fn tell(&self, result: Json) -> Option<()> {
        let params = json!({"subscription": self.name, "result": result});
        let message = json!({"jsonrpc": "2.0", "method": self.kind.message(), "params": params});
        self.outbox.send(message).await.ok()
    }

    /// Tells every change of a head or of the runtime, and where it stands at first.
    async fn heads(&self, kind: Subscription) -> Option<()> {
        let mut heads = self.node.chain.heads();
        let mut told = None;
        loop {
            let now = *heads.borrow_and_update();
            let (key, message) = match kind {
                Subscription::RuntimeVersion => {
                    let runtime = self.node.runtime();
                    (u64::from(runtime.spec_version), Some(runtime.version()))
                }
                Subscription::FinalisedHeads => {
                    (now.finalised.0, self.node.header_at(now.finalised))
                }
                _ => (now.best.0, self.node.header_at(now.best)),
            };
            let forks = matches!(kind, Subscription::NewHeads).then_some(now.forks);
            if told != Some((key, forks)) {
                told = Some((key, forks));
                self.tell(message?).await?;
            }
            heads.changed().await.ok()?;
        }
    }

    /// Tells what becomes of an extrinsic, until it is final.
    async fn watch(&self, hash: Digest) -> Option<()> {
        let mut heads = self.node.chain.heads();
        self.tell(json!("ready")).await?;
        let mut seen: Option<(BlockNumber, Digest)> = None;
        loop {
            let finalised = heads.borrow_and_update().finalised;
            let block = self.node.chain.including(hash).map(|b| (b.number, b.row.hash));
            if let Some((_, left)) = seen.filter(|_| seen != block) {
                self.tell(json!({"retracted": hex(&left.0)})).await?;
                seen = None;
            }
            if let Some((number, hash)) = block {
                if seen.is_none() {
                    self.tell(json!({"inBlock": hex(&hash.0)})).await?;
                    seen = block;
                }
                if number <= finalised {
                    return self.tell(json!({"finalized": hex(&hash.0)})).await;
                }
            }
            heads.changed().await.ok()?;
        }
    }
}
