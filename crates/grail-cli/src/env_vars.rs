//! Every environment variable: its setting, meaning, unit and default.
//!
//! A variable is named after its setting: `localnet.windows` is `GRAIL_LOCALNET_WINDOWS`. The table in
//! `docs/configuration.md` is made from this one; a test fails when they differ.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::Config;

/// What all our variables start with.
pub const PREFIX: &str = "GRAIL_";
/// Variables that the tests use; the command ignores them.
pub const TEST_PREFIX: &str = "GRAIL_TEST_";
/// Path of the configuration file, as `--config`.
pub const CONFIG_FILE: &str = "GRAIL_CONFIG";

/// One variable. None of them is a secret: keys are read from wallets.
pub struct Variable {
    /// Name in the environment.
    pub name: &'static str,
    /// Key in the configuration file.
    pub key: &'static str,
    /// What it means, with unit and range.
    pub meaning: &'static str,
    /// Reads a value into the configuration.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// Returns the value as text; empty if there is none.
    pub show: fn(&Config) -> String,
}

/// All variables, in the order of the configuration.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "GRAIL_PROTOCOL",
        key: "protocol",
        meaning: "profile that this node speaks: `v6`, or `v5` to work with the Python reference; it \
                  waits while the trainer's checkpoint asks for the other one",
        set: |config, text| set(&mut config.protocol, text),
        show: |config| config.protocol.to_string(),
    },
    Variable {
        name: "GRAIL_LOG_VERBOSITY",
        key: "log.verbosity",
        meaning: "0 warnings, 1 what each role does (`-v`), 2 every rollout (`-vv`)",
        set: |config, text| set(&mut config.log.verbosity, text),
        show: |config| config.log.verbosity.to_string(),
    },
    Variable {
        name: "GRAIL_LOG_JSON",
        key: "log.json",
        meaning: "log lines as JSON: `true` or `false`",
        set: |config, text| set(&mut config.log.json, text),
        show: |config| config.log.json.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_THREADS",
        key: "engine.threads",
        meaning: "compute threads, 0 takes every core; no result depends on it",
        set: |config, text| set(&mut config.engine.threads, text),
        show: |config| config.engine.threads.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_RUNTIME",
        key: "engine.runtime",
        meaning: "`exact` (the contract exact-1), or `bf16`: values rounded between operations; \
                  for `mine`, `generate` and `serve`, and a miner that uses it needs a calibration",
        set: |config, text| set(&mut config.engine.runtime, text),
        show: |config| config.engine.runtime.0.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_MAX_RUNNING_SEQUENCES",
        key: "engine.max_running_sequences",
        meaning: "most sequences generated at once, 1 to 4096",
        set: |config, text| set(&mut config.engine.max_running_sequences, text),
        show: |config| config.engine.max_running_sequences.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_KV_BYTES_MAX",
        key: "engine.kv_bytes_max",
        meaning: "most bytes of keys and values, at least 1048576; memory is taken when it is needed",
        set: |config, text| set(&mut config.engine.kv_bytes_max, text),
        show: |config| config.engine.kv_bytes_max.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_PROMPT_CACHE_BYTES_MAX",
        key: "engine.prompt_cache_bytes_max",
        meaning: "most bytes, of those, kept for prompts that begin like earlier ones; 0 keeps none",
        set: |config, text| set(&mut config.engine.prompt_cache_bytes_max, text),
        show: |config| config.engine.prompt_cache_bytes_max.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_PREFILL_ROWS_MAX",
        key: "engine.prefill_rows_max",
        meaning: "most prompt tokens computed between two tokens of running sequences, 1 to 65536",
        set: |config, text| set(&mut config.engine.prefill_rows_max, text),
        show: |config| config.engine.prefill_rows_max.to_string(),
    },
    Variable {
        name: "GRAIL_ENGINE_PREFILL_ROWS_WHILE_STREAMING_MAX",
        key: "engine.prefill_rows_while_streaming_max",
        meaning: "as `engine.prefill_rows_max` while somebody waits for each token, 1 to 65536",
        set: |config, text| set(&mut config.engine.prefill_rows_while_streaming_max, text),
        show: |config| config.engine.prefill_rows_while_streaming_max.to_string(),
    },
    Variable {
        name: "GRAIL_NETWORK_NAME",
        key: "network.name",
        meaning: "network to join; only `local` so far",
        set: |config, text| set(&mut config.network.name, text),
        show: |config| config.network.name.clone(),
    },
    Variable {
        name: "GRAIL_NETWORK_DIR",
        key: "network.dir",
        meaning: "folder of the local network; without it the numbered runs in `./grail-localnet`",
        set: |config, text| set_path(&mut config.network.dir, text),
        show: |config| show_path(config.network.dir.as_ref()),
    },
    Variable {
        name: "GRAIL_NETWORK_WALLET",
        key: "network.wallet",
        meaning: "wallet to act with; without it `miner`, `validator` or `trainer`, as the role",
        set: |config, text| set_some(&mut config.network.wallet, text),
        show: |config| config.network.wallet.clone().unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_LOCALNET_WINDOWS",
        key: "localnet.windows",
        meaning: "windows to mine, validate and train on, at least 1",
        set: |config, text| set(&mut config.localnet.windows, text),
        show: |config| config.localnet.windows.to_string(),
    },
    Variable {
        name: "GRAIL_LOCALNET_MINERS",
        key: "localnet.miners",
        meaning: "honest miners; with the cheaters at most 64",
        set: |config, text| set(&mut config.localnet.miners, text),
        show: |config| config.localnet.miners.to_string(),
    },
    Variable {
        name: "GRAIL_LOCALNET_CHEATERS",
        key: "localnet.cheaters",
        meaning: "miners that cheat",
        set: |config, text| set(&mut config.localnet.cheaters, text),
        show: |config| config.localnet.cheaters.to_string(),
    },
    Variable {
        name: "GRAIL_LOCALNET_CHEATS",
        key: "localnet.cheats",
        meaning: "what they try, in turn, one a window: free-sampling, noisy-weights, edited-answer, \
                  copied-file, copied-seal, forged-reward; comma separated, empty means all",
        set: |config, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            config.localnet.cheats = names.map(str::to_owned).collect();
            Ok(())
        },
        show: |config| config.localnet.cheats.join(","),
    },
    Variable {
        name: "GRAIL_LOCALNET_MODEL",
        key: "localnet.model",
        meaning: "model folder or GGUF file to start from; without it the embedded model",
        set: |config, text| set_path(&mut config.localnet.model, text),
        show: |config| show_path(config.localnet.model.as_ref()),
    },
    Variable {
        name: "GRAIL_LOCALNET_BLOCK_TIME",
        key: "localnet.block_time",
        meaning: "time from block to block, such as 500ms or 2s, at least 20ms; a window has 30 blocks",
        set: |config, text| set(&mut config.localnet.block_time, text),
        show: |config| config.localnet.block_time.to_string(),
    },
    Variable {
        name: "GRAIL_LOCALNET_SEED",
        key: "localnet.seed",
        meaning: "seed of wallets, beacon and held-out problems",
        set: |config, text| set(&mut config.localnet.seed, text),
        show: |config| config.localnet.seed.to_string(),
    },
    Variable {
        name: "GRAIL_LOCALNET_LISTEN",
        key: "localnet.listen",
        meaning: "port on 127.0.0.1 where other processes join, 0 takes a free one",
        set: |config, text| set(&mut config.localnet.listen, text),
        show: |config| config.localnet.listen.to_string(),
    },
    Variable {
        name: "GRAIL_LOCALNET_WITHOUT",
        key: "localnet.without",
        meaning: "roles left to other processes: validator, trainer; comma separated",
        set: |config, text| set_roles(&mut config.localnet.without, text),
        show: |config| show_roles(&config.localnet.without),
    },
    Variable {
        name: "GRAIL_ENVIRONMENT_ID",
        key: "environment.id",
        meaning: "what poses the problems: `arithmetic` or `sat`",
        set: |config, text| set(&mut config.environment.id, text),
        show: |config| config.environment.id.clone(),
    },
    Variable {
        name: "GRAIL_ENVIRONMENT_PARAMS",
        key: "environment.params",
        meaning: "its parameters as a JSON object",
        set: |config, text| set(&mut config.environment.params, text),
        show: |config| config.environment.params.clone(),
    },
    Variable {
        name: "GRAIL_ENVIRONMENT_DIFFICULTY",
        key: "environment.difficulty",
        meaning: "short for the parameter `difficulty` of `arithmetic`, 1 to 5",
        set: |config, text| set_some(&mut config.environment.difficulty, text),
        show: |config| config.environment.difficulty.map(|it| it.to_string()).unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_SAMPLING_TEMPERATURE",
        key: "sampling.temperature",
        meaning: "divides the logits, above 0",
        set: |config, text| set(&mut config.sampling.temperature, text),
        show: |config| config.sampling.temperature.to_string(),
    },
    Variable {
        name: "GRAIL_SAMPLING_MAX_NEW_TOKENS",
        key: "sampling.max_new_tokens",
        meaning: "most tokens of a completion, 1 to 8192",
        set: |config, text| set(&mut config.sampling.max_new_tokens, text),
        show: |config| config.sampling.max_new_tokens.to_string(),
    },
    Variable {
        name: "GRAIL_MINING_GROUPS_PER_WINDOW",
        key: "mining.groups_per_window",
        meaning: "groups of 16 rollouts that a miner makes in a window, if time allows",
        set: |config, text| set(&mut config.mining.groups_per_window, text),
        show: |config| config.mining.groups_per_window.to_string(),
    },
    Variable {
        name: "GRAIL_MINING_GROUPS_AT_ONCE",
        key: "mining.groups_at_once",
        meaning: "groups that the model makes at the same time: more use the processor better, fewer \
                  waste less when the window ends",
        set: |config, text| set(&mut config.mining.groups_at_once, text),
        show: |config| config.mining.groups_at_once.to_string(),
    },
    Variable {
        name: "GRAIL_MINING_SAFETY_BLOCKS",
        key: "mining.safety_blocks",
        meaning: "blocks kept free before the deadline",
        set: |config, text| set(&mut config.mining.safety_blocks, text),
        show: |config| config.mining.safety_blocks.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_GROUPS_CHECKED",
        key: "validation.groups_checked",
        meaning: "most groups of a file that are recomputed",
        set: |config, text| set(&mut config.validation.groups_checked, text),
        show: |config| config.validation.groups_checked.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_MINERS_CHECKED",
        key: "validation.miners_checked",
        meaning: "most miners judged in a window; those judged least often come first",
        set: |config, text| set(&mut config.validation.miners_checked, text),
        show: |config| config.validation.miners_checked.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_JUDGEMENT",
        key: "validation.judgement",
        meaning: "how miners are judged over time: `sequential` (by evidence, docs/judgement.md) or \
                  `reference` (one failure costs the scored windows)",
        set: |config, text| set(&mut config.validation.judgement, text),
        show: |config| config.validation.judgement.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_EJECTION_BOUND",
        key: "validation.ejection_bound",
        meaning: "`sequential`: largest probability that an honest miner is ever ejected, above 0, \
                  below 1",
        set: |config, text| set(&mut config.validation.ejection_bound, text),
        show: |config| config.validation.ejection_bound.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_EJECTION_WINDOWS",
        key: "validation.ejection_windows",
        meaning: "`sequential`: windows that an ejection lasts; use 240 (a day) on a public network",
        set: |config, text| set(&mut config.validation.ejection_windows, text),
        show: |config| config.validation.ejection_windows.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_JUDGE_EJECTED",
        key: "validation.judge_ejected",
        meaning: "`sequential`: whether files of ejected miners are checked and explained all the \
                  same, for no weight; use false on a public network",
        set: |config, text| set(&mut config.validation.judge_ejected, text),
        show: |config| config.validation.judge_ejected.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_FAILURE_LOOKBACK_WINDOWS",
        key: "validation.failure_lookback_windows",
        meaning: "`reference`: windows for which a miner that broke a rule is not judged again, 0 \
                  judges it at once",
        set: |config, text| set(&mut config.validation.failure_lookback_windows, text),
        show: |config| config.validation.failure_lookback_windows.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_WEIGHTS_INTERVAL_BLOCKS",
        key: "validation.weights_interval_blocks",
        meaning: "blocks in an interval; weights are set once in each",
        set: |config, text| set(&mut config.validation.weights_interval_blocks, text),
        show: |config| config.validation.weights_interval_blocks.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_WARMUP_WINDOWS",
        key: "validation.warmup_windows",
        meaning: "windows that a fresh validator processes before it sets weights",
        set: |config, text| set(&mut config.validation.warmup_windows, text),
        show: |config| config.validation.warmup_windows.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_SCORING_WINDOWS",
        key: "validation.scoring_windows",
        meaning: "windows that count for a score, up to and including the last",
        set: |config, text| set(&mut config.validation.scoring_windows, text),
        show: |config| config.validation.scoring_windows.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_ROLLOUTS_CAP",
        key: "validation.rollouts_cap",
        meaning: "most rollouts per miner and window that count, 0 means all of `mining.groups_per_window`",
        set: |config, text| set(&mut config.validation.rollouts_cap, text),
        show: |config| config.validation.rollouts_cap.to_string(),
    },
    Variable {
        name: "GRAIL_VALIDATION_BURN_PERCENT",
        key: "validation.burn_percent",
        meaning: "share of the weight that uid 0 gets at least, percent, above 0",
        set: |config, text| set(&mut config.validation.burn_percent, text),
        show: |config| config.validation.burn_percent.to_string(),
    },
    Variable {
        name: "GRAIL_CALIBRATION_PATHS",
        key: "calibration.paths",
        meaning: "calibrations of engines that are not exact: files, or folders of `.json` files, with \
                  commas between them; without one an engine is measured but neither paid nor punished",
        set: |config, text| set_list(&mut config.calibration.paths, text),
        show: |config| show_list(config.calibration.paths.iter().map(|path| path.display())),
    },
    Variable {
        name: "GRAIL_CALIBRATION_SIGNERS",
        key: "calibration.signers",
        meaning: "hotkeys whose calibrations are used, with commas between them",
        set: |config, text| set_list(&mut config.calibration.signers, text),
        show: |config| show_list(&config.calibration.signers),
    },
    Variable {
        name: "GRAIL_CALIBRATION_AGE_WINDOWS",
        key: "calibration.age_windows",
        meaning: "most windows between a checkpoint and the one that a calibration was measured on",
        set: |config, text| set(&mut config.calibration.age_windows, text),
        show: |config| config.calibration.age_windows.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_LEARNING_RATE",
        key: "training.learning_rate",
        meaning: "learning rate of AdamW, above 0",
        set: |config, text| set(&mut config.training.learning_rate, text),
        show: |config| config.training.learning_rate.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_WEIGHT_DECAY",
        key: "training.weight_decay",
        meaning: "decoupled weight decay, 0 to 1",
        set: |config, text| set(&mut config.training.weight_decay, text),
        show: |config| config.training.weight_decay.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_GRAD_CLIP",
        key: "training.grad_clip",
        meaning: "largest norm of the gradient, above 0",
        set: |config, text| set(&mut config.training.grad_clip, text),
        show: |config| config.training.grad_clip.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_EPOCHS",
        key: "training.epochs",
        meaning: "times that every group of a window is used",
        set: |config, text| set(&mut config.training.epochs, text),
        show: |config| config.training.epochs.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_GROUPS_PER_STEP",
        key: "training.groups_per_step",
        meaning: "groups in an optimiser step",
        set: |config, text| set(&mut config.training.groups_per_step, text),
        show: |config| config.training.groups_per_step.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_GROUPS",
        key: "training.groups",
        meaning: "most groups of a window that are used",
        set: |config, text| set(&mut config.training.groups, text),
        show: |config| config.training.groups.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_ADVANTAGE_ESTIMATOR",
        key: "training.advantage_estimator",
        meaning: "how rewards of a group are compared: `grpo` (by their deviation), `dr_grpo` (from their mean) or `dapo` (by rank)",
        set: |config, text| set(&mut config.training.advantage_estimator, text),
        show: |config| config.training.advantage_estimator.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_LOSS_VARIANT",
        key: "training.loss_variant",
        meaning: "what a token's loss is divided by: `grpo`, `bnpo`, `dapo` or `dr_grpo`, see docs/training.md",
        set: |config, text| set(&mut config.training.loss_variant, text),
        show: |config| config.training.loss_variant.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_IMPORTANCE_LEVEL",
        key: "training.importance_level",
        meaning: "what an importance ratio speaks of: `token` or `sequence`",
        set: |config, text| set(&mut config.training.importance_level, text),
        show: |config| config.training.importance_level.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_CLIP_LOW",
        key: "training.clip_low",
        meaning: "the importance ratio is clipped below at 1 minus this, 0 to 1",
        set: |config, text| set(&mut config.training.clip_low, text),
        show: |config| config.training.clip_low.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_CLIP_HIGH",
        key: "training.clip_high",
        meaning: "the importance ratio is clipped above at 1 plus this, from 0",
        set: |config, text| set(&mut config.training.clip_high, text),
        show: |config| config.training.clip_high.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_KL_COEF",
        key: "training.kl_coef",
        meaning: "weight of the distance to the model that training began with, from 0; above 0 that model is held in memory too",
        set: |config, text| set(&mut config.training.kl_coef, text),
        show: |config| config.training.kl_coef.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_ENTROPY_COEF",
        key: "training.entropy_coef",
        meaning: "weight of the policy's entropy, from 0",
        set: |config, text| set(&mut config.training.entropy_coef, text),
        show: |config| config.training.entropy_coef.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_REPLAY_WINDOWS",
        key: "training.replay_windows",
        meaning: "windows whose rollouts are used: 1 for the newest alone, up to 64",
        set: |config, text| set(&mut config.training.replay_windows, text),
        show: |config| config.training.replay_windows.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_EVALUATION_PROBLEMS",
        key: "training.evaluation_problems",
        meaning: "held-out problems of an evaluation, 1 to 100000",
        set: |config, text| set(&mut config.training.evaluation_problems, text),
        show: |config| config.training.evaluation_problems.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_EVALUATE_EVERY",
        key: "training.evaluate_every",
        meaning: "checkpoints between two evaluations",
        set: |config, text| set(&mut config.training.evaluate_every, text),
        show: |config| config.training.evaluate_every.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_RETENTION_WINDOWS",
        key: "training.retention_windows",
        meaning: "windows back from the head whose checkpoints stay in the bucket, at least 4",
        set: |config, text| set(&mut config.training.retention_windows, text),
        show: |config| config.training.retention_windows.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_ACTIVATIONS_BYTES_MAX",
        key: "training.activations_bytes_max",
        meaning: "memory for activations between forward and backward pass, bytes; what does not fit is computed twice",
        set: |config, text| set(&mut config.training.activations_bytes_max, text),
        show: |config| config.training.activations_bytes_max.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_LORA_RANK",
        key: "training.lora_rank",
        meaning: "rank of LoRA pairs, 1 to 256; 0 trains the whole model",
        set: |config, text| set(&mut config.training.lora_rank, text),
        show: |config| config.training.lora_rank.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_LORA_ALPHA",
        key: "training.lora_alpha",
        meaning: "divided by the rank, the factor of what a LoRA pair adds, at least 1",
        set: |config, text| set(&mut config.training.lora_alpha, text),
        show: |config| config.training.lora_alpha.to_string(),
    },
    Variable {
        name: "GRAIL_TRAINING_LORA_TARGETS",
        key: "training.lora_targets",
        meaning: "projections that get a LoRA pair, with commas between them",
        set: |config, text| set(&mut config.training.lora_targets, text),
        show: |config| config.training.lora_targets.to_string(),
    },
];

fn set<T: FromStr<Err: Display>>(field: &mut T, text: &str) -> Result<(), String> {
    *field = text.trim().parse().map_err(|error| format!("`{text}` cannot be used: {error}"))?;
    Ok(())
}

fn set_some<T: FromStr<Err: Display>>(field: &mut Option<T>, text: &str) -> Result<(), String> {
    *field =
        Some(text.trim().parse().map_err(|error| format!("`{text}` cannot be used: {error}"))?);
    Ok(())
}

fn set_path(field: &mut Option<PathBuf>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty; unset it, or name a path".to_owned());
    }
    *field = Some(PathBuf::from(text));
    Ok(())
}

fn show_path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn set_list<T: FromStr<Err: Display>>(list: &mut Vec<T>, text: &str) -> Result<(), String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let read =
        |item: &str| item.parse().map_err(|error| format!("`{item}` cannot be used: {error}"));
    *list = items.map(read).collect::<Result<_, _>>()?;
    Ok(())
}

fn show_list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn set_roles(roles: &mut Vec<crate::config::OutsideRole>, text: &str) -> Result<(), String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    *roles = names
        .map(|name| {
            clap::ValueEnum::from_str(name, false)
                .map_err(|_| format!("`{name}` is no role; use validator or trainer"))
        })
        .collect::<Result<_, _>>()?;
    Ok(())
}

fn show_roles(roles: &[crate::config::OutsideRole]) -> String {
    let names: Vec<String> = roles
        .iter()
        .filter_map(clap::ValueEnum::to_possible_value)
        .map(|value| value.get_name().to_owned())
        .collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Set to write the documentation instead of comparing it.
    const WRITE_DOCS: &str = "GRAIL_TEST_WRITE_DOCS";
    const BEGIN: &str = "<!-- the table below is generated; see CONTRIBUTING.md -->\n";

    fn keys_of(config: &Config) -> BTreeSet<String> {
        let table = toml::Table::try_from(config).unwrap();
        let sections = table.iter().flat_map(|(section, keys)| {
            keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
        });
        sections.collect()
    }

    /// A configuration in which every setting that may be absent is there.
    fn full() -> Config {
        let mut config = Config::default();
        config.network.dir = Some("d".into());
        config.network.wallet = Some("w".to_owned());
        config.localnet.model = Some("m".into());
        config.environment.difficulty = Some(1);
        config
    }

    #[test]
    fn every_setting_has_a_variable_named_after_it() {
        let listed: BTreeSet<String> =
            VARIABLES.iter().map(|variable| variable.key.to_owned()).collect();
        assert_eq!(listed, keys_of(&full()));
        for variable in VARIABLES {
            let name = variable.key.to_uppercase().replace('.', "_");
            assert_eq!(variable.name, format!("{PREFIX}{name}"));
        }
    }

    /// A hotkey.
    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn every_variable_sets_what_it_shows_and_nothing_else() {
        for variable in VARIABLES {
            let other = match (variable.show)(&full()).as_str() {
                "true" => "false".to_owned(),
                "false" => "true".to_owned(),
                "1s" => "2s".to_owned(),
                "sequential" => "reference".to_owned(),
                number if number.parse::<f64>().is_ok() => "3".to_owned(),
                _ if variable.key == "localnet.without" => "validator,trainer".to_owned(),
                _ if variable.key == "engine.runtime" => "bf16".to_owned(),
                _ if variable.key == "calibration.signers" => ALICE.to_owned(),
                _ if variable.key == "training.lora_targets" => "q_proj,up_proj".to_owned(),
                _ if variable.key == "training.advantage_estimator" => "dapo".to_owned(),
                _ if variable.key == "training.loss_variant" => "grpo".to_owned(),
                _ if variable.key == "training.importance_level" => "sequence".to_owned(),
                _ => "other".to_owned(),
            };
            let mut config = full();
            (variable.set)(&mut config, &other).unwrap();
            assert_eq!((variable.show)(&config), other, "{}", variable.name);
            for unchanged in VARIABLES.iter().filter(|it| it.name != variable.name) {
                let shown = (unchanged.show)(&config);
                assert_eq!(
                    shown,
                    (unchanged.show)(&full()),
                    "{} by {}",
                    unchanged.key,
                    variable.key
                );
            }
        }
    }

    fn table() -> String {
        let cell =
            |text: String| if text.is_empty() { "–".to_owned() } else { format!("`{text}`") };
        let mut table = String::from(
            "| key | variable | default | with a model of your own | meaning |\n|---|---|---|---|---|\n",
        );
        for variable in VARIABLES {
            let (default, own) =
                ((variable.show)(&Config::default()), (variable.show)(&Config::for_own_model()));
            let own = if own == default { String::new() } else { cell(own) };
            table += &format!(
                "| `{}` | `{}` | {} | {own} | {} |\n",
                variable.key,
                variable.name,
                cell(default),
                variable.meaning
            );
        }
        table
    }

    #[test]
    fn the_documentation_lists_every_variable() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, written) = text.split_once(BEGIN).expect("the marker is there");
        if std::env::var_os(WRITE_DOCS).is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{}", table())).unwrap();
            return;
        }
        assert_eq!(written, table(), "run the tests once with {WRITE_DOCS}=1 to write the table");
    }
}
