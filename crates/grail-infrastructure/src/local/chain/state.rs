//! The chain's rules as a pure state machine: calls in, new state, events or a named refusal out.
//!
//! Checks come in the order of the real chain. Source: spec/bittensor.md sections 5 to 8.

pub mod balances;
pub mod commitments;
pub mod epoch;
mod registration;
#[cfg(test)]
mod tests;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};

use grail_ports::chain::{Hyperparameters, Metagraph};
use grail_protocol::ids::{BlockNumber, Hotkey, Uid};
use serde::{Deserialize, Serialize};

use self::balances::Account;
use self::commitments::{Commitment, Revealed, Space};
use self::epoch::Schedule;
use self::weights::{Row, TimelockedCommit};
use super::call::{Call, Pulse};
use super::data::Data;
use super::event::{Event, Field};
use super::params::{Parameter, Params};
use super::refusal::Refusal;
pub use super::rules::ChainRules;
use super::weights as scores;

/// Most rounds of the beacon that are kept.
const PULSES_MAX: usize = 32;

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The network's owner, who holds the folder.
    Root,
    /// The holder of a key.
    Signed(Hotkey),
}

/// What the chain knows after some block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Hyperparameters.
    pub params: Params,
    /// Where the subnet stands between two epochs.
    pub schedule: Schedule,
    /// Price of a registration, rao.
    pub burn: u64,
    /// `RAORecycledForRegistration`: what all registrations cost, rao.
    #[serde(default)]
    pub recycled: u64,
    /// Neurons in the order of their uids.
    pub neurons: Vec<Neuron>,
    /// `CommitmentOf`.
    pub commitments: BTreeMap<Hotkey, Commitment>,
    /// `UsedSpaceOf` and `LastCommitment`.
    pub spaces: BTreeMap<Hotkey, Space>,
    /// `RevealedCommitments`, oldest first.
    pub revealed: BTreeMap<Hotkey, Vec<Revealed>>,
    /// `TimelockedWeightCommits` by epoch.
    pub commits: BTreeMap<u64, Vec<TimelockedCommit>>,
    /// `Drand.Pulses` by round.
    pub pulses: BTreeMap<u64, Pulse>,
    /// `System.Account`.
    pub accounts: BTreeMap<Hotkey, Account>,
    /// `Owner`: coldkeys by hotkey.
    pub owners: BTreeMap<Hotkey, Hotkey>,
    /// Events since they were last taken.
    #[serde(skip)]
    events: Vec<Event>,
}

/// A neuron of the subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neuron {
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// Its stake, rao.
    pub stake: u64,
    /// `BlockAtRegistration`.
    pub registered_at: BlockNumber,
    /// `LastUpdate`.
    pub last_update: BlockNumber,
    /// `ValidatorPermit`.
    pub permit: bool,
    /// `Incentive`, a fraction of 65535.
    pub incentive: u16,
    /// `Dividends`, a fraction of 65535.
    pub dividends: u16,
    /// `Weights`: uids and weights.
    pub weights: Vec<(u16, u16)>,
}

impl Neuron {
    fn new(hotkey: Hotkey, stake: u64, block: BlockNumber) -> Self {
        Self {
            hotkey,
            stake,
            registered_at: block,
            last_update: block,
            permit: false,
            incentive: 0,
            dividends: 0,
            weights: Vec::new(),
        }
    }
}

impl State {
    /// Returns the state in which a chain of `rules` starts, without neurons.
    pub fn new(rules: &ChainRules) -> Self {
        let account = |free: &u64| Account { free: *free, ..Account::default() };
        let params = Params::new(rules);
        Self {
            burn: params.min_burn,
            recycled: 0,
            params,
            schedule: Schedule::default(),
            neurons: Vec::new(),
            commitments: BTreeMap::new(),
            spaces: BTreeMap::new(),
            revealed: BTreeMap::new(),
            commits: BTreeMap::new(),
            pulses: BTreeMap::new(),
            accounts: rules.endowed.iter().map(|(who, free)| (*who, account(free))).collect(),
            owners: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Does what the chain does by itself at the beginning of `block`, before any call: time
    /// passes, timelocks open, and an epoch begins if it is due.
    pub fn begin_block(&mut self, rules: &ChainRules, block: BlockNumber) {
        // The first block has the price of block 0, as in the recorded session.
        if block.0 > 1 {
            self.decay_burn();
        }
        let is_epoch = self.schedule.step(self.params.tempo, block.0);
        self.reveal_weights(rules, block);
        self.reveal_commitments(rules, block);
        if is_epoch {
            self.run_epoch();
        }
    }

    /// Includes a call that came as a real extrinsic of `bytes` encoded bytes: the fee is paid and
    /// the nonce counted even if the call fails.
    ///
    /// The caller has checked signature and nonce, and [`State::pool_refusal`].
    pub fn apply_extrinsic(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        call: &Call,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let info = call.dispatch_info();
        let fee = info.fee(bytes);
        let account = self.account_mut(signer);
        account.nonce = account.nonce.saturating_add(1);
        account.free = account.free.saturating_sub(fee);
        if fee > 0 {
            self.emit(Event::new("Balances", "Withdraw", [signer.into(), fee.into()]));
        }
        let mut changed = self.clone();
        let outcome = changed.dispatch(rules, block, Origin::Signed(signer), call);
        if outcome.is_ok() {
            *self = changed;
        }
        let paid = [signer.into(), fee.into(), 0_u64.into()];
        self.emit(Event::new("TransactionPayment", "TransactionFeePaid", paid));
        self.emit(match &outcome {
            Ok(()) => Event::new("System", "ExtrinsicSuccess", [Field::Info(info)]),
            Err(refusal) => {
                let fields = [Field::Error(refusal.clone()), Field::Info(info)];
                Event::new("System", "ExtrinsicFailed", fields)
            }
        });
        outcome
    }

    /// Returns why the pool turns down a call of `signer` that has the right signature and nonce.
    pub fn pool_refusal(
        &self,
        block: BlockNumber,
        signer: Hotkey,
        call: &Call,
        bytes: usize,
    ) -> Option<PoolRefusal> {
        if !self.exists(signer) || self.balance(signer) < call.dispatch_info().fee(bytes) {
            return Some(PoolRefusal::Payment);
        }
        let (mechanism, round) = match call {
            Call::SetWeights { mechanism, .. } => (*mechanism, None),
            Call::CommitTimelockedWeights { mechanism, reveal_round, .. } => {
                (*mechanism, Some(*reveal_round))
            }
            _ => return None,
        };
        let neuron = self.uid(signer).map(|uid| &self.neurons[usize::from(uid.0)]);
        if neuron.map_or(0, |neuron| neuron.stake) < self.params.stake_threshold {
            return Some(PoolRefusal::StakeTooLow);
        }
        let too_fast =
            neuron.is_some_and(|neuron| self.check_rate(block, neuron.last_update).is_err());
        if too_fast || mechanism >= weights::MECHANISMS {
            return Some(PoolRefusal::RateLimitExceeded);
        }
        let newest = self.last_stored_round();
        round.filter(|round| *round < newest).map(|_| PoolRefusal::InvalidRevealRound)
    }

    /// Does what `call` says, or nothing.
    pub fn dispatch(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        origin: Origin,
        call: &Call,
    ) -> Result<(), Refusal> {
        if let Call::Register { hotkey, stake } = call {
            return self.register(rules, block, origin, *hotkey, *stake);
        }
        match origin {
            Origin::Root => self.dispatch_root(rules, block, call),
            Origin::Signed(signer) => self.dispatch_signed(rules, block, signer, call),
        }
    }

    fn dispatch_root(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        call: &Call,
    ) -> Result<(), Refusal> {
        match call {
            Call::Set { parameter } => self.set_parameter(rules, block, *parameter),
            Call::StorePulse { round, pulse } => self.store_pulse(*round, pulse.clone()),
            Call::Endow { account, free } => self.account_mut(*account).free = *free,
            Call::Remark { .. } => {}
            _ => return Err(Refusal::HotKeyNotRegisteredInSubNet),
        }
        Ok(())
    }

    fn dispatch_signed(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        call: &Call,
    ) -> Result<(), Refusal> {
        match call {
            Call::Sudo { inner } => {
                if rules.sudo != Some(signer) {
                    return Err(Refusal::RequireSudo);
                }
                let outcome = self.dispatch_root(rules, block, inner);
                self.emit(Event::new("Sudo", "Sudid", [Field::Outcome(outcome)]));
                Ok(())
            }
            Call::Remark { .. } => Ok(()),
            Call::BurnedRegister { netuid, hotkey, limit } => {
                self.burned_register(rules, block, signer, *netuid, (*hotkey, *limit))
            }
            Call::AddStake { hotkey, netuid, amount } => {
                self.add_stake(rules, signer, *hotkey, *netuid, *amount)
            }
            Call::SetCommitment { netuid, fields } => {
                self.commit(rules, block, signer, *netuid, fields)
            }
            Call::SetWeights { netuid, mechanism, uids, weights, version_key } => {
                let row = Row { uids, weights, version_key: *version_key };
                self.set_weights(rules, block, signer, *netuid, *mechanism, row)
            }
            Call::CommitTimelockedWeights { netuid, mechanism, commit, reveal_round, version } => {
                let terms = (*netuid, *mechanism, *version);
                self.commit_weights(rules, block, signer, terms, (commit, *reveal_round))
            }
            Call::Register { .. }
            | Call::Set { .. }
            | Call::StorePulse { .. }
            | Call::Endow { .. } => Err(Refusal::RequireSudo),
        }
    }

    fn set_parameter(&mut self, rules: &ChainRules, block: BlockNumber, parameter: Parameter) {
        let netuid = rules.netuid.0.into();
        let event = |name, value| Event::new("SubtensorModule", name, [netuid, value]);
        let params = &mut self.params;
        let event = match parameter {
            Parameter::Tempo(tempo) => {
                params.tempo = tempo;
                self.schedule.restart(block.0);
                event("TempoSet", tempo.into())
            }
            Parameter::WeightsRateLimit(blocks) => {
                params.weights_rate_limit = blocks;
                event("WeightsSetRateLimitSet", blocks.into())
            }
            Parameter::WeightsVersion(version) => {
                params.weights_version = version;
                event("WeightsVersionKeySet", version.into())
            }
            Parameter::MinAllowedWeights(least) => {
                params.min_allowed_weights = least;
                event("MinAllowedWeightSet", least.into())
            }
            Parameter::MaxWeightsLimit(share) => {
                params.max_weights_limit = share;
                event("MaxWeightLimitSet", share.into())
            }
            Parameter::CommitReveal(enabled) => {
                params.commit_reveal = enabled;
                event("CommitRevealEnabled", enabled.into())
            }
            Parameter::RevealPeriod(epochs) => {
                params.reveal_period = epochs;
                event("CommitRevealPeriodsSet", epochs.into())
            }
            Parameter::StakeThreshold(stake) => {
                params.stake_threshold = stake;
                Event::new("SubtensorModule", "StakeThresholdSet", [stake.into()])
            }
            Parameter::MaxValidators(validators) => {
                params.validators_max = validators;
                event("MaxAllowedValidatorsSet", validators.into())
            }
            Parameter::ImmunityPeriod(blocks) => {
                params.immunity_period = blocks;
                event("ImmunityPeriodSet", blocks.into())
            }
            Parameter::RegistrationAllowed(allowed) => {
                params.registration_allowed = allowed;
                event("RegistrationAllowed", allowed.into())
            }
            Parameter::SubtokenEnabled(enabled) => {
                params.subtoken_enabled = enabled;
                return;
            }
            Parameter::EpochAt(block) => {
                self.schedule.pending_epoch_at = block;
                return;
            }
        };
        self.emit(event);
    }

    pub(super) fn store_pulse(&mut self, round: u64, pulse: Pulse) {
        self.pulses.insert(round, pulse);
        if self.pulses.len() > PULSES_MAX {
            // What a commit waits for stays: its epoch may come long after its round.
            let awaited = self.rounds_awaited();
            let spare: Vec<u64> =
                self.pulses.keys().copied().filter(|round| !awaited.contains(round)).collect();
            let excess = self.pulses.len() - PULSES_MAX;
            for round in spare.into_iter().take(excess) {
                self.pulses.remove(&round);
            }
        }
    }

    /// Returns `Drand.LastStoredRound`, 0 before the first.
    pub fn last_stored_round(&self) -> u64 {
        self.pulses.last_key_value().map_or(0, |(round, _)| *round)
    }

    /// Returns the rounds that commits and commitments wait for and that are not stored.
    pub fn rounds_waited_for(&self) -> Vec<u64> {
        let awaited = self.rounds_awaited().into_iter();
        awaited.filter(|round| !self.pulses.contains_key(round)).collect()
    }

    /// Returns the rounds that commits and commitments wait for.
    fn rounds_awaited(&self) -> BTreeSet<u64> {
        let of_weights = self.commits.values().flatten().map(|commit| commit.round);
        let fields = self.commitments.values().flat_map(|commitment| &commitment.fields);
        let of_commitments = fields.filter_map(|field| match field {
            Data::Timelocked { round, .. } => Some(*round),
            _ => None,
        });
        of_weights.chain(of_commitments).collect()
    }

    /// Ends an epoch: permits follow from stake, scores from the weights of those who had permits.
    fn run_epoch(&mut self) {
        let rows: Vec<scores::Row<'_>> = (0..)
            .zip(&self.neurons)
            .filter(|(_, neuron)| neuron.permit)
            .map(|(uid, neuron)| scores::Row { uid, stake: neuron.stake, weights: &neuron.weights })
            .collect();
        let incentives = scores::incentives(&rows, self.neurons.len());
        let dividends = scores::dividends(&rows, self.neurons.len());
        let scored = self.neurons.iter_mut().zip(incentives.into_iter().zip(dividends));
        for (neuron, (incentive, dividends)) in scored {
            neuron.incentive = incentive;
            neuron.dividends = dividends;
        }
        self.refresh_permits();
    }

    /// Returns the first 128 bytes or fewer that registered hotkeys have committed, where their
    /// first field is bytes.
    pub fn commitments(&self) -> BTreeMap<Hotkey, Vec<u8>> {
        let bytes = |commitment: &Commitment| match commitment.fields.first() {
            Some(Data::Raw { bytes }) => Some(bytes.clone()),
            _ => None,
        };
        self.commitments
            .iter()
            .filter_map(|(hotkey, commitment)| Some((*hotkey, bytes(commitment)?)))
            .collect()
    }

    /// Returns the rules that bind validators.
    pub fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters {
            weights_rate_limit: self.params.weights_rate_limit,
            weights_version: self.params.weights_version,
            tempo: u64::from(self.params.tempo),
            ..Hyperparameters::default()
        }
    }

    /// Returns the metagraph as of `block`.
    pub fn metagraph(&self, rules: &ChainRules, block: BlockNumber) -> Metagraph {
        let neurons = (0..)
            .zip(&self.neurons)
            .map(|(uid, neuron)| grail_ports::chain::Neuron {
                uid: Uid(uid),
                hotkey: neuron.hotkey,
                stake: neuron.stake,
                validator_permit: neuron.permit,
                incentive: f64::from(neuron.incentive) / f64::from(u16::MAX),
                last_update: neuron.last_update,
            })
            .collect();
        Metagraph { netuid: rules.netuid, block, neurons }
    }

    /// Returns the events since they were last taken.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn emit(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// Why the pool turns down an extrinsic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolRefusal {
    /// The signer cannot pay the fee, or the chain does not know it.
    Payment,
    /// Too little stake for weights.
    StakeTooLow,
    /// Weights or commits too soon after the last.
    RateLimitExceeded,
    /// A commit to a round that is out.
    InvalidRevealRound,
    /// The signature is not that of the signer over this call on this chain at this version.
    BadProof,
    /// The nonce was used.
    Stale,
    /// The era began before the blocks that the chain remembers.
    AncientBirthBlock,
    /// The pool has it already.
    AlreadyImported,
    /// The pool or the block is full.
    Full,
}
