//! Fills a window with groups, batch by batch, while there is time.

use std::sync::Arc;
use std::time::Duration;

use grail_ports::chain::Block;
use grail_ports::events::Event;
use grail_ports::model::{ModelError, StopFlag};
use grail_protocol::constants::GROUPS_PER_FILE_MAX;
use grail_protocol::ids::{BlockNumber, Window};
use grail_protocol::rollout::Group;
use tokio::time::Instant;
use tracing::warn;

use super::MiningError;
use super::pipeline::{MiningJob, PipelineError};
use super::time_budget::{GENERATION_SAMPLE_MAX_S, TimeBudget};
use crate::blocking::blocking;
use crate::context::RunContext;
use crate::math::mean;

/// Settings of a miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MiningConfig {
    /// Most groups in a window, at least 1; the time budget may end a window earlier.
    pub groups_per_window: u32,
    /// Groups that the model makes at the same time, at least 1: more use the processor better,
    /// fewer waste less when the window ends.
    pub groups_at_once: u32,
    /// Blocks that stay free before the deadline.
    pub safety_blocks: u32,
    /// The chain's nominal block time, where the measured average starts.
    pub block_time: Duration,
}

impl Default for MiningConfig {
    fn default() -> Self {
        Self {
            groups_per_window: GROUPS_PER_FILE_MAX,
            groups_at_once: 1,
            safety_blocks: 3,
            block_time: Duration::from_secs(12),
        }
    }
}

impl MiningConfig {
    /// Returns why these settings cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        let groups = self.groups_per_window;
        if groups == 0 || groups > GROUPS_PER_FILE_MAX {
            return Some(format!(
                "groups_per_window is {groups}; it must be 1 to {GROUPS_PER_FILE_MAX}"
            ));
        }
        (self.groups_at_once == 0).then(|| "groups_at_once must be at least 1".to_owned())
    }
}

/// A group of rollouts of either profile, as far as the pace cares.
pub trait MinedGroup: Send + 'static {
    /// Returns its index in the window.
    fn index(&self) -> u32;

    /// Returns the number of its rollouts.
    fn rollouts(&self) -> usize;

    /// Returns its completion tokens.
    fn tokens(&self) -> u64;

    /// Returns the mean of its claimed rewards.
    fn reward_mean(&self) -> f64;
}

impl MinedGroup for Group {
    fn index(&self) -> u32 {
        self.index
    }

    fn rollouts(&self) -> usize {
        self.rollouts.len()
    }

    fn tokens(&self) -> u64 {
        self.rollouts.iter().map(|rollout| rollout.tokens.len() as u64).sum()
    }

    fn reward_mean(&self) -> f64 {
        mean(self.rollouts.iter().map(|rollout| f64::from(rollout.reward)))
    }
}

/// Makes groups `first..first + count`, given `first` and `count`; some may be left out. Blocks.
pub type GroupMaker<G = Group> =
    Arc<dyn Fn(u32, u32) -> Result<Vec<G>, PipelineError> + Send + Sync>;

/// Makes groups of a job: first group, number of groups, stop flag.
pub type Method = fn(&MiningJob, u32, u32, &StopFlag) -> Result<Vec<Group>, PipelineError>;

/// Returns the maker that works on `job` by `method`.
pub fn maker(job: Arc<MiningJob>, stop: StopFlag, method: Method) -> GroupMaker {
    Arc::new(move |first, count| method(&job, first, count, &stop))
}

/// Groups of a window and the seconds that they took.
pub struct Mined<G = Group> {
    /// In the order of their indices.
    pub groups: Vec<G>,
    /// Seconds of generation.
    pub seconds: f64,
    /// Why no more were made, if something failed.
    pub trouble: Option<String>,
}

/// How fast this miner is, and how much it wants.
pub struct Pace {
    config: MiningConfig,
    budget: TimeBudget,
    started: Instant,
}

impl Pace {
    /// Starts without any measurement.
    pub fn new(config: MiningConfig) -> Self {
        let budget = TimeBudget::new(config.safety_blocks, config.block_time);
        Self { config, budget, started: Instant::now() }
    }

    /// Takes note of the head.
    pub fn saw_block(&mut self, head: BlockNumber) {
        self.budget.saw_block(self.started.elapsed().as_secs_f64(), head);
    }

    /// Takes note of how long sealing and upload took.
    pub fn uploaded(&mut self, took: Duration) {
        self.budget.uploaded(took.as_secs_f64());
    }

    /// Makes groups of `window` until the time or the wanted number is up.
    ///
    /// # Errors
    /// Only when the work was asked to stop; other trouble ends the window with what is there.
    pub async fn fill<G: MinedGroup>(
        &mut self,
        ctx: &RunContext,
        window: Window,
        head: Block,
        make: GroupMaker<G>,
    ) -> Result<Mined<G>, MiningError> {
        let mut mined = Mined { groups: Vec::new(), seconds: 0.0, trouble: None };
        let mut head = head;
        let mut made = 0;
        loop {
            let wanted = self.config.groups_per_window.saturating_sub(made);
            if wanted == 0 || !self.budget.allows_another(window, head.number) {
                return Ok(mined);
            }
            let before = Instant::now();
            let (maker, count) = (make.clone(), wanted.min(self.config.groups_at_once.max(1)));
            match blocking(move || maker(made, count)).await {
                Ok(groups) => {
                    groups.iter().for_each(|group| report(ctx, window, group));
                    mined.groups.extend(groups);
                    // A group that was left out keeps its index.
                    made += count;
                }
                Err(stopped @ PipelineError::Model(ModelError::Stopped)) => {
                    return Err(stopped.into());
                }
                Err(error) => {
                    warn!(%window, group = made, %error, "no more groups in this window");
                    mined.trouble = Some(error.to_string());
                    return Ok(mined);
                }
            }
            ctx.heartbeat.beat();
            let seconds = before.elapsed().as_secs_f64();
            mined.seconds += seconds;
            self.budget.generated(seconds.min(GENERATION_SAMPLE_MAX_S));
            // Without a head the end of the window cannot be seen coming: deliver what is there.
            let Ok(newer) = ctx.chain.head().await else {
                return Ok(mined);
            };
            head = newer;
            self.saw_block(head.number);
        }
    }
}

fn report(ctx: &RunContext, window: Window, group: &impl MinedGroup) {
    ctx.emit(Event::GroupMined {
        window,
        group: group.index(),
        tokens: group.tokens(),
        reward_mean: group.reward_mean(),
    });
}
