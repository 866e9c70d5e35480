//! Rows of weights: set plainly, or committed first and revealed by a round of the beacon.
//!
//! Checks come in the order of the real chain. Source: spec/bittensor.md section 6.

use std::collections::BTreeSet;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use grail_protocol::ids::{BlockNumber, Hotkey};
use grail_protocol::timelock::drand::open_commit;
use parity_scale_codec::Decode;
use serde::{Deserialize, Serialize};

use super::State;
use crate::local::chain::event::{Event, Field};
use crate::local::chain::refusal::Refusal;
use crate::local::chain::rules::ChainRules;
use crate::local::chain::weights::upscale;

/// `CommitRevealWeightsVersion`.
pub const COMMIT_REVEAL_VERSION: u16 = 4;

/// Most bytes of a commit. Source: the chain's `MAX_CRV3_COMMIT_SIZE_BYTES`.
pub const COMMIT_BYTES_MAX: usize = 5000;

/// Most commits of one hotkey and epoch that wait to be revealed. Source: the chain.
const UNREVEALED_MAX: usize = 10;

/// Mechanisms of the subnet.
pub const MECHANISMS: u8 = 1;

/// A row of weights as it was asked for.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) uids: &'a [u16],
    pub(super) weights: &'a [u16],
    pub(super) version_key: u64,
}

/// A commit that waits for its round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelockedCommit {
    /// Who committed.
    pub who: Hotkey,
    /// The block that included it.
    pub block: u64,
    /// The ciphertext.
    #[serde(with = "hex::serde")]
    pub commit: Vec<u8>,
    /// The round that opens it.
    pub round: u64,
}

impl State {
    /// Sets weights that were not committed before.
    pub(super) fn set_weights(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        netuid: u16,
        mechanism: u8,
        row: Row<'_>,
    ) -> Result<(), Refusal> {
        // A netuid that has no subnet has commit-reveal on: that is the default of its storage.
        if netuid != rules.netuid.0 || self.params.commit_reveal {
            return Err(Refusal::CommitRevealEnabled);
        }
        self.set_row(rules, block, signer, mechanism, row, true)?;
        let uid = self.uid(signer).ok_or(Refusal::HotKeyNotRegisteredInSubNet)?;
        self.neurons[usize::from(uid.0)].last_update = block;
        Ok(())
    }

    /// Checks a row as the chain does and keeps it.
    fn set_row(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        mechanism: u8,
        row: Row<'_>,
        limits_rate: bool,
    ) -> Result<(), Refusal> {
        let Row { uids, weights, version_key } = row;
        if uids.len() != weights.len() {
            return Err(Refusal::WeightVecNotEqualSize);
        }
        if mechanism >= MECHANISMS {
            return Err(Refusal::MechanismDoesNotExist);
        }
        if uids.len() > self.neurons.len() {
            return Err(Refusal::UidsLengthExceedUidsInSubNet);
        }
        let own = self.uid(signer).ok_or(Refusal::HotKeyNotRegisteredInSubNet)?;
        let neuron = &self.neurons[usize::from(own.0)];
        let threshold = self.params.stake_threshold;
        if neuron.stake < threshold {
            return Err(Refusal::NotEnoughStakeToSetWeights { threshold });
        }
        let expected = self.params.weights_version;
        if expected != 0 && version_key < expected {
            return Err(Refusal::IncorrectWeightVersionKey { expected });
        }
        if limits_rate {
            self.check_rate(block, neuron.last_update)
                .map_err(|next| Refusal::SettingWeightsTooFast { next })?;
        }
        // Anybody may put all weight on itself: it moves nothing.
        let on_itself = uids == [own.0];
        if !on_itself && !neuron.permit {
            return Err(Refusal::NeuronNoValidatorPermit);
        }
        if uids.iter().collect::<BTreeSet<_>>().len() != uids.len() {
            return Err(Refusal::DuplicateUids);
        }
        if let Some(uid) = uids.iter().find(|uid| usize::from(**uid) >= self.neurons.len()) {
            return Err(Refusal::UidVecContainInvalidOne { uid: *uid });
        }
        let least = usize::from(self.params.min_allowed_weights).min(self.neurons.len());
        if !on_itself && uids.len() < least {
            return Err(Refusal::WeightVecLengthIsLow);
        }
        if !on_itself && !is_within_share(weights, self.params.max_weights_limit) {
            return Err(Refusal::MaxWeightExceeded);
        }
        self.neurons[usize::from(own.0)].weights =
            uids.iter().copied().zip(upscale(weights)).collect();
        let fields = [rules.netuid.0.into(), own.0.into()];
        self.emit(Event::new("SubtensorModule", "WeightsSet", fields));
        Ok(())
    }

    /// Keeps a commit until its round is out.
    pub(super) fn commit_weights(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        (netuid, mechanism, version): (u16, u8, u16),
        (commit, round): (&[u8], u64),
    ) -> Result<(), Refusal> {
        if netuid == rules.netuid.0 && mechanism >= MECHANISMS {
            return Err(Refusal::MechanismDoesNotExist);
        }
        if netuid == rules.netuid.0 && !self.params.commit_reveal {
            return Err(Refusal::CommitRevealDisabled);
        }
        if version != COMMIT_REVEAL_VERSION {
            return Err(Refusal::IncorrectCommitRevealVersion);
        }
        let uid = self.uid(signer).filter(|_| netuid == rules.netuid.0);
        let uid = uid.ok_or(Refusal::HotKeyNotRegisteredInSubNet)?;
        self.check_rate(block, self.neurons[usize::from(uid.0)].last_update)
            .map_err(|next| Refusal::CommittingWeightsTooFast { next })?;
        let waiting = self.commits.entry(self.schedule.index).or_default();
        if waiting.iter().filter(|other| other.who == signer).count() >= UNREVEALED_MAX {
            return Err(Refusal::TooManyUnrevealedCommits);
        }
        waiting.push(TimelockedCommit {
            who: signer,
            block: block.0,
            commit: commit.to_vec(),
            round,
        });
        self.neurons[usize::from(uid.0)].last_update = block;
        let hash = Blake2b::<U32>::digest(commit).to_vec();
        let fields = [signer.into(), netuid.into(), Field::Bytes(hash), round.into()];
        self.emit(Event::new("SubtensorModule", "TimelockedWeightsCommitted", fields));
        Ok(())
    }

    /// Reveals the commits of the epoch whose turn it is, and drops those of earlier epochs.
    ///
    /// A commit whose round is not stored waits for the next block of the same epoch.
    pub(super) fn reveal_weights(&mut self, rules: &ChainRules, block: BlockNumber) {
        let Some(epoch) = self.schedule.index.checked_sub(self.params.reveal_period) else {
            return;
        };
        self.commits.retain(|committed, _| *committed >= epoch);
        let Some(commits) = self.commits.remove(&epoch) else { return };
        let (due, waiting): (Vec<_>, Vec<_>) =
            commits.into_iter().partition(|commit| self.pulses.contains_key(&commit.round));
        if !waiting.is_empty() {
            self.commits.insert(epoch, waiting);
        }
        for commit in due {
            if self.reveal_row(rules, block, &commit).is_some() {
                let fields = [rules.netuid.0.into(), commit.who.into()];
                self.emit(Event::new("SubtensorModule", "TimelockedWeightsRevealed", fields));
            }
        }
    }

    fn reveal_row(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        commit: &TimelockedCommit,
    ) -> Option<()> {
        let opener = self.opener(rules, commit.round)?;
        let payload = open_commit(&commit.commit, &opener).ok()?;
        let (hotkey, uids, weights, version_key) =
            <(Vec<u8>, Vec<u16>, Vec<u16>, u64)>::decode(&mut payload.as_slice()).ok()?;
        if hotkey != commit.who.0 {
            return None;
        }
        let row = Row { uids: &uids, weights: &weights, version_key };
        self.set_row(rules, block, commit.who, 0, row, false).ok()
    }

    /// Returns the first block that may include the next weights, if that is not `block` or before.
    pub(super) fn check_rate(
        &self,
        block: BlockNumber,
        last_update: BlockNumber,
    ) -> Result<(), BlockNumber> {
        // Block 0 means never, as on the real chain; a later registration counts as an update.
        let next = BlockNumber(last_update.0.saturating_add(self.params.weights_rate_limit));
        if last_update.0 != 0 && block < next { Err(next) } else { Ok(()) }
    }
}

/// Returns whether no weight has more than `limit` of 65535 of the sum.
fn is_within_share(weights: &[u16], limit: u16) -> bool {
    if limit == u16::MAX {
        return true;
    }
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    let largest = weights.iter().copied().max().map_or(0, u64::from);
    largest * u64::from(u16::MAX) <= u64::from(limit) * sum
}
