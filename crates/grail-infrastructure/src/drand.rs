//! Asks drand's relays for rounds, several at once when one is slow, and believes none of them.
//!
//! Every answer is checked against the chain's public key, which is part of this program: a relay can
//! be late or absent, and nothing else. Without a valid answer there is an error, never a substitute.

pub mod chain;
mod describe;
mod fetch;
pub mod pulse;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt as _};
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use grail_protocol::ids::Digest;
use grail_protocol::timelock::{BeaconPublicKey, RoundSignature};
use tokio::time::{sleep, timeout};

pub use self::chain::{DrandChain, OwnChain, UnknownDrandChain};
pub use self::describe::describe;
pub use self::fetch::read as read_answer;
use self::fetch::{Fetched, Relay};
use crate::clock::Clock;

/// Rounds that are remembered unless told otherwise; a window takes two, and retries ask for the same
/// ones again.
const CACHE_ROUNDS: usize = 256;

/// Most relays.
pub const RELAYS_MAX: usize = 16;

/// How relays are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrandConfig {
    /// Base addresses in order of preference, such as `https://api.drand.sh`.
    pub relays: Vec<String>,
    /// Longest time for one question to all relays together.
    pub deadline: Duration,
    /// Wait for one relay before the next one is asked as well.
    pub hedge_after: Duration,
    /// Most rounds that are remembered.
    pub cache_rounds: usize,
}

impl DrandConfig {
    /// Returns drand's public relays.
    pub fn public() -> Self {
        let relays = [
            "https://api.drand.sh",
            "https://api2.drand.sh",
            "https://api3.drand.sh",
            "https://drand.cloudflare.com",
        ];
        Self {
            relays: relays.map(str::to_owned).to_vec(),
            deadline: Duration::from_secs(10),
            hedge_after: Duration::from_millis(700),
            cache_rounds: CACHE_ROUNDS,
        }
    }

    /// Checks the relays.
    ///
    /// # Errors
    /// When they are none, too many, or no addresses.
    pub fn check(&self) -> Result<(), DrandConfigError> {
        if !(1..=RELAYS_MAX).contains(&self.relays.len()) {
            return Err(DrandConfigError::RelayCount(self.relays.len()));
        }
        self.relays.iter().try_for_each(|base| fetch::address(base).map(drop))
    }
}

/// A round whose signature was checked, of either kind of chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRound {
    /// Number of the round, 1-based.
    pub round: u64,
    /// SHA-256 of the signature.
    pub randomness: Digest,
    /// The signature, compressed.
    pub signature: Vec<u8>,
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrandConfigError {
    /// No relay, or too many.
    #[error("{0} relays are named; name 1 to {RELAYS_MAX}")]
    RelayCount(usize),
    /// Not an address.
    #[error("relay `{0}` is no address; write it as https://api.drand.sh")]
    Address(String),
    /// The operating system refused what a client needs.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
    /// Rounds of the chain open no seal.
    #[error(
        "nothing can be sealed to rounds of drand's `{0}` chain, whose messages are not known before; \
         use quicknet"
    )]
    Chained(&'static str),
}

/// A client of one chain of drand.
pub struct Drand {
    chain: DrandChain,
    relays: Vec<Relay>,
    config: DrandConfig,
    clock: Clock,
    state: Mutex<State>,
}

/// What was learnt.
#[derive(Default)]
struct State {
    rounds: BTreeMap<u64, VerifiedRound>,
    /// Failures in a row, by relay.
    failures: Vec<u32>,
}

impl Drand {
    /// Returns a client; nothing is sent yet. `clock` says which rounds are out.
    ///
    /// # Errors
    /// When the relays make no sense.
    pub fn new(
        chain: DrandChain,
        config: DrandConfig,
        clock: Clock,
    ) -> Result<Self, DrandConfigError> {
        config.check()?;
        let relays: Vec<Relay> =
            config.relays.iter().map(|base| Relay::new(base, chain)).collect::<Result<_, _>>()?;
        let state = State { failures: vec![0; relays.len()], ..State::default() };
        Ok(Self { chain, relays, config, clock, state: Mutex::new(state) })
    }

    /// Returns the chain.
    pub fn chain(&self) -> DrandChain {
        self.chain
    }

    /// Returns `round`, or `None` if it is not out yet.
    ///
    /// Relays are asked in order of preference, those that failed last; while there is no valid
    /// answer, one more after each [`DrandConfig::hedge_after`] and after each failure.
    ///
    /// # Errors
    /// [`BeaconError::Unavailable`] when no relay answers in time, [`BeaconError::Invalid`] when all
    /// that answer lie.
    ///
    /// # Cancel safety
    /// Dropping the future drops all requests.
    pub async fn fetch(&self, round: u64) -> Result<Option<VerifiedRound>, BeaconError> {
        if round == 0 || self.chain.schedule().time_of_ms(round) > (self.clock)() {
            return Ok(None);
        }
        if let Some(known) = self.state().rounds.get(&round) {
            return Ok(Some(known.clone()));
        }
        match timeout(self.config.deadline, self.ask(round)).await {
            Ok(answer) => answer,
            Err(_) => Err(BeaconError::Unavailable(format!(
                "no relay sent round {round} within {:?}",
                self.config.deadline
            ))),
        }
    }

    async fn ask(&self, round: u64) -> Result<Option<VerifiedRound>, BeaconError> {
        let mut order = self.order().into_iter();
        let mut asked = FuturesUnordered::new();
        let (mut last, mut is_late) = (None, false);
        loop {
            let next = order.next();
            let none_left = next.is_none();
            if let Some(index) = next {
                let relay = &self.relays[index];
                asked.push(async move { (index, relay.fetch(round).await) });
            } else if asked.is_empty() {
                break;
            }
            tokio::select! {
                Some((index, answer)) = asked.next() => match answer {
                    Ok(Fetched::Round(verified)) => {
                        self.succeeded(index, &verified);
                        return Ok(Some(verified));
                    }
                    // A relay may lag behind the others, and behind the clock.
                    Ok(Fetched::NotYet) => is_late = true,
                    Err(error) => {
                        tracing::debug!(relay = self.relays[index].base(), %error, "no round");
                        self.failed(index);
                        // A lie says more than silence.
                        if !matches!(last, Some(BeaconError::Invalid { .. })) {
                            last = Some(error);
                        }
                    }
                },
                () = sleep(self.config.hedge_after), if !none_left => {}
            }
        }
        match last {
            _ if is_late => Ok(None),
            Some(error) => Err(error),
            None => Err(BeaconError::Unavailable("there is no relay".into())),
        }
    }

    /// Returns the relays, those that failed least first, then by preference.
    fn order(&self) -> Vec<usize> {
        let failures = self.state().failures.clone();
        let mut order: Vec<usize> = (0..failures.len()).collect();
        order.sort_by_key(|index| failures[*index]);
        order
    }

    fn succeeded(&self, index: usize, verified: &VerifiedRound) {
        let mut state = self.state();
        state.failures[index] = 0;
        state.rounds.insert(verified.round, verified.clone());
        while state.rounds.len() > self.config.cache_rounds {
            state.rounds.pop_first();
        }
    }

    fn failed(&self, index: usize) {
        let failures = &mut self.state().failures[index];
        *failures = failures.saturating_add(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chain of drand as the beacon of a network: only of the kind that one can seal to.
pub struct DrandBeacon {
    drand: Arc<Drand>,
    key: BeaconPublicKey,
}

impl DrandBeacon {
    /// Returns the beacon of a client.
    ///
    /// # Errors
    /// [`DrandConfigError::Chained`].
    pub fn new(drand: Arc<Drand>) -> Result<Self, DrandConfigError> {
        let chain = drand.chain();
        let key = chain.sealing_key().ok_or(DrandConfigError::Chained(chain.name()))?;
        Ok(Self { drand, key })
    }
}

#[async_trait]
impl Beacon for DrandBeacon {
    fn schedule(&self) -> BeaconSchedule {
        self.drand.chain().schedule()
    }

    fn public_key(&self) -> BeaconPublicKey {
        self.key
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        let Some(verified) = self.drand.fetch(round).await? else { return Ok(None) };
        let signature = verified.signature.try_into().map_err(|_| BeaconError::Invalid {
            round,
            reason: "its signature is of another kind of chain".into(),
        })?;
        let signature = RoundSignature(signature);
        Ok(Some(BeaconRound { round, randomness: verified.randomness, signature }))
    }
}
