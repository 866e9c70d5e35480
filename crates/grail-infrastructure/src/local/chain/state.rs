//! The chain's rules as a pure state machine: calls in, new state or a named refusal out.
//!
//! Checks come in the order of the real chain. Source: spec/bittensor.md sections 5 to 7.

use std::collections::{BTreeMap, BTreeSet};

use grail_ports::chain::{Hyperparameters, Metagraph, Neuron};
use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey, Netuid, Uid};
use serde::{Deserialize, Serialize};

use super::extrinsic::{Call, SignedExtrinsic, VALIDITY_BLOCKS};
use super::refusal::Refusal;
use super::weights::{Row, incentives, upscale};

/// Most bytes in one commitment.
pub const COMMITMENT_BYTES_MAX: usize = 128;

/// Bytes that a hotkey may commit in one epoch. Source: `Commitments.MaxSpace`.
const COMMITMENT_SPACE_PER_EPOCH: u64 = 3100;

/// Least space that a commitment takes.
const COMMITMENT_SPACE_MIN: u64 = 100;

/// Largest number of uids. Source: the real chain's default of `MaxAllowedUids`.
const NEURONS_MAX: u16 = 256;

/// What never changes on a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainRules {
    /// Name of the network, such as `local`.
    pub network: String,
    /// The only subnet.
    pub netuid: Netuid,
    /// Time of block 0, milliseconds since the Unix epoch.
    pub genesis_ms: u64,
    /// Time between blocks, milliseconds, at least 1.
    pub block_time_ms: u64,
    /// Blocks in an epoch, at least 1.
    pub tempo: u64,
    /// Least number of blocks between two `set_weights` of one validator.
    pub weights_rate_limit: u64,
    /// Least version key of `set_weights`; 0 takes any.
    pub weights_version: u64,
    /// Least stake of those who set weights.
    pub stake_threshold: u64,
    /// Largest number of validator permits.
    pub validators_max: u16,
    /// Largest number of neurons, at most 256.
    pub neurons_max: u16,
    /// Least number of weights in one row.
    pub min_allowed_weights: u16,
    /// Whether any hotkey may register itself, without stake.
    pub open_registration: bool,
}

impl ChainRules {
    /// Returns rules for a network on one machine: 1 s blocks, epochs and rate limit of 100 blocks
    /// as on the real chain, open registration.
    pub fn local(genesis_ms: u64) -> Self {
        Self {
            network: "local".into(),
            netuid: Netuid(81),
            genesis_ms,
            block_time_ms: 1000,
            tempo: 360,
            weights_rate_limit: 100,
            weights_version: 0,
            stake_threshold: 0,
            validators_max: 64,
            neurons_max: NEURONS_MAX,
            min_allowed_weights: 1,
            open_registration: true,
        }
    }

    /// Returns what is wrong with these rules, if anything.
    ///
    /// # Errors
    /// A text that names the field and its range.
    pub fn validate(&self) -> Result<(), String> {
        if !crate::wallet::is_plain_name(&self.network) {
            return Err(format!("network `{}` is not a plain name", self.network));
        }
        for (name, value) in [("block_time_ms", self.block_time_ms), ("tempo", self.tempo)] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        if self.neurons_max == 0 || self.neurons_max > NEURONS_MAX {
            return Err(format!(
                "neurons_max must be 1 to {NEURONS_MAX}, not {}",
                self.neurons_max
            ));
        }
        Ok(())
    }

    /// Returns the rules that bind validators.
    pub fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters {
            weights_rate_limit: self.weights_rate_limit,
            weights_version: self.weights_version,
            tempo: self.tempo,
        }
    }

    /// Returns when block `number` comes out, milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self, number: BlockNumber) -> u64 {
        self.genesis_ms.saturating_add(number.0.saturating_mul(self.block_time_ms))
    }
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The network's owner, who holds the folder.
    Root,
    /// The holder of a hotkey.
    Signed(Hotkey),
}

/// What the chain knows after some block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Neurons in the order of their uids.
    neurons: Vec<NeuronState>,
    commitments: BTreeMap<Hotkey, Commitment>,
    accounts: BTreeMap<Hotkey, Account>,
    last_epoch_block: BlockNumber,
    epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NeuronState {
    hotkey: Hotkey,
    stake: u64,
    last_update: BlockNumber,
    incentive: u16,
    weights: Vec<(u16, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Commitment {
    #[serde(with = "hex::serde")]
    data: Vec<u8>,
    epoch: u64,
    space_used: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    nonce: u64,
    last: Digest,
    last_block: BlockNumber,
}

impl State {
    /// Includes a signed call in `block`, which is being built, and returns the block that
    /// includes it.
    ///
    /// Sending the newest included call again changes nothing and returns its block, so that a
    /// client whose answer was lost may repeat itself.
    pub fn include(
        &mut self,
        rules: &ChainRules,
        genesis: BlockHash,
        block: BlockNumber,
        extrinsic: &SignedExtrinsic,
    ) -> Result<BlockNumber, Refusal> {
        if !extrinsic.is_authentic(genesis) {
            return Err(Refusal::BadSignature);
        }
        let id = extrinsic.id(genesis);
        let account = self.accounts.get(&extrinsic.signer);
        if let Some(account) = account.filter(|account| account.last == id) {
            return Ok(account.last_block);
        }
        let nonce = account.map_or(0, |account| account.nonce);
        if extrinsic.nonce != nonce {
            return Err(Refusal::BadNonce { expected: nonce });
        }
        let last_valid = BlockNumber(block.0.saturating_add(VALIDITY_BLOCKS));
        if extrinsic.valid_until < block || extrinsic.valid_until > last_valid {
            return Err(Refusal::Outdated { next: block });
        }
        self.dispatch(rules, block, Origin::Signed(extrinsic.signer), &extrinsic.call)?;
        let account = Account { nonce: nonce.saturating_add(1), last: id, last_block: block };
        self.accounts.insert(extrinsic.signer, account);
        Ok(block)
    }

    /// Does what `call` says, or nothing.
    pub fn dispatch(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        origin: Origin,
        call: &Call,
    ) -> Result<(), Refusal> {
        match (origin, call) {
            (_, Call::Register { hotkey, stake }) => {
                self.register(rules, block, origin, *hotkey, *stake)
            }
            (Origin::Signed(signer), Call::SetCommitment { data }) => self.commit(signer, data),
            (Origin::Signed(signer), Call::SetWeights { uids, weights, version_key }) => {
                self.set_weights(rules, block, signer, uids, weights, *version_key)
            }
            (Origin::Root, _) => Err(Refusal::HotKeyNotRegisteredInSubNet),
        }
    }

    /// Ends `block`: when an epoch is over, incentives follow from the weights.
    pub fn end_block(&mut self, rules: &ChainRules, block: BlockNumber) {
        if block.0.saturating_sub(self.last_epoch_block.0) < rules.tempo {
            return;
        }
        self.last_epoch_block = block;
        self.epoch += 1;
        let permits = self.permits(rules);
        let rows: Vec<Row<'_>> = (0..)
            .zip(&self.neurons)
            .zip(permits)
            .filter(|(_, permit)| *permit)
            .map(|((uid, neuron), _)| Row { uid, stake: neuron.stake, weights: &neuron.weights })
            .collect();
        let incentives = incentives(&rows, self.neurons.len());
        for (neuron, incentive) in self.neurons.iter_mut().zip(incentives) {
            neuron.incentive = incentive;
        }
    }

    /// Returns the nonce that is due from `hotkey`.
    pub fn nonce(&self, hotkey: Hotkey) -> u64 {
        self.accounts.get(&hotkey).map_or(0, |account| account.nonce)
    }

    /// Returns the uid of `hotkey`.
    pub fn uid(&self, hotkey: Hotkey) -> Option<Uid> {
        let position = self.neurons.iter().position(|neuron| neuron.hotkey == hotkey)?;
        u16::try_from(position).ok().map(Uid)
    }

    /// Returns what registered hotkeys have committed.
    pub fn commitments(&self) -> BTreeMap<Hotkey, Vec<u8>> {
        self.commitments.iter().map(|(hotkey, entry)| (*hotkey, entry.data.clone())).collect()
    }

    /// Returns the metagraph as of `block`.
    pub fn metagraph(&self, rules: &ChainRules, block: BlockNumber) -> Metagraph {
        let neurons = (0..)
            .zip(&self.neurons)
            .zip(self.permits(rules))
            .map(|((uid, neuron), validator_permit)| Neuron {
                uid: Uid(uid),
                hotkey: neuron.hotkey,
                stake: neuron.stake,
                validator_permit,
                incentive: f64::from(neuron.incentive) / f64::from(u16::MAX),
                last_update: neuron.last_update,
            })
            .collect();
        Metagraph { netuid: rules.netuid, block, neurons }
    }

    /// Returns, by uid, who may set weights: those with the most stake, equal stakes by lower uid.
    fn permits(&self, rules: &ChainRules) -> Vec<bool> {
        let mut order: Vec<usize> = (0..self.neurons.len())
            .filter(|uid| {
                let stake = self.neurons[*uid].stake;
                stake > 0 && stake >= rules.stake_threshold
            })
            .collect();
        // Stable, so equal stakes stay in the order of their uids.
        order.sort_by_key(|uid| std::cmp::Reverse(self.neurons[*uid].stake));
        order.truncate(usize::from(rules.validators_max));
        let mut permits = vec![false; self.neurons.len()];
        for uid in order {
            permits[uid] = true;
        }
        permits
    }

    fn register(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        origin: Origin,
        hotkey: Hotkey,
        stake: u64,
    ) -> Result<(), Refusal> {
        if let Origin::Signed(signer) = origin {
            if !rules.open_registration {
                return Err(Refusal::SubNetRegistrationDisabled);
            }
            if signer != hotkey || stake != 0 {
                return Err(Refusal::RegistrationNotPermitted);
            }
        }
        if self.uid(hotkey).is_some() {
            return Err(Refusal::HotKeyAlreadyRegisteredInSubNet);
        }
        if self.neurons.len() >= usize::from(rules.neurons_max) {
            return Err(Refusal::NoNeuronIdAvailable);
        }
        self.neurons.push(NeuronState {
            hotkey,
            stake,
            last_update: block,
            incentive: 0,
            weights: Vec::new(),
        });
        Ok(())
    }

    fn commit(&mut self, signer: Hotkey, data: &[u8]) -> Result<(), Refusal> {
        if self.uid(signer).is_none() {
            return Err(Refusal::AccountNotAllowedCommit);
        }
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if data.is_empty() || data.len() > COMMITMENT_BYTES_MAX {
            return Err(Refusal::CommitmentLengthInvalid { bytes });
        }
        let earlier = self.commitments.get(&signer).filter(|entry| entry.epoch == self.epoch);
        let space_used =
            earlier.map_or(0, |entry| entry.space_used) + bytes.max(COMMITMENT_SPACE_MIN);
        if space_used > COMMITMENT_SPACE_PER_EPOCH {
            return Err(Refusal::SpaceLimitExceeded);
        }
        let entry = Commitment { data: data.to_vec(), epoch: self.epoch, space_used };
        self.commitments.insert(signer, entry);
        Ok(())
    }

    fn set_weights(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        uids: &[u16],
        weights: &[u16],
        version_key: u64,
    ) -> Result<(), Refusal> {
        if uids.len() != weights.len() {
            return Err(Refusal::WeightVecNotEqualSize);
        }
        if uids.len() > self.neurons.len() {
            return Err(Refusal::UidsLengthExceedUidsInSubNet);
        }
        let own = self.uid(signer).ok_or(Refusal::HotKeyNotRegisteredInSubNet)?;
        let neuron = &self.neurons[usize::from(own.0)];
        if neuron.stake < rules.stake_threshold {
            return Err(Refusal::NotEnoughStakeToSetWeights { threshold: rules.stake_threshold });
        }
        if rules.weights_version != 0 && version_key < rules.weights_version {
            return Err(Refusal::IncorrectWeightVersionKey { expected: rules.weights_version });
        }
        // Block 0 means never, as on the real chain; a later registration counts as an update.
        let next = BlockNumber(neuron.last_update.0.saturating_add(rules.weights_rate_limit));
        if neuron.last_update.0 != 0 && block < next {
            return Err(Refusal::SettingWeightsTooFast { next });
        }
        // Anybody may put all weight on itself: it moves nothing.
        let on_itself = uids == [own.0];
        if !on_itself && !self.permits(rules)[usize::from(own.0)] {
            return Err(Refusal::NeuronNoValidatorPermit);
        }
        if uids.iter().collect::<BTreeSet<_>>().len() != uids.len() {
            return Err(Refusal::DuplicateUids);
        }
        if let Some(uid) = uids.iter().find(|uid| usize::from(**uid) >= self.neurons.len()) {
            return Err(Refusal::UidVecContainInvalidOne { uid: *uid });
        }
        let least = usize::from(rules.min_allowed_weights).min(self.neurons.len());
        if !on_itself && uids.len() < least || weights.iter().all(|weight| *weight == 0) {
            return Err(Refusal::WeightVecLengthIsLow);
        }
        let row = uids.iter().copied().zip(upscale(weights)).collect();
        let neuron = &mut self.neurons[usize::from(own.0)];
        neuron.weights = row;
        neuron.last_update = block;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use grail_ports::signer::Signer;

    use super::*;
    use crate::wallet::Wallet;

    const GENESIS: BlockHash = Digest([1; 32]);
    const TRAINER: Hotkey = Hotkey([10; 32]);
    const VALIDATOR: Hotkey = Hotkey([11; 32]);
    const MINER: Hotkey = Hotkey([12; 32]);
    const STRANGER: Hotkey = Hotkey([13; 32]);

    fn rules() -> ChainRules {
        ChainRules {
            weights_version: 6,
            weights_rate_limit: 10,
            tempo: 20,
            min_allowed_weights: 2,
            ..ChainRules::local(0)
        }
    }

    /// uid 0 trainer, uid 1 validator with stake, uid 2 miner.
    fn state(rules: &ChainRules) -> State {
        let mut state = State::default();
        for (hotkey, stake) in [(TRAINER, 5), (VALIDATOR, 1000), (MINER, 0)] {
            register(&mut state, rules, hotkey, stake).unwrap();
        }
        state
    }

    fn register(
        state: &mut State,
        rules: &ChainRules,
        hotkey: Hotkey,
        stake: u64,
    ) -> Result<(), Refusal> {
        state.dispatch(rules, BlockNumber(0), Origin::Root, &Call::Register { hotkey, stake })
    }

    fn set(
        state: &mut State,
        rules: &ChainRules,
        block: u64,
        who: Hotkey,
        row: &[(u16, u16)],
        version_key: u64,
    ) -> Result<(), Refusal> {
        let (uids, weights) = row.iter().copied().unzip();
        let call = Call::SetWeights { uids, weights, version_key };
        state.dispatch(rules, BlockNumber(block), Origin::Signed(who), &call)
    }

    #[test]
    fn weights_are_refused_by_the_chains_rules_in_its_order() {
        let rules = rules();
        let good = [(0, 9), (2, 1)];
        for (who, row, version_key, expected) in [
            (STRANGER, &good[..], 0, Refusal::HotKeyNotRegisteredInSubNet),
            (VALIDATOR, &[(0, 1); 4], 6, Refusal::UidsLengthExceedUidsInSubNet),
            (MINER, &good, 0, Refusal::IncorrectWeightVersionKey { expected: 6 }),
            (MINER, &good, 6, Refusal::NeuronNoValidatorPermit),
            (VALIDATOR, &good, 5, Refusal::IncorrectWeightVersionKey { expected: 6 }),
            (VALIDATOR, &[(2, 1), (2, 1)], 6, Refusal::DuplicateUids),
            (VALIDATOR, &[(0, 1), (3, 1)], 6, Refusal::UidVecContainInvalidOne { uid: 3 }),
            (VALIDATOR, &[(0, 1)], 6, Refusal::WeightVecLengthIsLow),
            (VALIDATOR, &[(0, 0), (2, 0)], 6, Refusal::WeightVecLengthIsLow),
            (VALIDATOR, &[], 6, Refusal::WeightVecLengthIsLow),
        ] {
            let mut state = state(&rules);
            let before = state.clone();
            assert_eq!(set(&mut state, &rules, 1, who, row, version_key), Err(expected));
            assert_eq!(state, before, "a refused call changes nothing");
        }
        let unequal = Call::SetWeights { uids: vec![0], weights: vec![], version_key: 6 };
        let mut state = state(&rules);
        assert_eq!(
            state.dispatch(&rules, BlockNumber(1), Origin::Signed(VALIDATOR), &unequal),
            Err(Refusal::WeightVecNotEqualSize)
        );
        assert_eq!(set(&mut state, &rules, 1, MINER, &[(2, 3)], 6), Ok(()), "only on itself");
        let poor = ChainRules { stake_threshold: 1001, ..rules };
        assert_eq!(
            set(&mut state, &poor, 1, VALIDATOR, &good, 6),
            Err(Refusal::NotEnoughStakeToSetWeights { threshold: 1001 })
        );
    }

    #[test]
    fn the_rate_limit_counts_blocks_since_the_last_update() {
        let rules = rules();
        let mut state = state(&rules);
        let row = [(0, 9), (2, 1)];
        set(&mut state, &rules, 5, VALIDATOR, &row, 6).unwrap();
        let too_fast = Err(Refusal::SettingWeightsTooFast { next: BlockNumber(15) });
        assert_eq!(set(&mut state, &rules, 14, VALIDATOR, &row, 6), too_fast);
        assert_eq!(set(&mut state, &rules, 15, VALIDATOR, &row, 6), Ok(()));
    }

    #[test]
    fn incentives_change_at_the_end_of_an_epoch_only() {
        let rules = rules();
        let mut state = state(&rules);
        set(&mut state, &rules, 1, VALIDATOR, &[(0, 3), (2, 1)], 6).unwrap();
        for block in 1..20 {
            state.end_block(&rules, BlockNumber(block));
        }
        let miner = |state: &State| {
            let metagraph = state.metagraph(&rules, BlockNumber(20));
            metagraph.neuron(MINER).unwrap().clone()
        };
        assert_eq!(miner(&state).incentive, 0.0);
        state.end_block(&rules, BlockNumber(20));
        // The chain scales (3, 1) up to (65535, 21845).
        assert_eq!(miner(&state).incentive, 16384.0 / 65535.0);
    }

    #[test]
    fn permits_go_to_the_largest_stakes() {
        let rules = ChainRules { validators_max: 2, stake_threshold: 10, ..rules() };
        let mut state = State::default();
        for (hotkey, stake) in [(TRAINER, 10), (VALIDATOR, 10), (MINER, 9), (STRANGER, 50)] {
            register(&mut state, &rules, hotkey, stake).unwrap();
        }
        assert_eq!(state.permits(&rules), [true, false, false, true]);
        assert_eq!(State::default().permits(&rules), [false; 0]);
    }

    #[test]
    fn registration_has_its_rules() {
        let rules = ChainRules { neurons_max: 4, ..rules() };
        let mut state = state(&rules);
        let again = register(&mut state, &rules, MINER, 0);
        assert_eq!(again, Err(Refusal::HotKeyAlreadyRegisteredInSubNet));
        let signed = |state: &mut State, rules: &ChainRules, hotkey, stake| {
            let call = Call::Register { hotkey, stake };
            state.dispatch(rules, BlockNumber(3), Origin::Signed(STRANGER), &call)
        };
        let closed = ChainRules { open_registration: false, ..rules.clone() };
        let denied = signed(&mut state, &closed, STRANGER, 0);
        assert_eq!(denied, Err(Refusal::SubNetRegistrationDisabled));
        let minted = signed(&mut state, &rules, STRANGER, 1);
        assert_eq!(minted, Err(Refusal::RegistrationNotPermitted));
        let for_another = signed(&mut state, &rules, Hotkey([14; 32]), 0);
        assert_eq!(for_another, Err(Refusal::RegistrationNotPermitted));
        assert_eq!(signed(&mut state, &rules, STRANGER, 0), Ok(()));
        assert_eq!(state.uid(STRANGER), Some(Uid(3)));
        let full = register(&mut state, &rules, Hotkey([14; 32]), 0);
        assert_eq!(full, Err(Refusal::NoNeuronIdAvailable));
    }

    #[test]
    fn commitments_are_bounded_in_length_and_number() {
        let rules = rules();
        let mut state = state(&rules);
        let commit = |state: &mut State, who, length: usize| {
            let call = Call::SetCommitment { data: vec![7; length] };
            state.dispatch(&rules, BlockNumber(1), Origin::Signed(who), &call)
        };
        assert_eq!(commit(&mut state, STRANGER, 5), Err(Refusal::AccountNotAllowedCommit));
        for length in [0, 129] {
            let bytes = u64::try_from(length).unwrap();
            let expected = Err(Refusal::CommitmentLengthInvalid { bytes });
            assert_eq!(commit(&mut state, MINER, length), expected);
        }
        for time in 0..24 {
            assert_eq!(commit(&mut state, MINER, 128), Ok(()), "time {time}");
        }
        assert_eq!(commit(&mut state, MINER, 128), Err(Refusal::SpaceLimitExceeded));
        assert_eq!(commit(&mut state, VALIDATOR, 128), Ok(()), "each has its own space");
        state.end_block(&rules, BlockNumber(20));
        assert_eq!(commit(&mut state, MINER, 1), Ok(()), "a new epoch, new space");
        assert_eq!(state.commitments()[&MINER], [7]);
    }

    #[test]
    fn a_call_is_included_once() {
        let rules = rules();
        let wallet = Wallet::from_seed(&[3; 32]);
        let mut state = state(&rules);
        register(&mut state, &rules, wallet.hotkey(), 0).unwrap();
        let sign = |nonce, valid_until, byte| {
            let call = Call::SetCommitment { data: vec![byte] };
            SignedExtrinsic::sign(&wallet, GENESIS, nonce, BlockNumber(valid_until), call)
        };
        let at = BlockNumber(8);
        let first = sign(0, 10, 1);
        assert_eq!(state.include(&rules, GENESIS, at, &first), Ok(at));
        let later = BlockNumber(9);
        assert_eq!(state.include(&rules, GENESIS, later, &first), Ok(at), "same answer again");
        let second = sign(1, 10, 2);
        assert_eq!(state.include(&rules, GENESIS, later, &second), Ok(later));
        let replayed = state.include(&rules, GENESIS, later, &first);
        assert_eq!(replayed, Err(Refusal::BadNonce { expected: 2 }));
        assert_eq!(state.commitments()[&wallet.hotkey()], [2]);
        for valid_until in [8, 9 + VALIDITY_BLOCKS + 1] {
            let refused = state.include(&rules, GENESIS, later, &sign(2, valid_until, 3));
            assert_eq!(refused, Err(Refusal::Outdated { next: later }));
        }
        let forged = SignedExtrinsic { signer: MINER, ..sign(0, 10, 3) };
        assert_eq!(state.include(&rules, GENESIS, later, &forged), Err(Refusal::BadSignature));
    }
}
