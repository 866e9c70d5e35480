//! One connection: matches answers to calls and messages to subscriptions until it dies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::error::{ErrorObject, RpcError};
use super::transport::Wire;
use super::{RpcConfig, Subscription, UNREAD_MAX};

/// Longest wait for the other side's goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// What callers ask of the connection's task.
#[derive(Debug)]
pub(super) enum Command {
    /// Send this and pass its answer on.
    Call { id: u64, method: &'static str, params: Value, reply: Reply },
    /// The caller has stopped waiting.
    TimedOut { id: u64 },
    /// The node is not what it should be.
    Leave { reason: String },
}

/// Who waits, and for what.
#[derive(Debug)]
pub(super) enum Reply {
    /// For the result.
    Value(oneshot::Sender<Result<Value, RpcError>>),
    /// For a subscription, and what ends it.
    Subscription(oneshot::Sender<Result<Subscription, RpcError>>, &'static str),
}

impl Reply {
    fn is_gone(&self) -> bool {
        match self {
            Self::Value(sender) => sender.is_closed(),
            Self::Subscription(sender, _) => sender.is_closed(),
        }
    }

    /// Tells the caller; it may have left.
    pub(super) fn fail(self, error: RpcError) {
        match self {
            Self::Value(sender) => drop(sender.send(Err(error))),
            Self::Subscription(sender, _) => drop(sender.send(Err(error))),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It died, or was given up: for this reason.
    Died(String),
    /// This program wants no more.
    Closed,
}

struct Pending {
    method: &'static str,
    reply: Reply,
    sent_at: Instant,
}

struct Reader {
    messages: mpsc::Sender<Value>,
    lost: Arc<Mutex<Option<RpcError>>>,
    unsubscribe: &'static str,
}

impl Reader {
    fn lose(&self, error: RpcError) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// A connection that stands.
pub(super) struct Connection {
    /// The other side, for messages.
    peer: String,
    sink: SplitSink<Box<dyn Wire>, Message>,
    stream: SplitStream<Box<dyn Wire>>,
    pending: HashMap<u64, Pending>,
    readers: HashMap<String, Reader>,
    /// When anything came in last: the line works.
    heard_at: Instant,
    /// When an answer or a message came in last: the node works.
    spoken_at: Instant,
    /// Whether the node has answered anything at all.
    pub(super) was_useful: bool,
    write_timeout: Duration,
    ping_every: Duration,
    /// Own numbers for what no caller asked for; callers count up from 1.
    next_own_id: u64,
}

impl Connection {
    pub(super) fn new(wire: Box<dyn Wire>, peer: String, config: &RpcConfig) -> Self {
        let (sink, stream) = wire.split();
        Self {
            peer,
            sink,
            stream,
            pending: HashMap::new(),
            readers: HashMap::new(),
            heard_at: Instant::now(),
            spoken_at: Instant::now(),
            was_useful: false,
            write_timeout: config.call_timeout,
            ping_every: config.ping_every,
            next_own_id: u64::MAX,
        }
    }

    /// Serves `commands` until the connection ends; nobody is left waiting.
    pub(super) async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        closing: &CancellationToken,
    ) -> End {
        let end = self.run(commands, closing).await;
        let error = match &end {
            End::Died(reason) => RpcError::Disconnected(format!("{}: {reason}", self.peer)),
            End::Closed => RpcError::Closed,
        };
        for (_, pending) in self.pending.drain() {
            pending.reply.fail(error.clone());
        }
        for (_, reader) in self.readers.drain() {
            reader.lose(error.clone());
        }
        end
    }

    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        closing: &CancellationToken,
    ) -> End {
        let mut ping = interval_at(Instant::now() + self.ping_every, self.ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                () = closing.cancelled() => {
                    self.say_goodbye().await;
                    return End::Closed;
                }
                message = self.stream.next() => self.take(message).await,
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => {
                        self.say_goodbye().await;
                        return End::Closed;
                    }
                },
                _ = ping.tick() => self.check_life().await,
            };
            if let Err(reason) = step {
                return End::Died(reason);
            }
        }
    }

    async fn say_goodbye(&mut self) {
        let goodbye = async {
            if self.sink.send(Message::Close(None)).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        // A node that does not answer is left without a word.
        let _ = timeout(GOODBYE_MAX, goodbye).await;
    }

    async fn check_life(&mut self) -> Result<(), String> {
        self.pending.retain(|_, pending| !pending.reply.is_gone());
        if self.heard_at.elapsed() >= self.ping_every * 2 {
            return Err(format!("nothing was heard for {:?}", self.heard_at.elapsed()));
        }
        self.write(Message::Ping(Vec::new().into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), String> {
        match timeout(self.write_timeout, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the node took nothing for {:?}", self.write_timeout)),
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), String> {
        match command {
            // Whoever has stopped waiting must not have anything done any more.
            Command::Call { reply, .. } if reply.is_gone() => Ok(()),
            Command::Call { id, method, params, reply } => {
                let pending = Pending { method, reply, sent_at: Instant::now() };
                self.pending.insert(id, pending);
                self.write(request(id, method, &params)).await
            }
            Command::Leave { reason } => Err(reason),
            Command::TimedOut { id } => match self.pending.remove(&id) {
                // Silence since then: the node hangs, or the line is dead without saying so.
                Some(pending) if self.spoken_at <= pending.sent_at => {
                    Err(format!("nothing was heard since {} was called", pending.method))
                }
                _ => Ok(()),
            },
        }
    }

    async fn take(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), String> {
        self.heard_at = Instant::now();
        match message {
            None => Err("the node hung up".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(Message::Text(text))) => {
                self.spoken_at = self.heard_at;
                self.read(&text).await
            }
            Some(Ok(Message::Close(_))) => Err("the node closed the connection".to_owned()),
            Some(Ok(Message::Binary(_))) => Err("the node sent what is no text".to_owned()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
        }
    }

    async fn read(&mut self, text: &Utf8Bytes) -> Result<(), String> {
        let answer: Value = serde_json::from_str(text)
            .map_err(|error| format!("the node sent what is no JSON: {error}"))?;
        if let Some(id) = answer.get("id").and_then(Value::as_u64) {
            // An answer that comes after its time-out has nobody waiting.
            if let Some(pending) = self.pending.remove(&id) {
                self.was_useful = true;
                self.answer(pending, answer);
            }
            return Ok(());
        }
        if answer.get("method").is_some() {
            return self.notify(answer).await;
        }
        Err("the node sent what is neither an answer nor a message".to_owned())
    }

    fn answer(&mut self, pending: Pending, mut answer: Value) {
        let Pending { method, reply, .. } = pending;
        match read_answer(method, &mut answer) {
            Err(error) => reply.fail(error),
            Ok(value) => match reply {
                Reply::Value(sender) => drop(sender.send(Ok(value))),
                Reply::Subscription(sender, unsubscribe) => {
                    let Some(id) = subscription_id(&value) else {
                        let reason = format!("{} names no subscription", shortened(&value));
                        return drop(sender.send(Err(RpcError::Malformed { method, reason })));
                    };
                    let (messages, inbox) = mpsc::channel(UNREAD_MAX);
                    let lost = Arc::new(Mutex::new(None));
                    let subscription = Subscription { messages: inbox, lost: lost.clone() };
                    self.readers.insert(id, Reader { messages, lost, unsubscribe });
                    // A caller that has left is found by the first message.
                    drop(sender.send(Ok(subscription)));
                }
            },
        }
    }

    async fn notify(&mut self, mut message: Value) -> Result<(), String> {
        let Some(params) = message.get_mut("params") else { return Ok(()) };
        let Some(id) = params.get("subscription").and_then(subscription_id) else { return Ok(()) };
        let Some(reader) = self.readers.get(&id) else { return Ok(()) };
        let result = params.get_mut("result").map(Value::take).unwrap_or_default();
        match reader.messages.try_send(result) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => reader.lose(RpcError::Lagged),
            Err(TrySendError::Closed(_)) => debug!(%id, "a subscription has no reader any more"),
        }
        let Some(reader) = self.readers.remove(&id) else { return Ok(()) };
        let own_id = self.next_own_id;
        self.next_own_id -= 1;
        self.write(request(own_id, reader.unsubscribe, &json!([id]))).await
    }
}

fn request(id: u64, method: &str, params: &Value) -> Message {
    let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    Message::Text(request.to_string().into())
}

fn read_answer(method: &'static str, answer: &mut Value) -> Result<Value, RpcError> {
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        return Err(match ErrorObject::read(error) {
            Some(error) => RpcError::Node { method, error },
            None => {
                let reason = format!("{} is no error object", shortened(error));
                RpcError::Malformed { method, reason }
            }
        });
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => {
            let reason = "it has neither a result nor an error".to_owned();
            Err(RpcError::Malformed { method, reason })
        }
    }
}

/// Reads a subscription's id, which is text or a number.
fn subscription_id(value: &Value) -> Option<String> {
    match value {
        Value::String(id) if id.len() <= 256 => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// Returns the start of `value` for a message.
fn shortened(value: &Value) -> String {
    value.to_string().chars().take(60).collect::<String>().escape_debug().to_string()
}
