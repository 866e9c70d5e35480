//! A chain that is cranked by hand: blocks come when a test says so.

mod weights;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use grail_ports::chain::{
    Block, Chain, ChainError, Hyperparameters, Metagraph, Neuron, SentWeights, WeightSubmission,
    WeightsStatus,
};
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid, Uid};

pub use self::weights::{FakeReveal, RecordedWeights};

use crate::{Clock, draw, lock};

/// What a fake chain starts from.
#[derive(Clone, Debug)]
pub struct FakeChainConfig {
    /// Decides the block hashes.
    pub seed: u64,
    /// Name of the network.
    pub network: String,
    /// The only subnet.
    pub netuid: Netuid,
    /// Time of block 0, milliseconds since the Unix epoch.
    pub genesis_ms: u64,
    /// Time between blocks, milliseconds, at least 1.
    pub block_time_ms: u64,
    /// Time between blocks that the chain says it aims at; `None` if it keeps it.
    pub aimed_block_time_ms: Option<u64>,
    /// Rules of the subnet.
    pub hyperparameters: Hyperparameters,
}

impl Default for FakeChainConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            network: "fake".to_owned(),
            netuid: Netuid(81),
            genesis_ms: 1_700_000_000_000,
            block_time_ms: 12_000,
            aimed_block_time_ms: None,
            hyperparameters: Hyperparameters {
                weights_rate_limit: 100,
                ..Hyperparameters::default()
            },
        }
    }
}

/// The chain that all handles of a test look at; clones share it.
#[derive(Clone)]
pub struct FakeChain {
    config: Arc<FakeChainConfig>,
    state: Arc<Mutex<State>>,
}

struct Slot {
    hotkey: Hotkey,
    stake: u64,
    permit: bool,
    registered_at: BlockNumber,
}

#[derive(Default)]
struct State {
    head: u64,
    /// Time since the head, below the block time.
    since_head_ms: u64,
    slots: Vec<Slot>,
    commitments: BTreeMap<Hotkey, Vec<u8>>,
    submissions: Vec<RecordedWeights>,
    hyperparameters: Hyperparameters,
    reveal: FakeReveal,
    /// Blocks that the final one is behind the head.
    finality_lag: u64,
    /// Blocks below this are no longer kept.
    pruned_below: u64,
    is_down: bool,
    loses_answer: bool,
    refusals: VecDeque<String>,
}

impl FakeChain {
    /// Starts a chain at block 0 with nobody registered.
    ///
    /// # Panics
    /// When the block time is 0.
    pub fn new(config: FakeChainConfig) -> Self {
        assert!(config.block_time_ms > 0, "the block time is at least 1 ms");
        let state = State { hyperparameters: config.hyperparameters, ..State::default() };
        Self { config: Arc::new(config), state: Arc::new(Mutex::new(state)) }
    }

    /// Makes `blocks` blocks and returns the head.
    pub fn advance(&self, blocks: u64) -> Block {
        let mut state = lock(&self.state);
        state.head += blocks;
        if blocks > 0 {
            state.since_head_ms = 0;
        }
        self.block_at(state.head)
    }

    /// Makes blocks until the head is `block`, if it is not already further.
    pub fn advance_to(&self, block: BlockNumber) -> Block {
        let mut state = lock(&self.state);
        if block.0 > state.head {
            state.head = block.0;
            state.since_head_ms = 0;
        }
        self.block_at(state.head)
    }

    /// Lets `ms` pass without a block; the clock never reaches the time of the next one.
    pub fn pass_ms(&self, ms: u64) {
        let mut state = lock(&self.state);
        state.since_head_ms =
            state.since_head_ms.saturating_add(ms).min(self.config.block_time_ms - 1);
    }

    /// Returns the newest block, even while the chain is down.
    pub fn head(&self) -> Block {
        self.block_at(lock(&self.state).head)
    }

    /// Returns a clock that follows the chain: the head's time and what passed since.
    pub fn clock(&self) -> Clock {
        let chain = self.clone();
        Arc::new(move || {
            let state = lock(&chain.state);
            chain.block_at(state.head).timestamp_ms + state.since_head_ms
        })
    }

    /// Registers `hotkey` under the next uid, or returns the uid that it has.
    pub fn register(&self, hotkey: Hotkey, stake: u64, permit: bool) -> Uid {
        let mut state = lock(&self.state);
        if let Some(uid) = state.uid_of(hotkey) {
            return uid;
        }
        let registered_at = BlockNumber(state.head);
        state.slots.push(Slot { hotkey, stake, permit, registered_at });
        uid_at(state.slots.len() - 1)
    }

    /// Gives the place of `uid` to `hotkey`, as the chain does when a subnet is full.
    ///
    /// # Panics
    /// When nobody has that uid.
    pub fn replace(&self, uid: Uid, hotkey: Hotkey) {
        let mut state = lock(&self.state);
        let registered_at = BlockNumber(state.head);
        let slot = state.slots.get_mut(usize::from(uid.0)).expect("the uid is registered");
        let gone = slot.hotkey;
        *slot = Slot { hotkey, stake: 0, permit: false, registered_at };
        state.commitments.remove(&gone);
    }

    /// Gives or takes the right to set weights.
    ///
    /// # Panics
    /// When nobody has that uid.
    pub fn set_permit(&self, uid: Uid, permit: bool) {
        let mut state = lock(&self.state);
        state.slots.get_mut(usize::from(uid.0)).expect("the uid is registered").permit = permit;
    }

    /// Returns the chain as `hotkey`, registered or not, sees it.
    pub fn handle(&self, hotkey: Hotkey) -> Arc<ChainHandle> {
        Arc::new(ChainHandle { chain: self.clone(), hotkey, watched: Mutex::default() })
    }

    /// Returns every accepted submission of weights, oldest first.
    pub fn submissions(&self) -> Vec<RecordedWeights> {
        lock(&self.state).submissions.clone()
    }

    /// Makes every call through a handle fail as unavailable, until called with `false`.
    pub fn set_down(&self, is_down: bool) {
        lock(&self.state).is_down = is_down;
    }

    /// Refuses the next `set_weights` that breaks no rule, with this name of an error.
    pub fn refuse_next_weights(&self, name: &str) {
        lock(&self.state).refusals.push_back(name.to_owned());
    }

    /// Changes the rules of the subnet.
    pub fn set_hyperparameters(&self, hyperparameters: Hyperparameters) {
        lock(&self.state).hyperparameters = hyperparameters;
    }

    /// Lets the final block be `blocks` behind the head.
    pub fn set_finality_lag(&self, blocks: u64) {
        lock(&self.state).finality_lag = blocks;
    }

    /// Forgets the blocks below `block`.
    pub fn prune_below(&self, block: BlockNumber) {
        lock(&self.state).pruned_below = block.0;
    }

    fn block_at(&self, number: u64) -> Block {
        let hash = draw::digest("grail/testkit/block", self.config.seed, &[&number.to_le_bytes()]);
        let timestamp_ms = self.config.genesis_ms + number * self.config.block_time_ms;
        Block { number: BlockNumber(number), hash, timestamp_ms }
    }

    fn check_weights(
        &self,
        state: &State,
        hotkey: Hotkey,
        submission: &WeightSubmission,
    ) -> Result<Uid, ChainError> {
        let refuse = |name: &str, advice: &str| Err(refused("set_weights", name, advice));
        let Some(uid) = state.uid_of(hotkey) else {
            return refuse("HotKeyNotRegisteredInSubNet", "register the hotkey");
        };
        let slot = &state.slots[usize::from(uid.0)];
        let rules = &state.hyperparameters;
        let uids: BTreeSet<Uid> = submission.weights.iter().map(|(uid, _)| *uid).collect();
        if !slot.permit {
            return refuse("NeuronNoValidatorPermit", "stake more to this validator");
        }
        if submission.version_key < rules.weights_version {
            return refuse("IncorrectWeightVersionKey", "update this program");
        }
        if let Some(last) = state.last_weights(slot)
            && state.head - last.block.0 < rules.weights_rate_limit
        {
            return refuse("SettingWeightsTooFast", "wait for the rate limit");
        }
        if uids.len() != submission.weights.len() {
            return refuse("DuplicateUids", "name each uid once");
        }
        if uids.iter().any(|uid| usize::from(uid.0) >= state.slots.len()) {
            return refuse("UidVecContainInvalidOne", "read the metagraph again");
        }
        if uids.is_empty() || submission.weights.iter().any(|(_, w)| !w.is_finite() || *w < 0.0) {
            return refuse("WeightVecNotEqualSize", "send finite weights of 0 or more");
        }
        Ok(uid)
    }
}

impl State {
    fn uid_of(&self, hotkey: Hotkey) -> Option<Uid> {
        self.slots.iter().position(|slot| slot.hotkey == hotkey).map(uid_at)
    }

    /// Returns each uid's share of the validators' weights, stake-weighted.
    fn incentives(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.slots.len()];
        for slot in self.slots.iter().filter(|slot| slot.permit) {
            let Some(recorded) = self.counted_weights(slot) else { continue };
            let weights = &recorded.submission.weights;
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            for (uid, weight) in weights.iter().filter(|_| total > 0.0) {
                #[expect(clippy::cast_precision_loss, reason = "a share needs no exact stake")]
                let stake = slot.stake as f64;
                shares[usize::from(uid.0)] += stake * weight / total;
            }
        }
        let total: f64 = shares.iter().sum();
        if total > 0.0 {
            shares.iter_mut().for_each(|share| *share /= total);
        }
        shares
    }
}

fn uid_at(index: usize) -> Uid {
    Uid(u16::try_from(index).expect("a fake subnet has fewer than 65,536 neurons"))
}

fn refused(call: &str, name: &str, advice: &str) -> ChainError {
    ChainError::Refused { call: call.to_owned(), name: name.to_owned(), advice: advice.to_owned() }
}

/// A [`FakeChain`] as one hotkey sees it.
pub struct ChainHandle {
    chain: FakeChain,
    hotkey: Hotkey,
    /// Block of the weights that were set last, as far as this handle knows.
    watched: Mutex<Option<BlockNumber>>,
}

impl ChainHandle {
    /// Runs a call on the state, unless the chain is down.
    fn call<T>(
        &self,
        call: impl FnOnce(&mut State) -> Result<T, ChainError>,
    ) -> Result<T, ChainError> {
        let mut state = lock(&self.chain.state);
        if state.is_down {
            return Err(ChainError::Unavailable("the fake chain is down".to_owned()));
        }
        call(&mut state)
    }
}

#[async_trait]
impl Chain for ChainHandle {
    fn netuid(&self) -> Netuid {
        self.chain.config.netuid
    }

    fn network(&self) -> &str {
        &self.chain.config.network
    }

    fn block_time_ms(&self) -> u64 {
        let config = &self.chain.config;
        config.aimed_block_time_ms.unwrap_or(config.block_time_ms)
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.call(|state| Ok(self.chain.block_at(state.head)))
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        self.call(|state| {
            if number.0 < state.pruned_below {
                return Err(ChainError::Pruned(number));
            }
            Ok((number.0 <= state.head).then(|| self.chain.block_at(number.0)))
        })
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.call(|state| {
            let incentives = state.incentives();
            let neuron = |(index, slot): (usize, &Slot)| Neuron {
                uid: uid_at(index),
                hotkey: slot.hotkey,
                stake: slot.stake,
                validator_permit: slot.permit,
                incentive: incentives[index],
                last_update: state.last_weights(slot).map_or(slot.registered_at, |last| last.block),
            };
            Ok(Arc::new(Metagraph {
                netuid: self.chain.config.netuid,
                block: BlockNumber(state.head),
                neurons: state.slots.iter().enumerate().map(neuron).collect(),
            }))
        })
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.call(|state| Ok(state.hyperparameters))
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.call(|state| Ok(Arc::new(state.commitments.clone())))
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.call(|state| {
            if state.uid_of(self.hotkey).is_none() {
                return Err(refused("set_commitment", "AccountNotAllowedCommit", "register first"));
            }
            if data.is_empty() || data.len() > 128 {
                let advice = "commit 1 to 128 bytes";
                return Err(refused("set_commitment", "TooManyFieldsInCommitmentInfo", advice));
            }
            state.commitments.insert(self.hotkey, data.to_vec());
            Ok(())
        })
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        self.call(|state| {
            let uid = self.chain.check_weights(state, self.hotkey, weights)?;
            if let Some(name) = state.refusals.pop_front() {
                return Err(refused("set_weights", &name, "a test asked for this refusal"));
            }
            state.include(self.hotkey, uid, weights.clone());
            if std::mem::take(&mut state.loses_answer) {
                return Err(ChainError::Unavailable("a test lost the answer".to_owned()));
            }
            let block = BlockNumber(state.head);
            *lock(&self.watched) = Some(block);
            Ok(block)
        })
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        self.call(|state| Ok(BlockNumber(state.head.saturating_sub(state.finality_lag))))
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        self.call(|state| {
            let watched = *lock(&self.watched);
            Ok(watched.map_or(WeightsStatus::Unknown, |block| state.status_of(self.hotkey, block)))
        })
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        self.call(|_| {
            *lock(&self.watched) = Some(sent.block);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FakeSigner, contract};
    use grail_ports::signer::Signer as _;

    fn hotkey(seed: u64) -> Hotkey {
        FakeSigner::new(seed).hotkey()
    }

    #[tokio::test]
    async fn the_chain_passes_the_contract() {
        let chain = FakeChain::new(FakeChainConfig::default());
        let (validator, miner) = (hotkey(1), hotkey(2));
        chain.register(validator, 1_000, true);
        chain.register(miner, 0, false);
        let crank = chain.clone();
        contract::chain(contract::ChainUnderTest {
            validator: (validator, chain.handle(validator)),
            miner: (miner, chain.handle(miner)),
            stranger: (hotkey(3), chain.handle(hotkey(3))),
            advance: Box::new(move |blocks| {
                crank.advance(blocks);
                Box::pin(async {})
            }),
        })
        .await;
    }

    #[tokio::test]
    async fn the_clock_follows_the_head() {
        let chain = FakeChain::new(FakeChainConfig::default());
        let clock = chain.clock();
        let genesis_ms = clock();
        chain.pass_ms(5_000);
        assert_eq!(clock(), genesis_ms + 5_000);
        chain.pass_ms(60_000);
        assert_eq!(clock(), genesis_ms + 11_999, "time stops short of the next block");
        chain.advance(2);
        assert_eq!(clock(), chain.head().timestamp_ms);
        assert_eq!(clock(), genesis_ms + 24_000);
        assert_eq!(chain.advance_to(BlockNumber(1)).number, BlockNumber(2), "never backwards");
    }

    #[tokio::test]
    async fn faults_can_be_injected() {
        let chain = FakeChain::new(FakeChainConfig::default());
        let uid = chain.register(hotkey(1), 10, true);
        let handle = chain.handle(hotkey(1));
        chain.set_down(true);
        assert!(matches!(handle.head().await, Err(ChainError::Unavailable(_))));
        chain.set_down(false);

        chain.refuse_next_weights("CommitRevealEnabled");
        let submission = WeightSubmission { weights: vec![(uid, 1.0)], version_key: 0 };
        let refusal = handle.set_weights(&submission).await.unwrap_err();
        assert!(refusal.to_string().contains("CommitRevealEnabled"), "{refusal}");
        assert_eq!(chain.submissions(), []);
        handle.set_weights(&submission).await.unwrap();
        assert_eq!(chain.submissions().len(), 1);

        chain.advance(10);
        chain.prune_below(BlockNumber(5));
        assert_eq!(handle.block(BlockNumber(4)).await, Err(ChainError::Pruned(BlockNumber(4))));
        assert!(handle.block(BlockNumber(5)).await.unwrap().is_some());

        chain.set_permit(uid, false);
        chain.replace(uid, hotkey(9));
        let metagraph = handle.metagraph().await.unwrap();
        assert_eq!(metagraph.neurons.len(), 1);
        assert_eq!(metagraph.neurons[0].hotkey, hotkey(9));
    }
}
