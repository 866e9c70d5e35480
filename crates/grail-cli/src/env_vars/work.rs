//! Variables of mining and validation: what is generated, and how it is judged.

use super::Variable;
use super::values::{set, set_list, set_some, show_list};

/// In the order of the configuration.
pub(super) const VARIABLES: &[Variable] = &[
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
];
