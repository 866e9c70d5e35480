//! What services report: a closed set of events that monitoring alone turns into metrics.

use grail_protocol::ids::{BlockNumber, Hotkey, Uid, Window};
use serde::{Deserialize, Serialize};

/// Something worth a metric, a line on a screen or a row in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The chain advanced.
    BlockSeen {
        /// The new head.
        block: BlockNumber,
    },
    /// A role loaded a checkpoint.
    CheckpointLoaded {
        /// Window of the checkpoint.
        checkpoint: Window,
        /// Seconds that it took.
        seconds: f64,
    },
    /// A miner finished a group.
    GroupMined {
        /// Window being mined.
        window: Window,
        /// Index of the group.
        group: u32,
        /// Completion tokens generated.
        tokens: u64,
        /// Mean reward of the group.
        reward_mean: f64,
    },
    /// A miner uploaded its file.
    RolloutsUploaded {
        /// Window of the file.
        window: Window,
        /// Number of groups.
        groups: u32,
        /// Number of rollouts.
        rollouts: u32,
        /// Completion tokens generated.
        tokens: u64,
        /// Seconds of generation.
        seconds: f64,
        /// Size of the file, bytes.
        bytes: u64,
    },
    /// A miner skipped a window.
    WindowSkipped {
        /// The window.
        window: Window,
        /// Why, for a person.
        reason: String,
    },
    /// A validator judged a miner's file.
    MinerJudged {
        /// Window of the file.
        window: Window,
        /// Owner of the file.
        hotkey: Hotkey,
        /// Its uid.
        uid: Uid,
        /// Rollouts in the file.
        rollouts: u32,
        /// Rollouts checked.
        checked: u32,
        /// Rollouts accepted.
        accepted: u32,
        /// Code of the rejection, if the file was rejected.
        rejection: Option<String>,
        /// Mean reward of the accepted rollouts, as recomputed.
        reward_mean: f64,
        /// Seconds of verification.
        seconds: f64,
    },
    /// Where a miner stands after a window, by all the evidence there is.
    MinerEvidence {
        /// The window.
        window: Window,
        /// The miner.
        hotkey: Hotkey,
        /// Its uid.
        uid: Uid,
        /// Evidence against it, log10; at most one honest miner in `10^wealth_log10` ever gets there.
        wealth_log10: f64,
        /// Evidence at which it is ejected, log10.
        bound_log10: f64,
        /// First window in which it is judged again, if it is ejected.
        ejected_until: Option<Window>,
        /// Ejections that it came back from.
        life: u32,
    },
    /// A validator finished a window.
    WindowValidated {
        /// The window.
        window: Window,
        /// Miners with a file.
        active: u32,
        /// Miners judged.
        judged: u32,
        /// Rollouts accepted over all miners.
        accepted: u32,
        /// Mean reward of the accepted rollouts.
        reward_mean: f64,
    },
    /// A validator set weights.
    WeightsSet {
        /// Block that includes them.
        block: BlockNumber,
        /// Weight per uid.
        weights: Vec<(Uid, f64)>,
    },
    /// The chain counts the weights that a validator set, and no re-organisation can change that.
    WeightsLanded {
        /// Block that includes them.
        block: BlockNumber,
    },
    /// Weights could not be set, or the chain lost them: an alarm until weights have landed. They are
    /// tried again.
    WeightsFailed {
        /// Head when that was noticed.
        block: BlockNumber,
        /// Why, and what to do, for a person.
        reason: String,
    },
    /// The trainer applied its optimiser steps on a window.
    WindowTrained {
        /// Window whose rollouts were used.
        window: Window,
        /// Optimiser steps.
        steps: u32,
        /// Rollouts used.
        rollouts: u32,
        /// Tokens used.
        tokens: u64,
        /// Mean loss.
        loss: f64,
        /// Mean gradient norm before clipping.
        grad_norm: f64,
        /// Mean reward of the window's validated rollouts.
        reward_mean: f64,
        /// Largest |log ratio| at the first step, nats: 0 when the engine is exact.
        first_log_ratio_max: f64,
        /// Seconds of training.
        seconds: f64,
    },
    /// The trainer measured a checkpoint on held-out problems.
    Evaluated {
        /// Window of the checkpoint.
        checkpoint: Window,
        /// Problems tried.
        problems: u32,
        /// Share solved by one sampled answer, 0 to 1.
        pass_at_1: f64,
        /// Seconds of evaluation.
        seconds: f64,
    },
    /// The trainer published a checkpoint.
    CheckpointPublished {
        /// Window of the checkpoint.
        checkpoint: Window,
        /// Window of the READY marker.
        ready: Window,
        /// Size, bytes.
        bytes: u64,
    },
}

/// Where events go.
///
/// A service tells what it did before it commits to having done it, so a crash in between tells an
/// event again: whoever counts must key by window and role.
pub trait EventSink: Send + Sync {
    /// Takes an event; must not block.
    fn emit(&self, event: Event);
}
