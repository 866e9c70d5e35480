//! Variables of the machine: what runs, how it is told, how it is computed.

use super::Variable;
use super::values::{set, set_some};

/// In the order of the configuration.
pub(super) const VARIABLES: &[Variable] = &[
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
        name: "GRAIL_STATUS_LISTEN",
        key: "status.listen",
        meaning: "address such as 127.0.0.1:9200 where `mine`, `validate` and `train` serve the pages \
                  `/health` and `/metrics` (docs/metrics.md); without it there are none",
        set: |config, text| set_some(&mut config.status.listen, text),
        show: |config| config.status.listen.map(|it| it.to_string()).unwrap_or_default(),
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
];
