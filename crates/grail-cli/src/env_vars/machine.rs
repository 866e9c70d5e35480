//! Variables of the machine and the network: what runs, and where.

use super::Variable;
use super::values::{set, set_path, set_roles, set_some, show_path, show_roles};

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
        name: "GRAIL_WALLET_PATH",
        key: "wallet.path",
        meaning: "folder of wallets; without it that of the local network, and on other networks \
                  `~/.bittensor/wallets`",
        set: |config, text| set_path(&mut config.wallet.path, text),
        show: |config| show_path(config.wallet.path.as_ref()),
    },
    Variable {
        name: "GRAIL_WALLET_NAME",
        key: "wallet.name",
        meaning: "wallet to act with; without it `default`, and on a local network `miner`, \
                  `validator` or `trainer`, as the role",
        set: |config, text| set_some(&mut config.wallet.name, text),
        show: |config| config.wallet.name.clone().unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_WALLET_HOTKEY",
        key: "wallet.hotkey",
        meaning: "hotkey of the wallet to act with",
        set: |config, text| set(&mut config.wallet.hotkey, text),
        show: |config| config.wallet.hotkey.clone(),
    },
    Variable {
        name: "GRAIL_WALLET_PASSWORD_FILE",
        key: "wallet.password_file",
        meaning: "file whose first line is the password of encrypted keys; the password itself is no \
                  setting",
        set: |config, text| set_path(&mut config.wallet.password_file, text),
        show: |config| show_path(config.wallet.password_file.as_ref()),
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
];
