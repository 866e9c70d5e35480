//! What becomes of weights on a fake chain: they count at once, are opened with an epoch, or are lost.

use grail_ports::chain::{WeightSubmission, WeightsStatus};
use grail_protocol::ids::{BlockNumber, Hotkey, Uid};

use super::{FakeChain, Slot, State};
use crate::lock;

/// Weights that the chain accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedWeights {
    /// Who set them.
    pub hotkey: Hotkey,
    /// Its uid.
    pub uid: Uid,
    /// Block that includes them.
    pub block: BlockNumber,
    /// What was sent.
    pub submission: WeightSubmission,
    /// First block of the epoch that opens them, if they are sealed.
    pub opens: Option<BlockNumber>,
    /// What becomes of the seal.
    pub reveal: FakeReveal,
    /// Why a re-organisation took them, if one did.
    pub lost: Option<String>,
}

/// What a fake chain does with sealed weights when their epoch comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FakeReveal {
    /// It opens them.
    #[default]
    Open,
    /// It drops them, and tells so when the epoch is over.
    Drop,
    /// Neither: its epochs stand still.
    Never,
}

impl RecordedWeights {
    /// Returns whether the chain counts them at `head`.
    fn counts(&self, head: u64) -> bool {
        let is_open = self.opens.is_none_or(|opens| head >= opens.0);
        let is_opened = self.opens.is_none() || self.reveal == FakeReveal::Open;
        self.lost.is_none() && is_open && is_opened
    }

    /// Returns what the port tells of them at `head`.
    fn status(&self, head: u64, tempo: u64) -> WeightsStatus {
        if let Some(reason) = self.lost.clone() {
            return WeightsStatus::Lost { reason };
        }
        let Some(opens) = self.opens else { return WeightsStatus::Landed };
        match self.reveal {
            FakeReveal::Open if head >= opens.0 => WeightsStatus::Landed,
            FakeReveal::Drop if head >= opens.0 + tempo => WeightsStatus::Lost {
                reason: "the epoch that should have opened them is over".to_owned(),
            },
            _ => WeightsStatus::Sealed { opens },
        }
    }
}

impl State {
    /// Returns the newest accepted weights of a neuron that no re-organisation took.
    pub(super) fn last_weights(&self, slot: &Slot) -> Option<&RecordedWeights> {
        self.submissions.iter().rev().find(|it| it.hotkey == slot.hotkey && it.lost.is_none())
    }

    /// Returns the weights of a neuron that count.
    pub(super) fn counted_weights(&self, slot: &Slot) -> Option<&RecordedWeights> {
        let mut newest_first = self.submissions.iter().rev();
        newest_first.find(|it| it.hotkey == slot.hotkey && it.counts(self.head))
    }

    /// Includes weights in the head.
    pub(super) fn include(&mut self, hotkey: Hotkey, uid: Uid, submission: WeightSubmission) {
        let rules = &self.hyperparameters;
        let tempo = rules.tempo.max(1);
        let opens =
            rules.reveal_epochs.map(|epochs| BlockNumber((self.head / tempo + epochs) * tempo));
        let (block, reveal) = (BlockNumber(self.head), self.reveal);
        let lost = None;
        self.submissions.push(RecordedWeights {
            hotkey,
            uid,
            block,
            submission,
            opens,
            reveal,
            lost,
        });
    }

    /// Returns what the port tells of the weights of `hotkey` in `block`.
    pub(super) fn status_of(&self, hotkey: Hotkey, block: BlockNumber) -> WeightsStatus {
        let found =
            self.submissions.iter().rev().find(|it| it.hotkey == hotkey && it.block == block);
        match (found, self.uid_of(hotkey)) {
            (Some(found), Some(uid)) if found.uid == uid => {
                found.status(self.head, self.hyperparameters.tempo)
            }
            (_, None) => WeightsStatus::Lost { reason: "the hotkey is not registered".to_owned() },
            _ => WeightsStatus::Lost { reason: "the chain does not know of them".to_owned() },
        }
    }
}

impl FakeChain {
    /// Takes the newest accepted weights away, as a re-organisation does.
    ///
    /// # Panics
    /// When there are none.
    pub fn lose_last_weights(&self, reason: &str) {
        let mut state = lock(&self.state);
        let newest = state.submissions.last_mut().expect("weights were accepted");
        newest.lost = Some(reason.to_owned());
    }

    /// Decides what becomes of sealed weights, those that wait included.
    pub fn set_reveal(&self, reveal: FakeReveal) {
        let mut state = lock(&self.state);
        state.reveal = reveal;
        let head = state.head;
        for waiting in &mut state.submissions {
            if waiting.opens.is_some_and(|opens| opens.0 > head) {
                waiting.reveal = reveal;
            }
        }
    }

    /// Carries out the next `set_weights` that breaks no rule, and loses the answer.
    pub fn lose_next_answer(&self) {
        lock(&self.state).loses_answer = true;
    }
}
