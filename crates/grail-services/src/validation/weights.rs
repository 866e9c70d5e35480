//! Decides when weights are set, and sets them.
//!
//! Source: `spec/scoring.md`, when weights are submitted; unlike the reference, a refused call is
//! not taken for success: it is tried again in the same interval.

use grail_ports::chain::{ChainError, WeightSubmission};
use grail_ports::events::Event;
use grail_protocol::ids::{BlockNumber, Hotkey, Uid};
use tracing::info;

use super::ValidationError;
use super::history::History;
use super::scoring::ScoringRules;
use crate::context::RunContext;

/// When weights are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSchedule {
    /// Blocks in an interval, at least 1; weights are set once in each.
    pub interval_blocks: u64,
    /// Windows that a fresh validator processes before it sets any.
    pub warmup_windows: u64,
}

impl Default for WeightSchedule {
    fn default() -> Self {
        Self { interval_blocks: 360, warmup_windows: 12 }
    }
}

/// What a schedule says at a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing to do.
    NotYet,
    /// The interval passes without weights: the validator has not seen enough.
    LeaveOut(u64),
    /// Weights are due for this interval.
    Submit(u64),
}

impl WeightSchedule {
    /// Returns what is due at `block` after `processed` windows, `last` being the newest interval
    /// that is done.
    pub fn due(&self, block: BlockNumber, processed: u64, last: Option<u64>) -> Due {
        let interval = block.0 / self.interval_blocks.max(1);
        if last.is_some_and(|last| interval <= last) {
            return Due::NotYet;
        }
        if processed < self.warmup_windows {
            Due::LeaveOut(interval)
        } else {
            Due::Submit(interval)
        }
    }
}

/// Sets weights for one validator.
pub struct WeightSetter {
    schedule: WeightSchedule,
    rules: ScoringRules,
    version_key: u64,
    /// Head at the first attempt whose answer was lost or bad.
    attempted_at: Option<BlockNumber>,
}

impl WeightSetter {
    /// Makes a setter; no I/O.
    pub fn new(schedule: WeightSchedule, rules: ScoringRules, version_key: u64) -> Self {
        Self { schedule, rules, version_key, attempted_at: None }
    }

    /// Sets weights if they are due at `block`; a refusal is an event and no error.
    pub async fn run(
        &mut self,
        ctx: &RunContext,
        history: &mut History,
        block: BlockNumber,
    ) -> Result<(), ValidationError> {
        let last = history.weights_interval();
        let interval = match self.schedule.due(block, history.processed(), last) {
            Due::NotYet => return Ok(()),
            Due::LeaveOut(interval) => return Ok(history.close_interval(interval)?),
            Due::Submit(interval) => interval,
        };
        match self.submit(ctx, history, block).await {
            Ok(()) => {
                self.attempted_at = None;
                Ok(history.close_interval(interval)?)
            }
            Err(error) => {
                self.attempted_at.get_or_insert(block);
                ctx.emit(Event::WeightsFailed { reason: error.to_string() });
                Ok(())
            }
        }
    }

    async fn submit(
        &self,
        ctx: &RunContext,
        history: &History,
        block: BlockNumber,
    ) -> Result<(), ChainError> {
        let metagraph = ctx.chain.metagraph().await?;
        let uids: Vec<(Uid, Hotkey)> =
            metagraph.neurons.iter().map(|neuron| (neuron.uid, neuron.hotkey)).collect();
        let Some(weights) = history.weights(&self.rules, &uids) else {
            return Ok(());
        };
        let updated = metagraph.neuron(ctx.hotkey()).map(|neuron| neuron.last_update);
        let included = match (self.attempted_at, updated) {
            // The answer to an earlier attempt was lost, but the chain has the weights.
            (Some(attempt), Some(updated)) if updated >= attempt => updated,
            _ => {
                let version_key = self.version_key;
                let submission = WeightSubmission { weights: weights.clone(), version_key };
                ctx.chain.set_weights(&submission).await?
            }
        };
        info!(block = %included, at = %block, "weights are set");
        ctx.emit(Event::WeightsSet { block: included, weights });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_due_once_an_interval_after_the_warm_up() {
        let schedule = WeightSchedule::default();
        let due = |block, processed, last| schedule.due(BlockNumber(block), processed, last);
        assert_eq!(due(719, 12, None), Due::Submit(1));
        assert_eq!(due(719, 11, None), Due::LeaveOut(1));
        assert_eq!(due(719, 12, Some(1)), Due::NotYet);
        assert_eq!(due(720, 12, Some(1)), Due::Submit(2));
        assert_eq!(due(0, 0, Some(5)), Due::NotYet);
        let eager = WeightSchedule { interval_blocks: 0, warmup_windows: 0 };
        assert_eq!(eager.due(BlockNumber(3), 0, None), Due::Submit(3));
    }
}
