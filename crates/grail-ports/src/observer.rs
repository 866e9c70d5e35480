//! What adapters tell of their work with the outside world, for whoever watches over it.
//!
//! Services tell events of the subnet ([`crate::events`]); this is about lines, servers and time.

use std::time::Duration;

use grail_protocol::ids::BlockNumber;

use crate::beacon::BeaconError;
use crate::chain::ChainError;
use crate::object_store::StoreError;

/// Who was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The chain, through its port.
    Chain,
    /// A node of the chain, by one question of JSON-RPC; a call of the port asks several.
    ChainNode,
    /// An object store, through its port.
    Store,
    /// The beacon, through its port.
    Beacon,
}

/// How a call ended, by what a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should.
    Ok,
    /// Without an answer, in time or at all.
    Unavailable,
    /// Without an answer in time, where that is told apart.
    TimedOut,
    /// The other side refused by its rules.
    Refused,
    /// We lack the rights, or our clock is wrong.
    Denied,
    /// The other side does not keep that any more.
    Pruned,
    /// With an answer that cannot be used: unreadable, too large, or signed by nobody.
    Bad,
    /// The object was replaced while it was read.
    Changed,
    /// This program closed the line.
    Closed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Unavailable,
        Self::TimedOut,
        Self::Refused,
        Self::Denied,
        Self::Pruned,
        Self::Bad,
        Self::Changed,
        Self::Closed,
    ];

    /// Returns its name, one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Pruned => "pruned",
            Self::Bad => "bad",
            Self::Changed => "changed",
            Self::Closed => "closed",
        }
    }
}

/// Errors that are told apart by class.
pub trait Classified {
    /// Returns the class of this error.
    fn outcome(&self) -> Outcome;
}

impl Classified for ChainError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unavailable(_) => Outcome::Unavailable,
            Self::Pruned(_) => Outcome::Pruned,
            Self::Refused { .. } => Outcome::Refused,
            Self::Malformed { .. } => Outcome::Bad,
        }
    }
}

impl Classified for StoreError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unavailable(_) => Outcome::Unavailable,
            Self::Denied(_) | Self::ClockSkewed(_) => Outcome::Denied,
            Self::Changed(_) => Outcome::Changed,
            Self::TooLarge { .. } | Self::File(_) | Self::Malformed(_) => Outcome::Bad,
        }
    }
}

impl Classified for BeaconError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Unavailable(_) => Outcome::Unavailable,
            Self::Invalid { .. } => Outcome::Bad,
        }
    }
}

/// Something that an adapter saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A call ended.
    Call {
        /// Who was called.
        service: Service,
        /// What was called, one of a fixed set of names.
        call: &'static str,
        /// How it ended.
        outcome: Outcome,
        /// How long it took, attempts and waits included.
        took: Duration,
    },
    /// A connection to a node of the chain stands.
    Connected {
        /// The node's address, without what may be a secret.
        endpoint: String,
    },
    /// There is no such connection any more, or it could not be made.
    Disconnected {
        /// The node's address, as above.
        endpoint: String,
    },
    /// The newest block was read.
    Head {
        /// The block.
        block: BlockNumber,
        /// How far its time is behind ours; zero if it is ahead.
        lag: Duration,
    },
}

/// Where observations go; must not block.
pub trait Observer: Send + Sync {
    /// Takes an observation.
    fn observe(&self, observation: Observation);
}

/// Looks away.
pub struct NoObserver;

impl Observer for NoObserver {
    fn observe(&self, _: Observation) {}
}
