//! Makes a network's folder, or opens one again: everything that happens before the first block.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use grail_infrastructure::local::chain::state::ChainRules;
use grail_infrastructure::local::network::{
    LocalNetwork, NetworkConfig, NetworkRole, NeuronConfig,
};
use grail_model::Provider;
use grail_ports::environment::Environment;
use grail_ports::model::{ModelInfo, ModelProvider};

use super::roster::{Duty, Member, ZERO_SKETCHES, members, network_seed};
use super::{layout, runs, stores};
use crate::base_model::{self, BaseModel};
use crate::config::Config;
use crate::engine;
use crate::files::write_atomically;
use crate::report::Setup;

/// Time of block 0: a fixed one, so that equal seeds give equal networks. Time on a local chain is
/// counted in blocks and means nothing outside of it. 2026-01-01T00:00:00Z.
const GENESIS_MS: u64 = 1_767_225_600_000;
/// Stake of the validator, in the chain's smallest unit.
const VALIDATOR_STAKE: u64 = 1_000_000_000_000;

/// A network that is ready to start.
pub struct Prepared {
    /// Its settings.
    pub config: Config,
    /// Its folder, held by this process.
    pub network: LocalNetwork,
    /// The engine.
    pub provider: Arc<Provider>,
    /// The environment.
    pub environment: Arc<dyn Environment>,
    /// Folder of the model that it started from.
    pub base: PathBuf,
    /// What the report says of all this.
    pub setup: Setup,
}

/// Makes a new network.
pub struct Founding {
    dir: Option<PathBuf>,
}

impl Founding {
    /// The network will live in `dir`, else in the next numbered run.
    pub fn new(dir: Option<&Path>) -> Self {
        Self { dir: dir.map(Path::to_owned) }
    }

    /// Checks everything that can be checked without a folder, then makes it.
    pub fn found(self, mut config: Config) -> Result<Prepared> {
        stores::choose_names(&mut config);
        stores::check(&config.store)?;
        let environment = config.environment.create_for(config.protocol.0)?;
        let provider = engine::exact_provider(config.engine, config.training.trainer())?;
        let runs = Path::new(runs::RUNS_DIR);
        let parent = match &self.dir {
            Some(dir) => parent_of(dir),
            None => runs.to_owned(),
        };
        let base =
            BaseModel::prepare(config.localnet.model.as_deref(), &parent, config.protocol.0)?;
        let info = try_model(&provider, base.dir(), &config, &*environment)?;

        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => runs::make_next(runs)?,
        };
        let network = LocalNetwork::create(&dir, &network_config(&config)?)
            .with_context(|| format!("while making a network in {}", dir.display()))?;
        let base = base.settle(&dir)?;
        save(&config, &dir)?;
        if self.dir.is_none() {
            runs::set_current(runs, &dir)?;
        }
        let setup = describe(&config, &network, &info, &*environment);
        Ok(Prepared { config, network, provider, environment, base, setup })
    }
}

impl Prepared {
    /// Opens the network in `dir` again.
    pub fn resume(dir: &Path, config: Config) -> Result<Self> {
        let network = LocalNetwork::open(dir)
            .with_context(|| format!("while opening the network in {}", dir.display()))?;
        let environment = config.environment.create_for(config.protocol.0)?;
        let provider = engine::exact_provider(config.engine, config.training.trainer())?;
        let base = base_model::of_network(dir, config.localnet.model.as_deref())?;
        let info = try_model(&provider, &base, &config, &*environment)?;
        save(&config, dir)?;
        let setup = describe(&config, &network, &info, &*environment);
        Ok(Self { config, network, provider, environment, base, setup })
    }
}

/// Loads the model and poses it a problem: what does not fit together shows before the first block.
fn try_model(
    provider: &Provider,
    dir: &Path,
    config: &Config,
    environment: &dyn Environment,
) -> Result<ModelInfo> {
    let model = provider.load(dir).with_context(|| format!("while loading {}", dir.display()))?;
    let prompt = model.render(&environment.prompt(0)).context("while rendering a first problem")?;
    let info = model.info().clone();
    let room = usize::try_from(info.max_position_embeddings).unwrap_or(usize::MAX);
    let wanted = usize::try_from(config.sampling.max_new_tokens).unwrap_or(usize::MAX);
    anyhow::ensure!(
        prompt.len().saturating_add(wanted) <= room,
        "a problem of {} tokens and an answer of {wanted} do not fit into the model's {room}; set \
         sampling.max_new_tokens lower, or choose another environment",
        prompt.len()
    );
    Ok(info)
}

fn network_config(config: &Config) -> Result<NetworkConfig> {
    let cheats = config.cheats()?;
    let rules = ChainRules {
        block_time_ms: config.localnet.block_time.as_millis(),
        // Half an interval, so that a validator that was late once can keep its rhythm.
        weights_rate_limit: config.validation.weights_interval_blocks / 2,
        ..ChainRules::local(GENESIS_MS)
    };
    let neurons = members(config, &cheats).iter().map(neuron_config).collect();
    Ok(NetworkConfig {
        // Rounds come out between blocks, so a window's randomness is there within a block time.
        beacon_period_ms: rules.block_time_ms,
        rules,
        neurons,
        seed: Some(network_seed(config.localnet.seed)),
    })
}

fn neuron_config(member: &Member) -> NeuronConfig {
    let (role, cheat, stake) = match &member.duty {
        Duty::Trainer => (NetworkRole::Trainer, None, 0),
        Duty::Validator => (NetworkRole::Validator, None, VALIDATOR_STAKE),
        Duty::Miner => (NetworkRole::Miner, None, 0),
        Duty::Cheater(cheats) => {
            let names = cheats.first().map_or(ZERO_SKETCHES, |first| match cheats.len() {
                1 => first.name(),
                _ => "several",
            });
            (NetworkRole::Miner, Some(names.to_owned()), 0)
        }
    };
    NeuronConfig { name: member.name.clone(), role, cheat, stake }
}

/// Keeps the settings for a resumed run and for roles that join.
fn save(config: &Config, dir: &Path) -> Result<()> {
    let mut kept = config.clone();
    // Where the folder lies and who acts is the business of each process.
    kept.network.dir = None;
    kept.wallet = crate::config::WalletConfig::default();
    kept.log = crate::config::LogConfig::default();
    if let Some(model) = &kept.localnet.model {
        kept.localnet.model = Some(std::path::absolute(model)?);
    }
    if let Some(keys) = &kept.store.keys_dir {
        kept.store.keys_dir = Some(std::path::absolute(keys)?);
    }
    let text = toml::to_string(&kept).context("while writing the settings as TOML")?;
    let path = layout::config(dir);
    write_atomically(&path, text.as_bytes())
        .with_context(|| format!("while writing {}", path.display()))
}

fn describe(
    config: &Config,
    network: &LocalNetwork,
    info: &ModelInfo,
    environment: &dyn Environment,
) -> Setup {
    let file = network.file();
    Setup {
        protocol: config.protocol.to_string(),
        network: file.name,
        netuid: file.netuid.0,
        block_time_ms: file.block_time_ms,
        seed: config.localnet.seed,
        model: match &config.localnet.model {
            Some(path) => path.display().to_string(),
            None => "embedded".to_owned(),
        },
        architecture: info.architecture.clone(),
        parameters: info.parameters,
        numerics: info.numerics.clone(),
        environment: environment.id().to_owned(),
        environment_params: environment.params_json(),
        temperature: config.sampling.temperature,
        max_new_tokens: config.sampling.max_new_tokens,
        threads: engine::threads(config.engine),
    }
}

fn parent_of(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
