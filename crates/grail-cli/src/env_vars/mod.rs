//! Every environment variable: its setting, meaning, unit and default.
//!
//! A variable is named after its setting: `localnet.windows` is `GRAIL_LOCALNET_WINDOWS`. The table in
//! `docs/configuration.md` is made from this one; a test fails when they differ.

pub mod fallbacks;
mod localnet;
mod machine;
mod outside;
mod training;
mod values;
mod work;

use crate::config::Config;

/// What all our variables start with.
pub const PREFIX: &str = "GRAIL_";
/// Variables that the tests use; the command ignores them.
pub const TEST_PREFIX: &str = "GRAIL_TEST_";
/// Folder of the vectors that the tests read instead of the project's own; ignored as well, since the
/// tests run the command.
pub const VECTORS: &str = "GRAIL_VECTORS";
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

/// Returns all variables, in the order of the configuration.
pub fn all() -> impl Iterator<Item = &'static Variable> {
    let parts = [
        machine::VARIABLES,
        outside::VARIABLES,
        localnet::VARIABLES,
        work::VARIABLES,
        training::VARIABLES,
    ];
    parts.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::human_duration::HumanDuration;

    /// Set to write the documentation instead of comparing it.
    const WRITE_DOCS: &str = "GRAIL_TEST_WRITE_DOCS";
    const BEGIN: &str = "<!-- the table below is generated; see CONTRIBUTING.md -->\n";

    const FALLBACKS_HEAD: &str = "\n## Variables of others\n\n\
        On real networks these stand in for settings that neither the file, nor a variable above, nor a\n\
        flag gives. Keys of buckets are in docs/storage.md.\n\n\
        | variable | setting | note |\n|---|---|---|\n";

    fn keys_of(config: &Config) -> BTreeSet<String> {
        let table = toml::Table::try_from(config).unwrap();
        let of_section = |(section, value): (&String, &toml::Value)| match value.as_table() {
            Some(keys) => keys.keys().map(|key| format!("{section}.{key}")).collect(),
            None => vec![section.clone()],
        };
        table.iter().flat_map(of_section).collect()
    }

    /// A configuration in which every setting that may be absent is there.
    fn full() -> Config {
        let mut config = Config::default();
        config.status.listen = Some(([127, 0, 0, 1], 1).into());
        config.network.dir = Some("d".into());
        config.network.netuid = Some(1);
        config.store.endpoint = Some("e".to_owned());
        config.store.bucket = Some("b".to_owned());
        config.store.keys_dir = Some("k".into());
        config.wallet.path = Some("p".into());
        config.wallet.name = Some("w".to_owned());
        config.wallet.password_file = Some("f".into());
        config.localnet.model = Some("m".into());
        config.training.model = Some("m".into());
        config.environment.difficulty = Some(1);
        config
    }

    #[test]
    fn every_setting_has_a_variable_named_after_it() {
        let listed: BTreeSet<String> = all().map(|variable| variable.key.to_owned()).collect();
        assert_eq!(listed, keys_of(&full()));
        for variable in all() {
            let name = variable.key.to_uppercase().replace('.', "_");
            assert_eq!(variable.name, format!("{PREFIX}{name}"));
        }
    }

    /// A hotkey.
    const ALICE: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";

    #[test]
    fn every_variable_sets_what_it_shows_and_nothing_else() {
        for variable in all() {
            let other = match (variable.show)(&full()).as_str() {
                "true" => "false".to_owned(),
                "false" => "true".to_owned(),
                time if time.parse::<HumanDuration>().is_ok() => "2s".to_owned(),
                "sequential" => "reference".to_owned(),
                number if number.parse::<f64>().is_ok() => "3".to_owned(),
                "v6" => "v5".to_owned(),
                _ if variable.key == "localnet.without" => "validator,trainer".to_owned(),
                _ if variable.key == "network.heads" => "subscribe".to_owned(),
                _ if variable.key == "status.listen" => "[::1]:9200".to_owned(),
                _ if variable.key == "beacon.chain" => "default".to_owned(),
                _ if variable.key == "store.kind" => "s3".to_owned(),
                _ if variable.key == "store.addressing" => "virtual-host".to_owned(),
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
            for unchanged in all().filter(|it| it.name != variable.name) {
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
            "| key | variable | default | own model | real network | meaning |\n\
             |---|---|---|---|---|---|\n",
        );
        for variable in all() {
            let default = (variable.show)(&Config::default());
            let (own, real) = (Config::for_own_model(), Config::for_real_network());
            let [own, real] = [own, real].map(|config| (variable.show)(&config));
            let other = |text: String| if text == default { String::new() } else { cell(text) };
            let (own, real) = (other(own), other(real));
            table += &format!(
                "| `{}` | `{}` | {} | {own} | {real} | {} |\n",
                variable.key,
                variable.name,
                cell(default),
                variable.meaning
            );
        }
        table + &fallback_table()
    }

    fn fallback_table() -> String {
        let mut table = String::from(FALLBACKS_HEAD);
        for variable in fallbacks::all() {
            let Variable { name, key, meaning, .. } = variable;
            table += &format!("| `{name}` | `{key}` | {meaning} |\n");
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
