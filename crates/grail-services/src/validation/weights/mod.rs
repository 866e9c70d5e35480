//! Sets weights once an interval, and sees to it that the chain counts them.
//!
//! An accepted call is no success: a re-organisation may take the weights away, and sealed ones may
//! never be opened, of which the chain tells nobody. So they are looked for until they have landed;
//! what did not land is an alarm, and is set again. Source: `spec/scoring.md`, when weights are
//! submitted, and `spec/bittensor.md`, section 6.

mod landing;
mod memory;
mod schedule;
#[cfg(test)]
mod tests;
mod trouble;

use grail_ports::chain::{ChainError, Hyperparameters, Neuron, WeightSubmission};
use grail_ports::events::Event;
use grail_protocol::ids::{BlockNumber, Hotkey, Uid};
use tracing::{debug, error, info, warn};

pub use self::schedule::{Due, RETRY_BLOCKS_MAX, WeightSchedule};

use self::landing::{News, look_for_inclusion, look_for_landing};
use self::memory::{Flight, Kept, Memory};
use self::trouble::Trouble;
use super::history::History;
use super::scoring::ScoringRules;
use crate::context::RunContext;
use crate::state::StateError;

/// Sets weights for one validator, one submission at a time.
pub struct WeightSetter {
    schedule: WeightSchedule,
    rules: ScoringRules,
    version_key: u64,
    kept: Option<Kept>,
}

/// Whether an attempt makes sense now.
enum Ready {
    /// The chain would refuse it until its rate limit is over.
    Later(BlockNumber),
    /// There is nothing to set: no window was processed.
    Nothing,
    /// These weights are to be set; then our last update.
    Now(WeightSubmission, BlockNumber),
}

impl WeightSetter {
    /// Makes a setter; no I/O.
    pub fn new(schedule: WeightSchedule, rules: ScoringRules, version_key: u64) -> Self {
        Self { schedule, rules, version_key, kept: None }
    }

    /// Returns why the newest weights are not on the chain, for a person; `None` if they are.
    pub fn alarm(&self) -> Option<&str> {
        self.kept.as_ref()?.get().alarm.as_deref()
    }

    /// Looks for the weights on their way at `head`, and sets new ones if they are due. What goes
    /// wrong is an event and no error. Weights wait for the newest window, which `is_judged` or not,
    /// for half an interval.
    ///
    /// # Errors
    /// When this validator's own memory cannot be read or written.
    pub async fn run(
        &mut self,
        ctx: &RunContext,
        history: &mut History,
        head: BlockNumber,
        is_judged: bool,
    ) -> Result<(), StateError> {
        if self.kept.is_none() {
            self.kept = Some(Kept::open(history.folder())?);
        }
        self.follow(ctx, history, head).await?;
        if self.memory().flight.is_some() {
            return Ok(());
        }
        let last = history.weights_interval();
        let interval = match self.schedule.due(head, history.processed(), last) {
            Due::NotYet => return Ok(()),
            Due::LeaveOut(interval) => return history.close_interval(interval),
            Due::Submit(interval) => interval,
        };
        if self.memory().must_pause(interval, head) || !(is_judged || self.schedule.is_urgent(head))
        {
            return Ok(());
        }
        match self.ready(ctx, history, head).await {
            Ok(Ready::Later(next)) => {
                debug!(%next, "weights wait for the subnet's rate limit");
                Ok(())
            }
            Ok(Ready::Nothing) => history.close_interval(interval),
            Ok(Ready::Now(submission, updated)) => {
                self.submit(ctx, head, interval, &submission, updated).await?;
                self.follow(ctx, history, head).await
            }
            Err(trouble) => self.fail(ctx, head, &trouble, None),
        }
    }

    /// Takes what there is to know of the weights on their way, until nothing is new.
    async fn follow(
        &mut self,
        ctx: &RunContext,
        history: &mut History,
        head: BlockNumber,
    ) -> Result<(), StateError> {
        while let Some(flight) = self.memory().flight.clone() {
            let news = match flight.included {
                None => look_for_inclusion(ctx, &flight, head).await,
                Some(block) => look_for_landing(ctx, &flight, block, head).await,
            };
            match news {
                News::None => return Ok(()),
                News::Included(block) => self.included(ctx, flight, block)?,
                News::Missed => {
                    info!(at = %head, "weights that were handed in are in no block");
                    self.change(|memory| memory.flight = None)?;
                }
                News::SeenAt(landed_at) => {
                    self.change(|memory| memory.flight = Some(Flight { landed_at, ..flight }))?;
                }
                News::Landed(block) => {
                    info!(%block, at = %head, "weights have landed");
                    ctx.emit(Event::WeightsLanded { block });
                    history.close_interval(flight.interval)?;
                    self.change(|memory| *memory = Memory::default())?;
                }
                News::Lost(trouble) => {
                    return self.fail(ctx, head, &trouble, None);
                }
            }
        }
        Ok(())
    }

    fn included(
        &mut self,
        ctx: &RunContext,
        flight: Flight,
        block: BlockNumber,
    ) -> Result<(), StateError> {
        // Told before it is written: a crash in between tells it twice, never not at all.
        ctx.emit(Event::WeightsSet { block, weights: flight.weights() });
        let included = Flight { included: Some(block), ..flight };
        self.change(|memory| memory.flight = Some(included))
    }

    /// Says whether weights can be set now, and which.
    async fn ready(
        &self,
        ctx: &RunContext,
        history: &History,
        head: BlockNumber,
    ) -> Result<Ready, Trouble> {
        let (hotkey, netuid) = (ctx.hotkey(), ctx.chain.netuid());
        let metagraph = ctx.chain.metagraph().await?;
        let rules = ctx.chain.hyperparameters().await?;
        let ours = metagraph.neuron(hotkey).ok_or(Trouble::NotRegistered { hotkey, netuid })?;
        if self.version_key < rules.weights_version {
            let (demanded, ours) = (rules.weights_version, self.version_key);
            return Err(Trouble::OldVersion { demanded, ours });
        }
        let uids: Vec<(Uid, Hotkey)> =
            metagraph.neurons.iter().map(|neuron| (neuron.uid, neuron.hotkey)).collect();
        let Some(weights) = history.weights(&self.rules, &uids) else {
            return Ok(Ready::Nothing);
        };
        let next = first_block_allowed(ours, &rules);
        if head.max(metagraph.block) < next {
            return Ok(Ready::Later(next));
        }
        // Sealed weights of somebody without a permit are taken, and dropped when they are opened.
        let names_itself_alone =
            weights.iter().all(|(uid, weight)| *uid == ours.uid || *weight <= 0.0);
        if !ours.validator_permit && !names_itself_alone {
            return Err(Trouble::NoPermit { hotkey, uid: ours.uid, netuid });
        }
        let submission = WeightSubmission { weights, version_key: self.version_key };
        Ok(Ready::Now(submission, ours.last_update))
    }

    /// Hands weights in.
    async fn submit(
        &mut self,
        ctx: &RunContext,
        head: BlockNumber,
        interval: u64,
        submission: &WeightSubmission,
        updated_before: BlockNumber,
    ) -> Result<(), StateError> {
        let given_up_at = BlockNumber(head.0.saturating_add(self.schedule.uncertain_blocks));
        let flight = Flight::new(interval, submission, updated_before, given_up_at);
        self.change(|memory| memory.flight = Some(flight.clone()))?;
        match ctx.chain.set_weights(submission).await {
            Ok(block) => {
                info!(%block, at = %head, "the chain took weights");
                self.included(ctx, flight, block)
            }
            Err(error) => {
                // Without an answer the weights may be in: they are looked for before others are
                // set. The port answers no sooner than when the transaction cannot come any more.
                let is_refused = matches!(error, ChainError::Refused { .. });
                self.fail(ctx, head, &error.into(), (!is_refused).then_some(flight))
            }
        }
    }

    /// Raises the alarm; the next attempt comes after a pause. Until then `flight`, if any, is looked
    /// for.
    fn fail(
        &mut self,
        ctx: &RunContext,
        head: BlockNumber,
        trouble: &Trouble,
        flight: Option<Flight>,
    ) -> Result<(), StateError> {
        let failures = self.memory().one_more_failure(self.schedule.interval(head), head);
        let (attempt, again_at) = (failures.count, failures.again_at);
        let reason = format!("{trouble}; they are tried again from block {again_at} on");
        if trouble.is_passing() {
            warn!(at = %head, attempt, "weights are not set: {reason}");
        } else {
            error!(at = %head, attempt, "weights are not set: {reason}");
        }
        ctx.emit(Event::WeightsFailed { block: head, reason: reason.clone() });
        self.change(|memory| {
            memory.flight = flight.map(|flight| Flight { given_up_at: again_at, ..flight });
            memory.failures = Some(failures);
            memory.alarm = Some(reason);
        })
    }

    fn memory(&self) -> &Memory {
        self.kept.as_ref().expect("`run` opens the memory first").get()
    }

    fn change(&mut self, change: impl FnOnce(&mut Memory)) -> Result<(), StateError> {
        let kept = self.kept.as_mut().expect("`run` opens the memory first");
        let mut memory = kept.get().clone();
        change(&mut memory);
        kept.replace(memory)
    }
}

/// Returns the first block at which the chain's rate limit lets `ours` set weights.
fn first_block_allowed(ours: &Neuron, rules: &Hyperparameters) -> BlockNumber {
    match ours.last_update.0 {
        // It never did, nor was it registered later.
        0 => BlockNumber(0),
        last => BlockNumber(last.saturating_add(rules.weights_rate_limit)),
    }
}
