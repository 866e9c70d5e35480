//! Failures drawn from a seed, put in front of any port.
//!
//! Whether a call fails depends on the seed, the call's name and argument, and how often that same
//! call was made before; not on what other tasks do meanwhile. A failing run therefore replays from
//! its seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use grail_ports::beacon::Beacon;
use grail_ports::chain::Chain;
use grail_ports::layer::Layered;
use grail_ports::object_store::{Buckets, ObjectStore};

use crate::{draw, lock};

mod wrapped;

/// How often calls fail: chances in 1,000 calls each, together at most 1,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// The call has no effect and ends with an error that says to try again.
    pub unavailable: u16,
    /// The call has its effect, but the answer is lost: the same error.
    pub lost_answer: u16,
    /// The call waits for the next [`Faults::advance`], then is carried out.
    pub slow: u16,
    /// The answer is damaged: bytes are changed or cut, and what an adapter would have checked
    /// comes as its error.
    pub corrupt: u16,
}

impl FaultRates {
    /// Every kind of failure at this rate.
    pub fn all(per_mille: u16) -> Self {
        Self { unavailable: per_mille, lost_answer: per_mille, slow: per_mille, corrupt: per_mille }
    }
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// See [`FaultRates::unavailable`].
    Unavailable,
    /// See [`FaultRates::lost_answer`].
    LostAnswer,
    /// See [`FaultRates::slow`].
    Slow,
    /// See [`FaultRates::corrupt`].
    Corrupt,
}

/// A failure that happened, for the message of a failing test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnFault {
    /// The call and its argument, such as `store.get grail/…`.
    pub call: String,
    /// What went wrong.
    pub kind: FaultKind,
}

/// Draws failures and wraps ports with them; clones share everything.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    state: Mutex<State>,
    steps: watch::Sender<u64>,
}

struct State {
    rates: FaultRates,
    calls: BTreeMap<String, u64>,
    drawn: Vec<DrawnFault>,
}

impl Faults {
    /// Draws failures at `rates` from `seed`.
    ///
    /// # Panics
    /// When the rates sum to more than 1,000.
    pub fn new(seed: u64, rates: FaultRates) -> Self {
        check(rates);
        let state = State { rates, calls: BTreeMap::new(), drawn: Vec::new() };
        let shared = Shared { seed, state: Mutex::new(state), steps: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Changes the rates from now on.
    ///
    /// # Panics
    /// When the rates sum to more than 1,000.
    pub fn set_rates(&self, rates: FaultRates) {
        check(rates);
        lock(&self.shared.state).rates = rates;
    }

    /// Lets all calls go on that are slow now.
    pub fn advance(&self) {
        self.shared.steps.send_modify(|step| *step += 1);
    }

    /// Returns the number of calls that are slow now.
    pub fn waiting(&self) -> usize {
        self.shared.steps.receiver_count()
    }

    /// Returns the failures so far, in the order in which they happened.
    pub fn drawn(&self) -> Vec<DrawnFault> {
        lock(&self.shared.state).drawn.clone()
    }

    /// Puts the failures in front of a bucket; `name` tells it from others.
    pub fn store(&self, name: &str, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Layered::new(inner, self.named(name)))
    }

    /// Puts the failures in front of all buckets that are opened.
    pub fn buckets(&self, inner: Arc<dyn Buckets>) -> Arc<dyn Buckets> {
        Arc::new(wrapped::FaultyBuckets { faults: self.clone(), inner })
    }

    /// Puts the failures in front of a chain; `name` tells it from others.
    pub fn chain(&self, name: &str, inner: Arc<dyn Chain>) -> Arc<dyn Chain> {
        Arc::new(Layered::new(inner, self.named(name)))
    }

    /// Puts the failures in front of a beacon; `name` tells it from others.
    pub fn beacon(&self, name: &str, inner: Arc<dyn Beacon>) -> Arc<dyn Beacon> {
        Arc::new(Layered::new(inner, self.named(name)))
    }

    fn named(&self, name: &str) -> wrapped::Named {
        wrapped::Named { faults: self.clone(), name: name.to_owned() }
    }

    /// Decides the fate of a call, and waits if it is slow.
    async fn fate(&self, call: &str) -> Option<Fate> {
        let fate = self.draw(call);
        if let Some(Fate { kind: FaultKind::Slow, .. }) = fate {
            let mut steps = self.shared.steps.subscribe();
            // The sender lives in `self`, so the only answer is a step.
            let _ = steps.changed().await;
            return None;
        }
        fate
    }

    fn draw(&self, call: &str) -> Option<Fate> {
        let mut state = lock(&self.shared.state);
        let count = state.calls.entry(call.to_owned()).or_default();
        *count += 1;
        let nth = count.to_le_bytes();
        let word = draw::word("grail/testkit/faults", self.shared.seed, &[call.as_bytes(), &nth]);
        let FaultRates { unavailable, lost_answer, slow, corrupt } = state.rates;
        let mut left = word % 1000;
        for (rate, kind) in [
            (unavailable, FaultKind::Unavailable),
            (lost_answer, FaultKind::LostAnswer),
            (slow, FaultKind::Slow),
            (corrupt, FaultKind::Corrupt),
        ] {
            if left < u64::from(rate) {
                state.drawn.push(DrawnFault { call: call.to_owned(), kind });
                return Some(Fate { kind, word: word / 1000 });
            }
            left -= u64::from(rate);
        }
        None
    }
}

fn check(rates: FaultRates) {
    let FaultRates { unavailable, lost_answer, slow, corrupt } = rates;
    let sum: u32 = [unavailable, lost_answer, slow, corrupt].map(u32::from).iter().sum();
    assert!(sum <= 1000, "{rates:?} sum to more than 1,000 in 1,000 calls");
}

/// What happens to a call, and a number for the details.
struct Fate {
    kind: FaultKind,
    word: u64,
}

impl Fate {
    /// Cuts `bytes` or flips one of their bits.
    fn damage(&self, bytes: &mut Vec<u8>) {
        let Ok(length) = u64::try_from(bytes.len()) else { return };
        if length == 0 {
            bytes.push(0);
            return;
        }
        let index = usize::try_from(self.word / 16 % length).expect("below the length");
        if self.word.is_multiple_of(2) {
            bytes.truncate(index);
        } else {
            bytes[index] ^= 1 << (self.word / 2 % 8);
        }
    }
}

#[cfg(test)]
mod tests;
