//! What hotkeys commit, how much of it, and what rounds of the beacon reveal of it.

use grail_protocol::ids::{BlockNumber, Hotkey};
use grail_protocol::timelock::RoundOpener;
use grail_protocol::timelock::drand::open_commit;
use serde::{Deserialize, Serialize};

use super::State;
use crate::local::chain::data::{Data, FIELDS_MAX};
use crate::local::chain::event::Event;
use crate::local::chain::refusal::Refusal;
use crate::local::chain::rules::ChainRules;

/// Bytes that a hotkey may commit in one epoch. Source: `Commitments.MaxSpace`.
pub const SPACE_PER_EPOCH: u64 = 3100;

/// Least space that a commitment takes. Source: spec/bittensor.md section 5.
const SPACE_MIN: u64 = 100;

/// Most revealed commitments that are kept of one hotkey. Source: the chain.
const REVEALED_MAX: usize = 10;

/// What a hotkey has committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// The block that included it.
    pub block: u64,
    /// Its fields.
    pub fields: Vec<Data>,
}

/// How much a hotkey has committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The epoch that `used` counts.
    pub epoch: u64,
    /// Bytes committed in it.
    pub used: u64,
    /// The block of the newest commitment.
    pub last_block: u64,
}

/// What a round has opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revealed {
    /// The content.
    #[serde(with = "hex::serde")]
    pub content: Vec<u8>,
    /// The block that revealed it.
    pub block: u64,
}

impl State {
    pub(super) fn commit(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        signer: Hotkey,
        netuid: u16,
        fields: &[Data],
    ) -> Result<(), Refusal> {
        if netuid != rules.netuid.0 || self.uid(signer).is_none() {
            return Err(Refusal::AccountNotAllowedCommit);
        }
        if fields.len() > FIELDS_MAX {
            return Err(Refusal::TooManyFieldsInCommitmentInfo);
        }
        if fields.iter().any(|field| matches!(field, Data::RevealFailed { .. })) {
            return Err(Refusal::TimelockRevealFailedNotAllowed);
        }
        if let Some(field) = fields.iter().find(|field| !field.is_bounded()) {
            return Err(Refusal::CommitmentLengthInvalid { bytes: field.payload_bytes() });
        }
        let epoch = self.schedule.index;
        let payload: u64 = fields.iter().map(Data::payload_bytes).sum();
        let before = self.spaces.get(&signer).filter(|space| space.epoch == epoch);
        let used = before.map_or(0, |space| space.used).saturating_add(payload.max(SPACE_MIN));
        if used > SPACE_PER_EPOCH {
            return Err(Refusal::SpaceLimitExceeded);
        }
        self.spaces.insert(signer, Space { epoch, used, last_block: block.0 });
        let fields = fields.to_vec();
        let round = fields.iter().find_map(|field| match field {
            Data::Timelocked { round, .. } => Some(*round),
            _ => None,
        });
        self.commitments.insert(signer, Commitment { block: block.0, fields });
        let netuid = netuid.into();
        self.emit(match round {
            None => Event::new("Commitments", "Commitment", [netuid, signer.into()]),
            Some(round) => Event::new(
                "Commitments",
                "TimelockCommitment",
                [netuid, signer.into(), round.into()],
            ),
        });
        Ok(())
    }

    /// Opens the timelocked fields whose round the chain has stored.
    pub(super) fn reveal_commitments(&mut self, rules: &ChainRules, block: BlockNumber) {
        let due: Vec<Hotkey> = self
            .commitments
            .iter()
            .filter(|(_, commitment)| commitment.fields.iter().any(|field| self.opens(field)))
            .map(|(hotkey, _)| *hotkey)
            .collect();
        for hotkey in due {
            if let Some(commitment) = self.commitments.remove(&hotkey) {
                self.reveal(rules, block, hotkey, commitment);
            }
        }
    }

    fn reveal(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        hotkey: Hotkey,
        commitment: Commitment,
    ) {
        let mut kept = Vec::new();
        let mut opened = false;
        for field in commitment.fields {
            match field {
                Data::Timelocked { encrypted, round } if self.pulses.contains_key(&round) => {
                    match self.opener(rules, round).map(|opener| open_commit(&encrypted, &opener)) {
                        Some(Ok(content)) => {
                            let revealed = self.revealed.entry(hotkey).or_default();
                            revealed.push(Revealed { content, block: block.0 });
                            let excess = revealed.len().saturating_sub(REVEALED_MAX);
                            revealed.drain(..excess);
                            opened = true;
                        }
                        _ => kept.push(Data::RevealFailed { encrypted, round }),
                    }
                }
                field => kept.push(field),
            }
        }
        if opened {
            let fields = [rules.netuid.0.into(), hotkey.into()];
            self.emit(Event::new("Commitments", "CommitmentRevealed", fields));
        }
        if !kept.is_empty() {
            self.commitments.insert(hotkey, Commitment { block: commitment.block, fields: kept });
        }
    }

    fn opens(&self, field: &Data) -> bool {
        matches!(field, Data::Timelocked { round, .. } if self.pulses.contains_key(round))
    }

    /// Returns what opens ciphertexts of `round`, if the stored signature is the beacon's.
    pub(super) fn opener(&self, rules: &ChainRules, round: u64) -> Option<RoundOpener> {
        let signature = self.pulses.get(&round)?.signature.as_slice().try_into().ok()?;
        let signature = grail_protocol::timelock::RoundSignature(signature);
        RoundOpener::new(rules.beacon_key(), round, signature).ok()
    }
}
