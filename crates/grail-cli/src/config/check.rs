//! Checks a configuration as a whole, and turns it into what services take.

use std::collections::BTreeSet;
use std::time::Duration;

use grail_infrastructure::object_store::check_bucket_name;
use grail_ports::model::OptimizerConfig;
use grail_protocol::checkpoint::Protocol;
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::sampler::SamplerParams;
use grail_protocol::v5::constants::CHALLENGE_K;
use grail_services::mining::adversary::Cheat;
use grail_services::mining::pace::MiningConfig;
use grail_services::training::config::TrainingConfig;
use grail_services::training::grpo::LossConfig;
use grail_services::training::pipeline::StepsConfig;
use grail_services::training::replay::ReplayConfig;
use grail_services::validation::calibrations::CalibrationSource;
use grail_services::validation::config::{JudgementMode, ValidationConfig};
use grail_services::validation::evidence::EvidenceRules;
use grail_services::validation::scoring::ScoringRules;
use grail_services::validation::weights::WeightSchedule;

use super::sections::Judgement;
use super::{Config, ConfigError, EngineConfig, StoreKind};

/// Shortest block time: below it, blocks come faster than the machine can follow.
const BLOCK_TIME_MS_MIN: u64 = 20;
/// Shortest block time in the reference's profile: a window of 12 seconds.
const REFERENCE_BLOCK_TIME_MS_MIN: u64 = 400;
/// Most compute threads.
const THREADS_MAX: usize = 1024;
/// Most sequences generated at once; more would not be faster.
const RUNNING_MAX: usize = 4096;
/// Least bytes of keys and values: below it no model can do a thing.
const KV_BYTES_MIN: usize = 1 << 20;
/// Most prompt tokens in a step.
const PREFILL_ROWS_MAX: usize = 1 << 16;
/// Most held-out problems of an evaluation.
const EVALUATION_PROBLEMS_MAX: u32 = 100_000;
/// Shortest and longest wait for what lies outside.
const WAIT_MS_MIN: u64 = 1_000;
const WAIT_MS_MAX: u64 = 600_000;
/// Most rounds of the beacon that are remembered.
const CACHE_ROUNDS_MAX: usize = 65_536;
/// Most miners and cheaters of one local network; they share this machine's cores.
const MINERS_MAX: u16 = 64;

impl Config {
    /// Checks every setting, and what they say together.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let localnet = &self.localnet;
        check("localnet.windows", localnet.windows > 0, "must be at least 1")?;
        let miners = localnet.miners.saturating_add(localnet.cheaters);
        check(
            "localnet.miners",
            miners <= MINERS_MAX,
            &format!("miners and cheaters together are {miners}, at most {MINERS_MAX} are allowed"),
        )?;
        check(
            "localnet.block_time",
            localnet.block_time.as_millis() >= BLOCK_TIME_MS_MIN,
            &format!("must be at least {BLOCK_TIME_MS_MIN}ms"),
        )?;
        check(
            "engine.threads",
            self.engine.threads <= THREADS_MAX,
            &format!("must be at most {THREADS_MAX}"),
        )?;
        check_engine(&self.engine)?;
        self.check_outside()?;
        self.cheats()?;
        self.check_reference()?;
        check(
            "calibration.signers",
            self.calibration.paths.is_empty() || !self.calibration.signers.is_empty(),
            "must name whose calibrations are used where calibration.paths names some",
        )?;
        let training = &self.training;
        let rates = [training.learning_rate, training.grad_clip];
        check(
            "training",
            rates.iter().all(|rate| rate.is_finite() && *rate > 0.0),
            "learning_rate and grad_clip must be above 0",
        )?;
        check(
            "training.weight_decay",
            (0.0..=1.0).contains(&training.weight_decay),
            "must be 0 to 1",
        )?;
        if let Some(lora) = training.trainer().lora {
            let checked = lora.check().map_err(|error| error.to_string());
            complaint("training", checked.err())?;
        }
        check(
            "training.evaluation_problems",
            (1..=EVALUATION_PROBLEMS_MAX).contains(&training.evaluation_problems),
            &format!("must be 1 to {EVALUATION_PROBLEMS_MAX}"),
        )?;
        complaint("mining", self.mining_config().complaint())?;
        complaint("validation", self.validation_config().complaint())?;
        complaint("training", self.training_config().complaint())
    }

    /// Checks the sections for what lies outside, as far as that needs no keys and no network.
    fn check_outside(&self) -> Result<(), ConfigError> {
        let network = &self.network;
        if !network.is_local() {
            let key =
                if network.endpoints.is_empty() { "network.name" } else { "network.endpoints" };
            complaint(key, network.nodes().err())?;
            check(
                "store.kind",
                self.store.kind == StoreKind::S3,
                "the buckets of a real network are on S3 servers; set it to s3",
            )?;
        }
        check("network.netuid", network.netuid != Some(0), "0 is the root network; name a subnet")?;
        for (key, time) in [
            ("network.connect_timeout", network.connect_timeout),
            ("network.call_timeout", network.call_timeout),
            ("beacon.deadline", self.beacon.deadline),
            ("store.deadline", self.store.deadline),
        ] {
            let is_good = (WAIT_MS_MIN..=WAIT_MS_MAX).contains(&time.as_millis());
            check(key, is_good, "must be 1s to 10m")?;
        }
        check(
            "beacon.cache_rounds",
            (1..=CACHE_ROUNDS_MAX).contains(&self.beacon.cache_rounds),
            &format!("must be 1 to {CACHE_ROUNDS_MAX}"),
        )?;
        complaint("beacon.relays", self.beacon.drand().check().err().map(|e| e.to_string()))?;
        check("store.region", !self.store.region.is_empty(), "must not be empty")?;
        if let Some(bucket) = &self.store.bucket {
            let refused = check_bucket_name(bucket).err();
            complaint("store.bucket", refused.map(|error| error.to_string()))?;
        }
        complaint("store.endpoint", self.store.s3().check().err().map(|error| error.to_string()))
    }

    /// Checks what the reference's profile demands.
    fn check_reference(&self) -> Result<(), ConfigError> {
        if self.protocol.0 != Protocol::V5 {
            return Ok(());
        }
        let tokens = self.sampling.max_new_tokens as usize;
        check(
            "sampling.max_new_tokens",
            tokens >= CHALLENGE_K,
            &format!(
                "protocol v5 challenges {CHALLENGE_K} tokens of each completion; set at least {CHALLENGE_K}"
            ),
        )?;
        check(
            "localnet.block_time",
            self.localnet.block_time.as_millis() >= REFERENCE_BLOCK_TIME_MS_MIN,
            &format!(
                "protocol v5 closes uploads 4 seconds before a window ends; set at least \
                 {REFERENCE_BLOCK_TIME_MS_MIN}ms"
            ),
        )?;
        check(
            "localnet.cheats",
            self.localnet.cheats.is_empty(),
            "cheats are those of protocol v6; under v5 a cheater sends zero sketches",
        )
    }

    /// Returns the cheats to cycle over.
    ///
    /// # Errors
    /// When one of the names is none.
    pub fn cheats(&self) -> Result<Vec<Cheat>, ConfigError> {
        let bad = |reason| ConfigError::BadValue { key: "localnet.cheats", reason };
        let names = &self.localnet.cheats;
        if names.is_empty() {
            return Ok(Cheat::ALL.to_vec());
        }
        let cheats: Vec<Cheat> =
            names.iter().map(|name| name.trim().parse()).collect::<Result<_, _>>().map_err(
                |unknown: grail_services::mining::adversary::UnknownCheat| bad(unknown.to_string()),
            )?;
        let distinct: BTreeSet<Cheat> = cheats.iter().copied().collect();
        if distinct.len() < cheats.len() {
            return Err(bad("names a cheat twice".to_owned()));
        }
        Ok(cheats)
    }

    /// Returns the miner's settings.
    pub fn mining_config(&self) -> MiningConfig {
        MiningConfig {
            groups_per_window: self.mining.groups_per_window,
            groups_at_once: self.mining.groups_at_once,
            safety_blocks: self.mining.safety_blocks,
            block_time: Duration::from(self.localnet.block_time),
        }
    }

    /// Returns the validator's settings.
    pub fn validation_config(&self) -> ValidationConfig {
        let settings = self.validation;
        let rollouts_cap = match settings.rollouts_cap {
            0 => self.mining.groups_per_window.saturating_mul(ROLLOUTS_PER_GROUP),
            cap => cap,
        };
        ValidationConfig {
            groups_checked_max: settings.groups_checked,
            miners_checked_max: settings.miners_checked,
            judgement: match settings.judgement {
                Judgement::Sequential => JudgementMode::Sequential,
                Judgement::Reference => JudgementMode::Reference,
            },
            evidence: EvidenceRules {
                bound: settings.ejection_bound,
                ejection_windows: settings.ejection_windows,
                judge_ejected: settings.judge_ejected,
            },
            failure_lookback_windows: settings.failure_lookback_windows,
            schedule: WeightSchedule {
                interval_blocks: settings.weights_interval_blocks,
                warmup_windows: settings.warmup_windows,
                ..WeightSchedule::default()
            },
            scoring: ScoringRules {
                windows: settings.scoring_windows,
                rollouts_cap,
                burn_percent: settings.burn_percent,
                ..ScoringRules::default()
            },
            calibration_age_windows: self.calibration.age_windows,
            ..ValidationConfig::default()
        }
    }

    /// Returns where the validator's calibrations come from.
    pub fn calibration_source(&self) -> CalibrationSource {
        let settings = &self.calibration;
        CalibrationSource { paths: settings.paths.clone(), signers: settings.signers.clone() }
    }

    /// Returns how completions are drawn.
    pub fn sampler(&self) -> SamplerParams {
        SamplerParams {
            temperature: self.sampling.temperature,
            max_new_tokens: self.sampling.max_new_tokens,
        }
    }

    /// Returns the trainer's settings.
    pub fn training_config(&self) -> TrainingConfig {
        let settings = &self.training;
        let defaults = TrainingConfig::default();
        TrainingConfig {
            steps: StepsConfig {
                optimizer: OptimizerConfig {
                    lr: settings.learning_rate,
                    weight_decay: settings.weight_decay,
                    grad_clip: settings.grad_clip,
                    ..defaults.steps.optimizer
                },
                epochs: settings.epochs,
                groups_per_step: settings.groups_per_step,
                groups_max: settings.groups,
                estimator: settings.advantage_estimator,
                loss: LossConfig {
                    aggregation: settings.loss_variant,
                    importance: settings.importance_level,
                    clip_low: settings.clip_low,
                    clip_high: settings.clip_high,
                    kl_coef: settings.kl_coef,
                    entropy_coef: settings.entropy_coef,
                    ..defaults.steps.loss
                },
            },
            replay: ReplayConfig { windows_max: settings.replay_windows, ..defaults.replay },
            sampler: self.sampler(),
            retention_windows: settings.retention_windows,
            evaluate_every: settings.evaluate_every,
            ..defaults
        }
    }
}

fn check_engine(engine: &EngineConfig) -> Result<(), ConfigError> {
    check(
        "engine.max_running_sequences",
        (1..=RUNNING_MAX).contains(&engine.max_running_sequences),
        &format!("must be 1 to {RUNNING_MAX}"),
    )?;
    check(
        "engine.kv_bytes_max",
        engine.kv_bytes_max >= KV_BYTES_MIN,
        &format!("must be at least {KV_BYTES_MIN}"),
    )?;
    for (key, rows) in [
        ("engine.prefill_rows_max", engine.prefill_rows_max),
        ("engine.prefill_rows_while_streaming_max", engine.prefill_rows_while_streaming_max),
    ] {
        check(
            key,
            (1..=PREFILL_ROWS_MAX).contains(&rows),
            &format!("must be 1 to {PREFILL_ROWS_MAX}"),
        )?;
    }
    Ok(())
}

fn check(key: &'static str, holds: bool, reason: &str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::BadValue { key, reason: reason.to_owned() }) }
}

fn complaint(key: &'static str, complaint: Option<String>) -> Result<(), ConfigError> {
    complaint.map_or(Ok(()), |reason| Err(ConfigError::BadValue { key, reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::human_duration::HumanDuration;

    #[test]
    fn every_set_of_defaults_is_sound() {
        Config::default().check().unwrap();
        Config::for_own_model().check().unwrap();
        let mut real = Config::for_real_network();
        real.network.name = "finney".to_owned();
        real.check().unwrap();
        Config::default().for_reference().check().unwrap();
        Config::for_own_model().for_reference().check().unwrap();
    }

    #[test]
    fn the_references_profile_has_demands_of_its_own() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default().for_reference();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.sampling.max_new_tokens = 31).contains("32 tokens"));
        assert!(
            refused(|c| c.localnet.block_time = HumanDuration::from_millis(100)).contains("400ms")
        );
        assert!(refused(|c| c.localnet.cheats = vec!["forged-reward".to_owned()]).contains("zero"));
    }

    fn relay() -> String {
        "https://api.drand.sh".to_owned()
    }

    #[test]
    fn each_bad_setting_is_named() {
        fn refused(change: impl FnOnce(&mut Config)) -> String {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        }
        for (error, part) in [
            (refused(|c| c.localnet.windows = 0), "localnet.windows"),
            (refused(|c| c.localnet.miners = 65), "at most 64"),
            (refused(|c| c.localnet.block_time = HumanDuration::from_millis(0)), "20ms"),
            (refused(|c| c.engine.threads = 4096), "engine.threads"),
            (refused(|c| c.engine.max_running_sequences = 0), "engine.max_running_sequences"),
            (refused(|c| c.engine.kv_bytes_max = 0), "engine.kv_bytes_max"),
            (refused(|c| c.engine.prefill_rows_max = 0), "engine.prefill_rows_max"),
            (
                refused(|c| c.engine.prefill_rows_while_streaming_max = 1 << 20),
                "engine.prefill_rows_while_streaming_max",
            ),
            (refused(|c| c.network.name = "fineny".to_owned()), "use finney"),
            (refused(|c| c.network.name = "finney".to_owned()), "store.kind"),
            (refused(|c| c.network.netuid = Some(0)), "network.netuid"),
            (refused(|c| c.network.endpoints = vec!["http://a".to_owned()]), "network.endpoints"),
            (refused(|c| c.network.call_timeout = HumanDuration::from_millis(1)), "1s to"),
            (refused(|c| c.beacon.relays = vec!["api.drand.sh".to_owned()]), "beacon.relays"),
            (refused(|c| c.beacon.relays = vec![relay(); 17]), "17 relays"),
            (refused(|c| c.beacon.deadline = HumanDuration::from_millis(0)), "beacon.deadline"),
            (refused(|c| c.beacon.cache_rounds = 0), "beacon.cache_rounds"),
            (refused(|c| c.store.endpoint = Some("http://a".to_owned())), "not encrypted"),
            (refused(|c| c.store.endpoint = Some("a".to_owned())), "store.endpoint"),
            (refused(|c| c.store.bucket = Some("a/b".to_owned())), "store.bucket"),
            (refused(|c| c.store.region.clear()), "store.region"),
            (refused(|c| c.store.deadline = HumanDuration::from_millis(0)), "store.deadline"),
            (refused(|c| c.localnet.cheats = vec!["lying".to_owned()]), "`lying` is not a cheat"),
            (
                refused(|c| c.localnet.cheats = vec!["copied-file".to_owned(); 2]),
                "names a cheat twice",
            ),
            (refused(|c| c.training.learning_rate = f32::NAN), "learning_rate"),
            (refused(|c| c.training.evaluation_problems = 0), "evaluation_problems"),
            (refused(|c| c.training.lora_rank = 1000), "rank is 1000"),
            (refused(|c| c.training.kl_coef = -0.1), "kl_coef"),
            (refused(|c| c.training.entropy_coef = f64::NAN), "entropy_coef"),
            (refused(|c| c.training.clip_low = 1.5), "clip_low"),
            (refused(|c| c.training.replay_windows = 0), "replay_windows"),
            (refused(|c| c.training.retention_windows = 1), "retention_windows"),
            (refused(|c| c.mining.groups_per_window = 0), "groups_per_window"),
            (refused(|c| c.validation.burn_percent = 0.0), "burn_percent"),
            (refused(|c| c.sampling.temperature = 0.0), "temperature"),
            (refused(|c| c.sampling.max_new_tokens = 0), "max_new_tokens"),
        ] {
            assert!(error.contains(part), "{error} should contain {part}");
        }
    }

    #[test]
    fn without_cheats_all_are_cycled_over() {
        assert_eq!(Config::default().cheats().unwrap(), Cheat::ALL);
    }
}
