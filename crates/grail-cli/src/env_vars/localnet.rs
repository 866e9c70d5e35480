//! Variables of the embedded network.

use super::Variable;
use super::values::{set, set_path, set_roles, show_path, show_roles};

/// In the order of the configuration.
pub(super) const VARIABLES: &[Variable] = &[
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
