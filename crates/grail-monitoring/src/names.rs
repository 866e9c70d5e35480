//! The names of all metrics, and what they mean.
//!
//! Dashboards read these names. One that exists is never given another meaning; those that the
//! reference has too (`mining/…`, `weights/…`) mean what they mean there.

/// How a metric's value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The newest value.
    Gauge,
    /// A sum since the process started; it never falls.
    Counter,
    /// How often a value fell into each of several ranges, and the sum of the values.
    Histogram,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $metric:ident = $kind:ident $name:literal,)+) => {
        /// A metric; the closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $($(#[doc = $help])+ $metric,)+
        }

        impl Metric {
            /// Every metric, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$metric,)+];

            /// Returns the name, `/`-separated.
            pub fn name(self) -> &'static str {
                match self { $(Self::$metric => $name,)+ }
            }

            /// Returns how the value moves.
            pub fn kind(self) -> Kind {
                match self { $(Self::$metric => Kind::$kind,)+ }
            }

            /// Returns what the value is, in one line.
            pub fn help(self) -> &'static str {
                match self { $(Self::$metric => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

// A macro, because name, kind and meaning of each metric belong in one place and a table that is
// matched by hand three times would drift apart.
metrics! {
    /// Newest block that the role has seen.
    ChainBlock = Gauge "chain/block",
    /// Window of the newest block.
    ChainWindow = Gauge "chain/window",
    /// Window of the checkpoint in use.
    CheckpointWindow = Gauge "checkpoint/window",
    /// Seconds of the last load of a checkpoint.
    CheckpointLoad = Gauge "profiling/checkpoint_load",

    /// Seconds that the time of the newest block is behind ours.
    ChainHeadLag = Gauge "chain/head_lag_seconds",
    /// Calls of the chain's port, by call and outcome.
    ChainCalls = Counter "chain/calls",
    /// Seconds of a call of the chain's port, by call.
    ChainCallSeconds = Histogram "chain/call_seconds",
    /// Questions to nodes of the chain, by method and outcome; `timed_out` are time-outs.
    ChainNodeCalls = Counter "chain/node/calls",
    /// Seconds of a question to a node of the chain, by method.
    ChainNodeCallSeconds = Histogram "chain/node/call_seconds",
    /// Connections made to a node of the chain, by endpoint; all but the first are reconnects.
    ChainConnections = Counter "chain/node/connections",
    /// Connections to a node of the chain that broke or did not come to stand, by endpoint.
    ChainConnectionsLost = Counter "chain/node/connections_lost",
    /// Whether this endpoint of the chain is in use (1) or not (0).
    ChainEndpoint = Gauge "chain/node/in_use",
    /// Calls of the beacon's port, by call and outcome.
    BeaconCalls = Counter "beacon/calls",
    /// Seconds of a call of the beacon's port, by call.
    BeaconCallSeconds = Histogram "beacon/call_seconds",
    /// Calls of the object store's port, by call and outcome.
    StoreCalls = Counter "store/calls",
    /// Seconds of a call of the object store's port, by call.
    StoreCallSeconds = Histogram "store/call_seconds",

    /// Groups generated.
    MiningGroups = Counter "mining/groups",
    /// Completion tokens generated.
    MiningTokens = Counter "mining/tokens",
    /// Mean reward of the last group, as the miner sees it.
    MiningRewardMean = Gauge "mining/reward_mean",
    /// Files uploaded.
    MiningUploads = Counter "mining/successful_uploads",
    /// Rollouts uploaded.
    MiningUploadedRollouts = Counter "mining/uploaded_rollouts",
    /// Bytes of the last file.
    MiningFileBytes = Gauge "mining/file_bytes",
    /// Completion tokens per second of generation, over the last file.
    MiningTokensPerSec = Gauge "mining/tokens_per_sec",
    /// Windows without an upload.
    MiningSkippedWindows = Counter "mining/skipped_windows",

    /// Miners with a file in the last window.
    MinersActive = Gauge "miner_sampling/miners_active",
    /// Miners judged in the last window.
    MinersSelected = Gauge "miner_sampling/miners_selected",
    /// Windows validated.
    ValidationWindows = Counter "validation/windows",
    /// Rollouts accepted in the last window, over all miners.
    WindowValidRollouts = Gauge "validation/active_miners/window_valid_rollouts",
    /// Mean reward of the rollouts accepted in the last window, as recomputed.
    ValidationRewardMean = Gauge "validation/reward_mean",
    /// Files rejected, by reason.
    FileRejected = Counter "validation/file_rejected",
    /// Seconds of the last verification of a file.
    RolloutVerification = Gauge "profiling/rollout_verification",

    /// Whether the miner's last file was rejected (1) or not (0).
    MinerHadFailure = Gauge "miner/had_failure",
    /// Rollouts in the miner's files.
    MinerRollouts = Counter "miner/rollouts",
    /// Rollouts of the miner that were checked.
    MinerCheckedRollouts = Counter "miner/checked_rollouts",
    /// Rollouts of the miner that were accepted.
    MinerAcceptedRollouts = Counter "miner/accepted_rollouts",
    /// Mean reward of the rollouts accepted from the miner's last file, as recomputed.
    MinerRewardMean = Gauge "miner/reward_mean",
    /// Evidence against the miner, log10; it is ejected where `miner/evidence_bound` is reached.
    MinerEvidence = Gauge "miner/evidence",
    /// Evidence at which the miner is ejected, log10.
    MinerEvidenceBound = Gauge "miner/evidence_bound",
    /// Whether the miner is ejected (1) or not (0).
    MinerEjected = Gauge "miner/ejected",
    /// Ejections that the miner came back from.
    MinerLife = Gauge "miner/life",

    /// Miners with a weight above 0.
    WeightedMiners = Gauge "weights/submission/successful_miners_count",
    /// Weight that was last set for the miner.
    Weight = Gauge "weights/weight",
    /// Block that includes the last weights.
    WeightsBlock = Gauge "weights/submission/block",
    /// Weights set.
    WeightsSubmissions = Counter "weights/submission/successful",
    /// Attempts to set weights that failed, and weights that the chain lost.
    WeightsFailures = Counter "weights/submission/failed",
    /// Submissions that the chain counts.
    WeightsLandings = Counter "weights/submission/landed",
    /// Block that includes the last weights that the chain counts.
    WeightsLandedBlock = Gauge "weights/submission/landed_block",
    /// Whether the newest weights are not on the chain and a person should look (1) or not (0).
    WeightsAlarm = Gauge "weights/alarm",

    /// Window whose rollouts were last trained on.
    TrainingWindow = Gauge "training/window",
    /// Optimiser steps.
    TrainingSteps = Counter "training/optimizer_steps",
    /// Rollouts trained on.
    TrainingRollouts = Counter "training/rollouts",
    /// Tokens trained on.
    TrainingTokens = Counter "training/tokens",
    /// Mean loss over the last window.
    TrainingLoss = Gauge "training/epoch_loss",
    /// Mean gradient norm before clipping, over the last window.
    TrainingGradNorm = Gauge "training/batch/grad_norm",
    /// Mean reward of the rollouts of the last window.
    TrainingRewardMean = Gauge "training/batch/reward_mean",
    /// Largest absolute log ratio at the first step of the last window, nats; 0 if exact.
    TrainingFirstLogRatio = Gauge "training/batch/first_log_ratio_max",
    /// Seconds of training on the last window.
    TrainingDuration = Gauge "training/epoch_duration",
    /// Tokens per second of training, over the last window.
    TrainingTokensPerSec = Gauge "training/tokens_per_sec",

    /// Share of held-out problems solved by one sampled answer, 0 to 1.
    EvalPassAt1 = Gauge "eval/pass@1",
    /// Problems of the last evaluation.
    EvalProblems = Gauge "eval/tasks",
    /// Window of the checkpoint that was last evaluated.
    EvalCheckpoint = Gauge "eval/checkpoint_window",
    /// Seconds of the last evaluation.
    EvalDuration = Gauge "profiling/eval_duration",

    /// Full checkpoints published.
    UploadsFull = Counter "profiling/upload_worker/uploads/full",
    /// Window of the checkpoint that was last published.
    UploadCheckpoint = Gauge "profiling/upload_worker/checkpoint_window",
    /// Bytes of the checkpoint that was last published.
    UploadBytes = Gauge "profiling/upload_worker/total_bytes",
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::prometheus::exposed_name;

    /// Set to write the documentation instead of comparing it.
    const WRITE_DOCS: &str = "GRAIL_TEST_WRITE_DOCS";
    const BEGIN: &str = "<!-- the table below is generated; see CONTRIBUTING.md -->\n";

    #[test]
    fn the_documentation_lists_every_metric() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, _) = text.split_once(BEGIN).expect("the page has a marker");
        let mut want = format!(
            "{before}{BEGIN}\n| metric | as Prometheus reads it | kind | meaning |\n|---|---|---|---|\n"
        );
        for metric in Metric::ALL {
            let kind = match metric.kind() {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
            };
            let (name, exposed) = (metric.name(), exposed_name(*metric));
            let help = metric.help().replace('|', "\\|");
            want += &format!("| `{name}` | `{exposed}` | {kind} | {help} |\n");
        }
        if std::env::var_os(WRITE_DOCS).is_some() {
            std::fs::write(&path, &want).unwrap();
        }
        let is_same = std::fs::read_to_string(&path).unwrap() == want;
        assert!(is_same, "docs/metrics.md is out of date; run the tests with {WRITE_DOCS}=1");
    }
}
