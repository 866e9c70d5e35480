//! The chain's rules as a pure state machine: calls in, new state or a named refusal out.
//!
//! Checks come in the order of the real chain. Source: spec/bittensor.md sections 5 to 7.

#[cfg(test)]
mod tests;

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
