//! Switches that make the node misbehave, so that clients can be tested against it.

use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// How the node misbehaves towards requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// Never answers.
    Hang,
    /// Closes the connection instead of answering.
    Drop,
    /// Answers later.
    Slow(Duration),
}

/// The switches of a node.
#[derive(Debug)]
pub struct Faults {
    /// A method, or all of them, and what is wrong with it.
    fault: Mutex<(Option<String>, Fault)>,
    cuts: watch::Sender<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { fault: Mutex::default(), cuts: watch::Sender::new(0) }
    }
}

impl Faults {
    /// Misbehaves so from now on, towards requests of `method` only if one is given.
    pub fn set(&self, method: Option<&str>, fault: Fault) {
        let mut current = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (method.map(str::to_owned), fault);
    }

    /// Closes every connection by WebSocket.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    /// Waits as the switch says; `None` closes the connection.
    pub(super) async fn before(&self, method: &str) -> Option<()> {
        let fault = {
            let current = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let meant = current.0.as_deref().is_none_or(|only| only == method);
            if meant { current.1.clone() } else { Fault::None }
        };
        match fault {
            Fault::None => Some(()),
            Fault::Hang => pending().await,
            Fault::Drop => None,
            Fault::Slow(delay) => {
                sleep(delay).await;
                Some(())
            }
        }
    }
}
