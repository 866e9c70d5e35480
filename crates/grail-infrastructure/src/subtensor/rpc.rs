//! A JSON-RPC client that keeps one WebSocket to one of several nodes.
//!
//! A task of its own holds the connection: it connects to the first endpoint that answers, goes on
//! to the next when one fails, and waits a growing, jittered time after a round of failures. Calls
//! wait for a connection as part of their own time-out, so every call ends within it whatever the
//! network does. Nothing is sent twice unless the caller says that it may be: see [`Repeat`].

mod backoff;
mod connection;
mod error;
mod supervisor;
mod transport;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grail_ports::observer::{Classified, NoObserver, Observation, Observer, Outcome, Service};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use backoff::{Backoff, Jitter};
use connection::{Command, Reply};
pub use error::{ErrorObject, RpcError};
use supervisor::Supervisor;
pub use transport::{Connector, Endpoint, InvalidEndpoint, WebSocketConnector, Wire, WireFuture};

/// Most calls that wait for the connection's task; more wait in their callers.
const QUEUE_MAX: usize = 256;

/// Most times that a call is sent whose connection dies under it: the call may be what kills it.
const ATTEMPTS_MAX: u32 = 3;

/// Most messages of a subscription that its reader has not taken; one more ends the subscription.
const UNREAD_MAX: usize = 256;

/// Least bound on a message: full metagraphs and metadata come close to a tenth of it.
pub const MESSAGE_BYTES_MIN: usize = 16 << 20;

/// Where the nodes are and how long they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcConfig {
    /// The nodes, the preferred one first; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Longest time until a connection stands, its handshakes included.
    pub connect_timeout: Duration,
    /// Longest time of a call that names no other.
    pub call_timeout: Duration,
    /// Time after which a silent connection is asked for a sign of life; after twice that it is
    /// given up.
    pub ping_every: Duration,
    /// Waits between rounds of failed connections.
    pub backoff: Backoff,
    /// Largest message that is accepted, bytes; raised to [`MESSAGE_BYTES_MIN`].
    pub message_bytes_max: usize,
    /// Decides the jitter of the waits; `None` draws one from the system.
    pub jitter_seed: Option<u64>,
}

impl RpcConfig {
    /// Returns the usual settings for `endpoints`.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(15),
            ping_every: Duration::from_secs(20),
            backoff: Backoff::default(),
            message_bytes_max: 64 << 20,
            jitter_seed: None,
        }
    }
}

/// Whether a call may reach the node more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It only reads: sent again when the connection dies under it, within the same time-out.
    Allowed,
    /// It changes something: the caller is told that the answer is lost.
    Never,
}

/// Counts the connections of a client, so that a caller sees when it talks to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCount(pub u64);

/// What the client and its task both see.
pub(crate) struct Shared {
    observer: Arc<dyn Observer>,
    connections: AtomicU64,
    /// Endpoint in use, or why there is none.
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
enum State {
    Connected(String),
    Away(String),
}

impl Default for State {
    fn default() -> Self {
        Self::Away("no connection was made yet".to_owned())
    }
}

impl Shared {
    fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer, connections: AtomicU64::default(), state: Mutex::default() }
    }

    fn connected(&self, endpoint: &Endpoint) {
        self.connections.fetch_add(1, Ordering::AcqRel);
        // Shown without what may be a secret.
        let endpoint = endpoint.to_string();
        self.set(State::Connected(endpoint.clone()));
        self.observer.observe(Observation::Connected { endpoint });
    }

    fn away(&self, endpoint: &Endpoint, reason: &str) {
        self.set(State::Away(format!("{endpoint}: {reason}")));
        self.observer.observe(Observation::Disconnected { endpoint: endpoint.to_string() });
    }

    fn closed(&self) {
        let before = self.state();
        self.set(State::Away("the client was closed".to_owned()));
        if let State::Connected(endpoint) = before {
            self.observer.observe(Observation::Disconnected { endpoint });
        }
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client; clones share the connection, which is closed with the last of them.
#[derive(Clone)]
pub struct RpcClient {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    call_timeout: Duration,
    closing: CancellationToken,
    finished: watch::Receiver<bool>,
    _close_with_last: DropGuard,
}

impl RpcClient {
    /// Starts the task that connects, and returns at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and without an endpoint.
    pub fn start(config: RpcConfig, connector: Arc<dyn Connector>) -> Self {
        Self::start_observed(config, connector, Arc::new(NoObserver))
    }

    /// As [`Self::start`]; `observer` is told of calls and connections.
    ///
    /// # Panics
    /// As there.
    pub fn start_observed(
        config: RpcConfig,
        connector: Arc<dyn Connector>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        assert!(!config.endpoints.is_empty(), "a client needs an endpoint");
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let (finish, finished) = watch::channel(false);
        let closing = CancellationToken::new();
        let shared = Arc::new(Shared::new(observer));
        let call_timeout = config.call_timeout;
        let supervisor = Supervisor::new(config, connector, queue, shared.clone(), closing.clone());
        tokio::spawn(async move {
            supervisor.run().await;
            // Nobody may be left to hear it.
            let _ = finish.send(true);
        });
        let inner = Inner {
            commands,
            shared,
            next_id: AtomicU64::new(1),
            call_timeout,
            _close_with_last: closing.clone().drop_guard(),
            closing,
            finished,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts a client of real nodes.
    pub fn connect(config: RpcConfig) -> Self {
        let connector = WebSocketConnector::new(config.message_bytes_max);
        Self::start(config, Arc::new(connector))
    }

    /// Calls `method` within the usual time-out.
    ///
    /// # Errors
    /// See [`RpcError`]; no answer takes longer than the time-out.
    pub async fn call(
        &self,
        method: &'static str,
        params: Value,
        repeat: Repeat,
    ) -> Result<Value, RpcError> {
        self.call_within(method, params, repeat, self.inner.call_timeout).await
    }

    /// Calls `method` within `limit`, waiting for a connection included.
    ///
    /// # Errors
    /// See [`RpcError`].
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer; what was sent stays sent.
    pub async fn call_within(
        &self,
        method: &'static str,
        params: Value,
        repeat: Repeat,
        limit: Duration,
    ) -> Result<Value, RpcError> {
        let deadline = Instant::now() + limit;
        let mut attempts_left = match repeat {
            Repeat::Allowed => ATTEMPTS_MAX,
            Repeat::Never => 1,
        };
        loop {
            attempts_left -= 1;
            let (reply, answer) = oneshot::channel();
            let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
            let reply = Reply::Value(reply);
            let command = Command::Call { id, method, params: params.clone(), reply };
            let outcome = self.wait(id, method, command, answer, deadline, limit).await;
            let may_go_on = attempts_left > 0 && Instant::now() < deadline;
            match outcome {
                Err(RpcError::Disconnected(_)) if may_go_on => {}
                outcome => return outcome,
            }
        }
    }

    /// Starts a subscription, which ends when the connection does: the reader then learns that
    /// messages may be missing, and subscribes again.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn subscribe(
        &self,
        method: &'static str,
        params: Value,
        unsubscribe: &'static str,
    ) -> Result<Subscription, RpcError> {
        let limit = self.inner.call_timeout;
        let deadline = Instant::now() + limit;
        let (reply, answer) = oneshot::channel();
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let reply = Reply::Subscription(reply, unsubscribe);
        let command = Command::Call { id, method, params, reply };
        self.wait(id, method, command, answer, deadline, limit).await
    }

    /// Waits for an answer until `deadline`, and tells how that ended.
    async fn wait<T>(
        &self,
        id: u64,
        method: &'static str,
        command: Command,
        answer: oneshot::Receiver<Result<T, RpcError>>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<T, RpcError> {
        let start = Instant::now();
        let answer = self.wait_untold(id, method, command, answer, deadline, limit).await;
        let outcome = answer.as_ref().err().map_or(Outcome::Ok, Classified::outcome);
        let (service, took) = (Service::ChainNode, start.elapsed());
        let observation = Observation::Call { service, call: method, outcome, took };
        self.inner.shared.observer.observe(observation);
        answer
    }

    async fn wait_untold<T>(
        &self,
        id: u64,
        method: &'static str,
        command: Command,
        answer: oneshot::Receiver<Result<T, RpcError>>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<T, RpcError> {
        let asking = async {
            self.inner.commands.send(command).await.map_err(|_| RpcError::Closed)?;
            answer.await.unwrap_or(Err(RpcError::Closed))
        };
        if let Ok(outcome) = timeout_at(deadline, asking).await {
            return outcome;
        }
        // A full queue means that the task is stuck in a write, which has a time-out of its own.
        let _ = self.inner.commands.try_send(Command::TimedOut { id });
        Err(match self.inner.shared.state() {
            State::Connected(endpoint) => RpcError::TimedOut { method, endpoint, after: limit },
            State::Away(reason) => RpcError::Disconnected(reason),
        })
    }

    /// Returns how many connections were made: a change means that another node, or the same one
    /// after a restart, answers.
    pub fn connections(&self) -> ConnectionCount {
        ConnectionCount(self.inner.shared.connections.load(Ordering::Acquire))
    }

    /// Returns the node in use, or why there is none.
    pub fn peer(&self) -> Result<String, String> {
        match self.inner.shared.state() {
            State::Connected(endpoint) => Ok(endpoint),
            State::Away(reason) => Err(reason),
        }
    }

    /// Leaves the node in use for the next one: it answers, but not as it should.
    pub fn leave(&self, reason: &str) {
        // With a full queue the node does not take anything, and is left for that.
        let _ = self.inner.commands.try_send(Command::Leave { reason: reason.to_owned() });
    }

    /// Says goodbye to the node and ends; calls under way fail as [`RpcError::Closed`].
    pub async fn close(&self) {
        self.inner.closing.cancel();
        let mut finished = self.inner.finished.clone();
        // The task cannot vanish without a word but with the runtime.
        let _ = finished.wait_for(|done| *done).await;
    }
}

/// Messages that a node sends on its own.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<Value>,
    lost: Arc<Mutex<Option<RpcError>>>,
}

impl Subscription {
    /// Returns the next message.
    ///
    /// # Errors
    /// Why no more will come: the connection died, or messages came faster than they were read.
    ///
    /// # Cancel safety
    /// No message is lost.
    pub async fn next(&mut self) -> Result<Value, RpcError> {
        match self.messages.recv().await {
            Some(message) => Ok(message),
            None => {
                let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(lost.unwrap_or(RpcError::Closed))
            }
        }
    }
}
