//! Keeps a connection: makes it, and makes it again when it ends.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connection::{Command, Connection, End};
use super::transport::{Connector, Endpoint, Wire};
use super::{Jitter, RpcConfig, RpcError, Shared};

/// The task behind a client.
pub(super) struct Supervisor {
    config: RpcConfig,
    connector: Arc<dyn Connector>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    closing: CancellationToken,
    jitter: Jitter,
    /// Index of the endpoint to try next.
    next: usize,
    /// Endpoints that failed in a row since one was useful.
    failures: usize,
}

impl Supervisor {
    pub(super) fn new(
        config: RpcConfig,
        connector: Arc<dyn Connector>,
        commands: mpsc::Receiver<Command>,
        shared: Arc<Shared>,
        closing: CancellationToken,
    ) -> Self {
        let jitter = Jitter::new(config.jitter_seed);
        Self { config, connector, commands, shared, closing, jitter, next: 0, failures: 0 }
    }

    /// Runs until the client is closed or dropped.
    pub(super) async fn run(mut self) {
        let closing = self.closing.clone();
        while !closing.is_cancelled() {
            let wire = tokio::select! {
                () = closing.cancelled() => break,
                wire = self.connect() => wire,
            };
            let endpoint = self.config.endpoints[self.next].clone();
            let Some(wire) = wire else {
                self.rotate();
                tokio::select! {
                    () = closing.cancelled() => break,
                    () = self.pause() => continue,
                }
            };
            self.shared.connected(&endpoint);
            info!(%endpoint, "connected to a node");
            let mut connection = Connection::new(wire, endpoint.to_string(), &self.config);
            let end = connection.serve(&mut self.commands, &closing).await;
            let End::Died(reason) = end else { break };
            self.shared.away(&endpoint, &reason);
            warn!(%endpoint, reason, "the connection to a node is lost; it is made again");
            if connection.was_useful {
                self.failures = 0;
            }
            self.rotate();
            tokio::select! {
                () = closing.cancelled() => break,
                () = self.pause() => {}
            }
        }
        self.shared.closed();
        self.refuse_the_rest();
    }

    /// Tries the next endpoint.
    async fn connect(&mut self) -> Option<Box<dyn Wire>> {
        let endpoint = &self.config.endpoints[self.next];
        let limit = self.config.connect_timeout;
        let reason = match timeout(limit, self.connector.connect(endpoint)).await {
            Ok(Ok(wire)) => return Some(wire),
            Ok(Err(reason)) => reason,
            Err(_) => format!("no connection within {limit:?}"),
        };
        self.fail(endpoint, &reason);
        None
    }

    fn fail(&self, endpoint: &Endpoint, reason: &str) {
        // A node that is away for hours must not fill the log.
        if self.failures < self.config.endpoints.len() {
            warn!(%endpoint, reason, "a node cannot be reached");
        } else {
            debug!(%endpoint, reason, "a node still cannot be reached");
        }
        self.shared.away(endpoint, reason);
    }

    fn rotate(&mut self) {
        self.next = (self.next + 1) % self.config.endpoints.len();
        self.failures = self.failures.saturating_add(1);
    }

    /// Waits if every endpoint has failed since the last wait; otherwise the next one is tried at
    /// once.
    async fn pause(&mut self) {
        let endpoints = self.config.endpoints.len();
        if self.failures.is_multiple_of(endpoints) {
            let rounds = u32::try_from(self.failures / endpoints).unwrap_or(u32::MAX);
            let wait = self.jitter.shorten(self.config.backoff.wait(rounds));
            sleep(wait).await;
        }
    }

    fn refuse_the_rest(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Call { reply, .. } = command {
                reply.fail(RpcError::Closed);
            }
        }
    }
}
