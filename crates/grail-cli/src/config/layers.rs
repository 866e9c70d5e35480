//! Lays the file over the defaults, the environment over the file, and the flags over all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use grail_protocol::checkpoint::Protocol;

use super::Config;
use crate::env_vars::{self, Variable, fallbacks};
use crate::files::read_bounded;

/// Largest configuration file that is read; a full one has about 4 KiB.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        reason: String,
    },
    /// The file makes no sense.
    #[error("configuration file {path}: {reason}\nkeys are listed in docs/configuration.md")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        reason: String,
    },
    /// A variable's value makes no sense.
    #[error("environment variable {name}: {reason}; it sets {meaning}")]
    BadVariable {
        /// The variable.
        name: String,
        /// What is wrong with its value.
        reason: String,
        /// The setting and what it means.
        meaning: String,
    },
    /// A variable that starts with our prefix and is none of ours.
    #[error(
        "environment variable {0} is not known; unset it, or check its spelling in \
         docs/configuration.md"
    )]
    UnknownVariable(String),
    /// A setting is out of range, or two contradict each other.
    #[error("{key}: {reason}")]
    BadValue {
        /// Key of the setting, such as `localnet.windows`.
        key: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

/// Returns the checked configuration: defaults, file, variables, flags.
///
/// The path of the file is `file`, else the variable `GRAIL_CONFIG`. `flags` lays the flags over what
/// it is given. Which defaults hold depends on whether a model of the user's own is asked for, and on
/// the protocol.
///
/// # Errors
/// When the file, a variable or a setting cannot be understood; nothing is ignored silently.
pub fn resolve(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    flags: impl Fn(&mut Config),
) -> Result<Config, ConfigError> {
    let variables: Vec<_> = variables.into_iter().collect();
    let config = lay_on(&Config::default(), file, variables.clone(), &flags)?;
    let base = match (config.network.is_local(), &config.localnet.model) {
        (false, _) => Config::for_real_network(),
        (true, None) => Config::default(),
        (true, Some(_)) => Config::for_own_model(),
    };
    let base = match config.protocol.0 {
        Protocol::V6 => base,
        Protocol::V5 => base.for_reference(),
    };
    resolve_on(&base, file, variables, flags)
}

/// As [`resolve`], over `base` instead of the defaults.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_on(
    base: &Config,
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    flags: impl Fn(&mut Config),
) -> Result<Config, ConfigError> {
    let config = lay_on(base, file, variables, flags)?;
    config.check()?;
    Ok(config)
}

/// As [`resolve_on`], unchecked.
fn lay_on(
    base: &Config,
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    flags: impl Fn(&mut Config),
) -> Result<Config, ConfigError> {
    let variables: Vec<_> = variables.into_iter().collect();
    let theirs = |known: &'static [Variable]| variables_of_others(known, &variables);
    let ours = our_variables(variables.iter().cloned())?;
    let lay = |base: &Config| lay_ours(base, file, &ours, &flags);
    let mut config = base.clone();
    apply(&mut config, &theirs(fallbacks::NETWORK)?)?;
    let chosen = lay(&config)?;
    if chosen.network.is_local() {
        // What a user has set for Bittensor's tools says nothing about a local network.
        return lay(base);
    }
    apply(&mut config, &theirs(fallbacks::OTHERS)?)?;
    lay(&config)
}

/// Lays the file, our own variables and the flags over `base`.
fn lay_ours(
    base: &Config,
    file: Option<&Path>,
    ours: &[(String, String)],
    flags: &impl Fn(&mut Config),
) -> Result<Config, ConfigError> {
    let named = ours.iter().find(|(name, _)| name == env_vars::CONFIG_FILE);
    let file = file.map(Path::to_owned).or_else(|| named.map(|(_, path)| PathBuf::from(path)));
    let mut config = match file {
        Some(path) => read(base, &path)?,
        None => base.clone(),
    };
    for (name, value) in ours {
        if let Some(variable) = env_vars::all().find(|variable| variable.name == name) {
            (variable.set)(&mut config, value).map_err(|reason| bad(variable, reason))?;
        }
    }
    flags(&mut config);
    Ok(config)
}

/// Lays the values of `variables` over `config`, in their order.
fn apply(config: &mut Config, variables: &[(&Variable, String)]) -> Result<(), ConfigError> {
    for (variable, value) in variables {
        (variable.set)(config, value).map_err(|reason| bad(variable, reason))?;
    }
    Ok(())
}

/// Returns those of `known` that are set and not empty.
fn variables_of_others(
    known: &'static [Variable],
    variables: &[(OsString, OsString)],
) -> Result<Vec<(&'static Variable, String)>, ConfigError> {
    let mut found = Vec::new();
    for variable in known {
        let value = variables.iter().find(|(name, _)| name == variable.name);
        let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()) else { continue };
        let text = value.to_str();
        let text = text.ok_or_else(|| bad(variable, "its value is not UTF-8 text".to_owned()))?;
        found.push((variable, text.to_owned()));
    }
    Ok(found)
}

fn bad(variable: &Variable, reason: String) -> ConfigError {
    let name = variable.name.to_owned();
    let meaning = match variable.meaning {
        "" => variable.key.to_owned(),
        meaning => format!("{} ({meaning})", variable.key),
    };
    ConfigError::BadVariable { name, reason, meaning }
}

/// Lays the configuration file at `path` over `base`.
///
/// # Errors
/// When it cannot be read or holds a key that is not known.
pub fn read(base: &Config, path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    let bytes =
        read_bounded(path, CONFIG_BYTES_MAX).map_err(|error| unreadable(error.to_string()))?;
    let text =
        String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
    // Read alone first, because only then does an error name line and column.
    let checked: Result<Config, _> = toml::from_str(&text);
    checked.and_then(|_| base.overlaid(&text)).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

/// Returns the variables with our prefix, as text, sorted by name.
fn our_variables(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut ours = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(env_vars::PREFIX)) else {
            continue;
        };
        if name.starts_with(env_vars::TEST_PREFIX) || name == env_vars::VECTORS {
            continue;
        }
        let variable = env_vars::all().find(|variable| variable.name == name);
        if variable.is_none() && name != env_vars::CONFIG_FILE {
            return Err(ConfigError::UnknownVariable(name.to_owned()));
        }
        let Ok(value) = value.into_string() else {
            let reason = "its value is not UTF-8 text".to_owned();
            return Err(match variable {
                Some(variable) => bad(variable, reason),
                None => ConfigError::Unreadable { path: PathBuf::from(name), reason },
            });
        };
        ours.push((name.to_owned(), value));
    }
    ours.sort();
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grail.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn refused(path: Option<&Path>, pairs: &[(&str, &str)]) -> String {
        resolve(path, variables(pairs), |_| {}).unwrap_err().to_string()
    }

    #[test]
    fn flags_win_over_everything_and_the_result_is_checked() {
        let set = || variables(&[("GRAIL_LOCALNET_WINDOWS", "5")]);
        let config = resolve(None, set(), |config| config.localnet.windows = 7).unwrap();
        assert_eq!(config.localnet.windows, 7);
        let error = resolve(None, set(), |config| config.localnet.windows = 0).unwrap_err();
        assert!(error.to_string().contains("localnet.windows"), "{error}");
    }

    #[test]
    fn a_model_of_ones_own_brings_its_own_defaults_under_the_file() {
        let (_dir, path) = file("[localnet]\nmodel = \"m\"\n[mining]\ngroups_per_window = 9\n");
        let config = resolve(Some(&path), [], |_| {}).unwrap();
        let own = Config::for_own_model();
        assert_eq!(config.localnet.block_time, own.localnet.block_time);
        assert_eq!(config.training, own.training);
        assert_eq!(config.mining.groups_per_window, 9);
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let (_dir, path) = file("[localnet]\nwindows = 3\nminers = 4\n");
        let set = variables(&[("GRAIL_LOCALNET_MINERS", "5"), ("PATH", "/bin")]);
        let config = resolve(Some(&path), set, |_| {}).unwrap();
        assert_eq!((config.localnet.windows, config.localnet.miners), (3, 5));
        assert_eq!(config.localnet.cheaters, Config::default().localnet.cheaters);
    }

    #[test]
    fn variables_of_others_stand_in_on_real_networks_only() {
        let wallet = ("BT_WALLET_COLD", "cold");
        let local = resolve(None, variables(&[wallet, ("NETUID", "many")]), |_| {}).unwrap();
        assert_eq!(local, Config::default());
        let set = [wallet, ("BT_NETWORK", "test"), ("NETUID", "7"), ("R2_REGION", "")];
        let config = resolve(None, variables(&set), |_| {}).unwrap();
        assert_eq!((config.network.name.as_str(), config.network.netuid), ("test", Some(7)));
        assert_eq!(config.wallet.name.as_deref(), Some("cold"));
        assert_eq!(config.store, Config::for_real_network().store);
        assert_eq!(config.validation, Config::for_real_network().validation);
        let (_dir, path) = file("[network]\nnetuid = 9\n[wallet]\nname = \"filed\"\n");
        let config = resolve(Some(&path), variables(&set), |_| {}).unwrap();
        assert_eq!(config.network.netuid, Some(9), "the file wins");
        let error = refused(None, &[("BT_NETWORK", "fineny")]);
        assert!(error.contains("BT_NETWORK") && error.contains("network.name"), "{error}");
        let chosen = |config: &mut Config| config.network.name = "local".to_owned();
        assert_eq!(resolve(None, variables(&set), chosen).unwrap(), Config::default());
    }

    #[test]
    fn the_file_may_be_named_by_a_variable() {
        let (_dir, path) = file("[localnet]\nwindows = 3\n");
        let set = variables(&[("GRAIL_CONFIG", path.to_str().unwrap())]);
        assert_eq!(resolve(None, set, |_| {}).unwrap().localnet.windows, 3);
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        for (text, part) in [
            ("[localnet]\nwindow = 3\n", "window"),
            ("[locanet]\n", "locanet"),
            ("[localnet]\nwindows = \"three\"\n", "line 2"),
            ("[localnet\n", "line 1"),
        ] {
            let (_dir, path) = file(text);
            let error = refused(Some(&path), &[]);
            assert!(error.contains(part), "{text:?} gives {error}");
        }
        let error = refused(None, &[("GRAIL_LOCALNET_WINDOW", "3")]);
        assert!(error.contains("GRAIL_LOCALNET_WINDOW is not known"), "{error}");
        let error = refused(None, &[("GRAIL_LOCALNET_WINDOWS", "many")]);
        assert!(error.contains("GRAIL_LOCALNET_WINDOWS: `many`"), "{error}");
        for tests in ["GRAIL_TEST_MODEL", "GRAIL_VECTORS"] {
            assert!(resolve(None, variables(&[(tests, "/a/path")]), |_| {}).is_ok(), "{tests}");
        }
    }

    #[test]
    fn an_absent_huge_or_binary_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        refused(Some(&dir.path().join("absent.toml")), &[]);
        let path = dir.path().join("grail.toml");
        std::fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        assert!(refused(Some(&path), &[]).contains("more than"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(refused(Some(&path), &[]).contains("UTF-8"));
    }
}
