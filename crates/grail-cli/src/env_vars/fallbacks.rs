//! Variables of the reference and of Bittensor's tools that stand in for settings on real networks.
//!
//! They come before the file, so that whatever is said to this program itself wins.

use std::time::Duration;

use grail_infrastructure::subtensor::network::{NAMES, Network};

use super::Variable;
use super::values::{set, set_path, set_some, show_path};
use crate::config::{AddressStyle, CUSTOM_NETWORK, LOCAL_NETWORK};
use crate::human_duration::HumanDuration;

/// Those that choose the network, in the order in which they are laid over each other.
pub const NETWORK: &[Variable] = &[
    Variable {
        name: "BT_NETWORK",
        key: "network.name",
        meaning: "a name that is not known is an error, and not finney as in the reference",
        set: |config, text| {
            if !NAMES.contains(&text) {
                return Err(format!("`{text}` is no network: {}", NAMES.join(", ")));
            }
            set(&mut config.network.name, text)
        },
        show: |config| config.network.name.clone(),
    },
    Variable {
        name: "BT_CHAIN_ENDPOINT",
        key: "network.endpoints",
        meaning: "one node; without BT_NETWORK the network is called custom",
        set: |config, text| {
            Network::parse(text).map_err(|error| error.to_string())?;
            if config.network.name == LOCAL_NETWORK {
                CUSTOM_NETWORK.clone_into(&mut config.network.name);
            }
            config.network.endpoints = vec![text.to_owned()];
            Ok(())
        },
        show: |config| config.network.endpoints.join(","),
    },
];

/// The others, which count on real networks only.
pub const OTHERS: &[Variable] = &[
    Variable {
        name: "NETUID",
        key: "network.netuid",
        meaning: "",
        set: |config, text| set_some(&mut config.network.netuid, text),
        show: |config| config.network.netuid.map(|netuid| netuid.to_string()).unwrap_or_default(),
    },
    Variable {
        name: "BT_NETUID",
        key: "network.netuid",
        meaning: "wins over NETUID, as in the reference's miner",
        set: |config, text| set_some(&mut config.network.netuid, text),
        show: |config| config.network.netuid.map(|netuid| netuid.to_string()).unwrap_or_default(),
    },
    Variable {
        name: "BT_CALL_TIMEOUT",
        key: "network.call_timeout",
        meaning: "in seconds",
        set: |config, text| set_seconds(&mut config.network.call_timeout, text),
        show: |config| Duration::from(config.network.call_timeout).as_secs_f64().to_string(),
    },
    Variable {
        name: "BT_WALLET_PATH",
        key: "wallet.path",
        meaning: "",
        set: |config, text| set_path(&mut config.wallet.path, text),
        show: |config| show_path(config.wallet.path.as_ref()),
    },
    Variable {
        name: "BT_WALLET_NAME",
        key: "wallet.name",
        meaning: "the SDK's name for it",
        set: |config, text| set_some(&mut config.wallet.name, text),
        show: |config| config.wallet.name.clone().unwrap_or_default(),
    },
    Variable {
        name: "BT_WALLET_COLD",
        key: "wallet.name",
        meaning: "the reference's name for it, which wins over the SDK's",
        set: |config, text| set_some(&mut config.wallet.name, text),
        show: |config| config.wallet.name.clone().unwrap_or_default(),
    },
    Variable {
        name: "BT_WALLET_HOTKEY",
        key: "wallet.hotkey",
        meaning: "the SDK's name for it",
        set: |config, text| set(&mut config.wallet.hotkey, text),
        show: |config| config.wallet.hotkey.clone(),
    },
    Variable {
        name: "BT_WALLET_HOT",
        key: "wallet.hotkey",
        meaning: "the reference's name for it, which wins over the SDK's",
        set: |config, text| set(&mut config.wallet.hotkey, text),
        show: |config| config.wallet.hotkey.clone(),
    },
    Variable {
        name: "R2_ENDPOINT_URL",
        key: "store.endpoint",
        meaning: "",
        set: |config, text| set_some(&mut config.store.endpoint, text),
        show: |config| config.store.endpoint.clone().unwrap_or_default(),
    },
    Variable {
        name: "R2_REGION",
        key: "store.region",
        meaning: "",
        set: |config, text| set(&mut config.store.region, text),
        show: |config| config.store.region.clone(),
    },
    Variable {
        name: "R2_FORCE_PATH_STYLE",
        key: "store.addressing",
        meaning: "1, true or yes is path, anything else virtual-host",
        set: |config, text| {
            let word = text.to_ascii_lowercase();
            config.store.addressing = match ["1", "true", "yes"].contains(&word.as_str()) {
                true => AddressStyle::Path,
                false => AddressStyle::VirtualHost,
            };
            Ok(())
        },
        show: |config| (config.store.addressing == AddressStyle::Path).to_string(),
    },
];

/// Returns all of them.
#[cfg(test)]
pub fn all() -> impl Iterator<Item = &'static Variable> {
    [NETWORK, OTHERS].into_iter().flatten()
}

/// Reads a number of seconds.
fn set_seconds(field: &mut HumanDuration, text: &str) -> Result<(), String> {
    let seconds: f64 = text.trim().parse().map_err(|_| format!("`{text}` is no number"))?;
    let duration = Duration::try_from_secs_f64(seconds)
        .map_err(|error| format!("`{text}` cannot be used: {error}"))?;
    *field = duration.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_fallback_sets_what_it_shows() {
        for variable in all() {
            let value = match variable.name {
                "BT_NETWORK" => "test",
                "BT_CHAIN_ENDPOINT" => "ws://127.0.0.1:9944",
                "NETUID" | "BT_NETUID" => "7",
                "BT_CALL_TIMEOUT" => "2.5",
                "R2_FORCE_PATH_STYLE" => "true",
                _ => "other",
            };
            let mut config = Config::default();
            (variable.set)(&mut config, value).unwrap();
            assert_eq!((variable.show)(&config), value, "{}", variable.name);
        }
        let mut config = Config::default();
        let set = |name: &str, config: &mut Config, value: &str| {
            (all().find(|variable| variable.name == name).unwrap().set)(config, value)
        };
        set("BT_CHAIN_ENDPOINT", &mut config, "ws://127.0.0.1:9944").unwrap();
        assert_eq!(config.network.name, "custom");
        set("R2_FORCE_PATH_STYLE", &mut config, "false").unwrap();
        assert_eq!(config.store.addressing, AddressStyle::VirtualHost);
        for (name, value) in [
            ("BT_NETWORK", "fineny"),
            ("BT_CHAIN_ENDPOINT", "http://127.0.0.1"),
            ("NETUID", "many"),
            ("BT_CALL_TIMEOUT", "-1"),
            ("BT_CALL_TIMEOUT", "inf"),
        ] {
            assert!(set(name, &mut config, value).is_err(), "{name}={value}");
        }
    }
}
