//! A subnet over the adapters of the real world: an embedded chain and beacon that misbehave in the
//! middle of a run. Nobody honest is blamed, and everything goes on by itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use grail_infrastructure::local::chain::LocalChain;
use grail_infrastructure::local::network::{LocalNetwork, NetworkConfig, Node};
use grail_infrastructure::local::rpc::{Fault, Runtime};
use grail_infrastructure::local::server::Server;
use grail_neurons::health::Health;
use grail_neurons::lifecycle::{LifecycleConfig, NeuronExit, run_neuron};
use grail_neurons::neuron::Neuron as _;
use grail_neurons::roles::{MinerNeuron, TrainerNeuron, ValidatorNeuron};
use grail_ports::environment::Environment;
use grail_ports::events::{Event, EventSink};
use grail_ports::model::StopFlag;
use grail_protocol::ids::{BlockNumber, Hotkey, Window};
use grail_protocol::keys;
use grail_services::context::{Heartbeat, RunContext};
use grail_services::mining::pace::MiningConfig;
use grail_services::mining::service::MiningService;
use grail_services::training::evaluation::HeldOut;
use grail_services::training::service::TrainingService;
use grail_services::validation::calibrations::CalibrationSource;
use grail_services::validation::service::ValidationService;
use grail_testkit::{FakeModel, FakeProvider};
use support::{Sandbox, judgements, settle, training_config, validation_config, window};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

const GENESIS_MS: u64 = 1_700_000_000_000;
/// Blocks that the final head is behind, so that forks have room.
const LAG: u64 = 3;
/// Far more than anything here takes: what hangs must fail the test, not stop it.
const PATIENCE: Duration = Duration::from_secs(120);

const ROLES: [&str; 3] = ["trainer", "validator", "miner-1"];

/// An event sink that tells that there is something new.
struct Told {
    role: &'static str,
    events: watch::Sender<Vec<(&'static str, Event)>>,
}

impl EventSink for Told {
    fn emit(&self, event: Event) {
        self.events.send_modify(|events| events.push((self.role, event)));
    }
}

/// An embedded network with everything that three roles need.
struct Subnet {
    network: LocalNetwork,
    server: Option<(Server, CancellationToken)>,
    nodes: BTreeMap<&'static str, Node>,
    models: Arc<FakeProvider>,
    environment: Arc<Sandbox>,
    events: watch::Sender<Vec<(&'static str, Event)>>,
    folder: tempfile::TempDir,
}

impl Subnet {
    async fn new(block_time_ms: u64) -> Self {
        let folder = support::scratch();
        let mut config = NetworkConfig::local(GENESIS_MS, 1);
        config.seed = Some([7; 32]);
        config.beacon_period_ms = block_time_ms;
        config.rules.block_time_ms = block_time_ms;
        config.rules.weights_rate_limit = 1;
        config.rules.finality_lag = LAG;
        let network = LocalNetwork::create(&folder.path().join("net"), &config).unwrap();
        FakeModel::new(7).write(&folder.path().join("base")).unwrap();
        let mut subnet = Self {
            network,
            server: None,
            nodes: BTreeMap::new(),
            models: Arc::default(),
            environment: Arc::default(),
            events: watch::Sender::default(),
            folder,
        };
        subnet.serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        for role in ROLES {
            let node = subnet.network.node(role).await.unwrap();
            subnet.nodes.insert(role, node);
        }
        subnet
    }

    async fn serve(&mut self, address: SocketAddr) {
        let stop = CancellationToken::new();
        let server = self.network.serve(address, stop.clone()).await.unwrap();
        self.server = Some((server, stop));
    }

    /// Stops the server and starts it again at the same address.
    async fn restart(&mut self) {
        let (server, stop) = self.server.take().unwrap();
        let address = server.address();
        stop.cancel();
        server.stopped().await.unwrap();
        self.serve(address).await;
    }

    fn chain(&self) -> &Arc<LocalChain> {
        self.network.chain()
    }

    fn hotkey(&self, role: &str) -> Hotkey {
        self.nodes[role].entry.hotkey
    }

    fn context(&self, role: &'static str) -> RunContext {
        let (node, environment) = (&self.nodes[role], self.environment.clone());
        RunContext {
            chain: node.chain.clone(),
            beacon: node.beacon.clone(),
            buckets: node.buckets.clone(),
            signer: node.wallet.clone(),
            models: self.models.clone(),
            environments: Arc::new(move |_, _| Ok(environment.clone() as Arc<dyn Environment>)),
            events: Arc::new(Told { role, events: self.events.clone() }),
            state_dir: node.dir.clone(),
            stop: StopFlag::default(),
            heartbeat: Heartbeat::default(),
        }
    }

    fn trainer(&self) -> TrainerNeuron {
        let ctx = self.context("trainer");
        let held_out = HeldOut { problems: 4, seeds: Arc::new(u64::from), at_once: 4 };
        let (environment, base) = (self.environment.clone(), self.folder.path().join("base"));
        let service =
            TrainingService::new(ctx.clone(), training_config(), environment, held_out, base);
        TrainerNeuron::new(ctx, service)
    }

    fn validator(&self) -> ValidatorNeuron {
        let ctx = self.context("validator");
        let calibrations = CalibrationSource::default();
        let service = ValidationService::new(ctx.clone(), validation_config(), calibrations);
        ValidatorNeuron::new(ctx, service)
    }

    fn miner(&self) -> MinerNeuron {
        let ctx = self.context("miner-1");
        let block_time = Duration::from_millis(self.chain().rules().block_time_ms);
        let config = MiningConfig { groups_per_window: 1, block_time, ..MiningConfig::default() };
        MinerNeuron::new(ctx.clone(), MiningService::new(ctx, config))
    }

    /// Returns what `role` told so far.
    fn told(&self, role: &str) -> Vec<Event> {
        let events = self.events.borrow();
        events.iter().filter(|(of, _)| *of == role).map(|(_, event)| event.clone()).collect()
    }

    /// Fails if the miner, who is honest, was blamed for anything; returns its accepted windows.
    fn accepted(&self) -> Vec<Window> {
        let judged = judgements(&self.told("validator"));
        for ((window, hotkey), judged) in &judged {
            assert_eq!(*hotkey, self.hotkey("miner-1"));
            assert_eq!(judged.rejection, None, "window {window}");
            assert_eq!(judged.accepted, judged.checked, "window {window}");
        }
        judged.into_keys().map(|(window, _)| window).collect()
    }
}

/// Finishes the block being built whenever it has a call, for as long as the guard lives.
fn blocks_on_demand(chain: &Arc<LocalChain>) -> DropGuard {
    let (stop, chain) = (CancellationToken::new(), chain.clone());
    let stopped = stop.clone();
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        loop {
            looks.tick().await;
            if !chain.pending().is_empty() {
                chain.advance(1).unwrap();
            }
        }
    }));
    stop.drop_guard()
}

#[tokio::test]
async fn a_fork_that_takes_a_windows_first_block_costs_a_miner_nothing() {
    let subnet = Subnet::new(1_000).await;
    let chain = subnet.chain().clone();
    let _blocks = blocks_on_demand(&chain);
    let (mut trainer, mut validator) = (subnet.trainer(), subnet.validator());
    let mut miner = subnet.miner();
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    settle(&mut trainer, chain.head()).await;

    let to = |number: u64| chain.advance(number - chain.head().number.0).unwrap();
    let log = settle(&mut miner, to(31)).await;
    assert!(log.contains("blocks can still change"), "{log}");
    let key = keys::rollout_file(subnet.hotkey("miner-1"), window(30));
    let bucket = subnet.nodes["miner-1"].buckets.own();
    assert_eq!(bucket.head(&key).await.unwrap(), None, "nothing is shown that may be worthless");
    let first = chain.block(BlockNumber(30)).unwrap().unwrap().hash;
    // A fork leaves blocks 30 and 31.
    chain.fork(2, false).unwrap();
    assert_ne!(chain.block(BlockNumber(30)).unwrap().unwrap().hash, first);
    let log = settle(&mut miner, to(30 + LAG)).await;
    assert!(log.contains("the window is mined again"), "{log}");
    let log = settle(&mut miner, chain.head()).await;
    assert!(log.contains("uploaded 1 groups of window 30"), "{log}");

    let log = settle(&mut validator, to(61)).await;
    assert!(log.contains("blocks can still change"), "{log}");
    let log = settle(&mut validator, to(60 + LAG)).await;
    assert!(log.contains("validated window 30"), "{log}");
    assert_eq!(subnet.accepted(), [window(30)]);
}

/// What goes wrong with the node in the middle of a run.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    Hang,
    Drop,
    Cut,
    Restart,
    Upgrade,
    Prune,
    Fork { keeps: bool },
}

impl Subnet {
    async fn suffer(&mut self, mishap: Mishap) {
        let node = self.network.rpc().clone();
        match mishap {
            Mishap::Hang | Mishap::Drop => {
                let fault = if matches!(mishap, Mishap::Hang) { Fault::Hang } else { Fault::Drop };
                node.faults().set(None, fault);
                self.blocks_pass(10).await;
                node.faults().set(None, Fault::None);
            }
            Mishap::Cut => node.faults().cut(),
            Mishap::Restart => self.restart().await,
            Mishap::Upgrade => {
                let newer = Runtime::current().at_version(462).unwrap();
                node.upgrade(Arc::new(newer));
            }
            Mishap::Prune => {
                for _ in 0..10 {
                    self.chain().prune(1);
                    self.blocks_pass(1).await;
                }
            }
            Mishap::Fork { keeps } => drop(self.chain().fork(LAG - 1, keeps).unwrap()),
        }
    }

    async fn blocks_pass(&self, blocks: u64) {
        let mut heads = self.chain().heads();
        let until = heads.borrow().best.0 + blocks;
        heads.wait_for(|heads| heads.best.0 >= until).await.unwrap();
    }

    /// Waits until a window that begins later was mined, judged and trained on, and weights were set
    /// since.
    async fn a_new_window_comes_through(&self) {
        let now = self.chain().head().number;
        let next = Window::containing(now).next();
        let mut events = self.events.subscribe();
        let seen = |events: &Vec<(&str, Event)>| {
            let any = |found: &dyn Fn(&Event) -> bool| events.iter().any(|(_, event)| found(event));
            any(&|event| matches!(event, Event::RolloutsUploaded { window, .. } if *window >= next))
                && any(&|event| {
                    matches!(event, Event::WindowValidated { window, accepted: 1.., .. }
                        if *window >= next)
                })
                && any(
                    &|event| matches!(event, Event::WindowTrained { window, .. } if *window >= next),
                )
                && any(&|event| matches!(event, Event::WeightsSet { block, .. } if *block > now))
        };
        let waited = tokio::time::timeout(PATIENCE, events.wait_for(seen)).await;
        let told = self.events.borrow().iter().rev().take(20).cloned().collect::<Vec<_>>();
        assert!(waited.is_ok(), "no window after {now} came through: {told:?}");
    }
}

#[tokio::test]
async fn a_run_goes_on_through_everything_that_a_node_does() {
    let mut subnet = Subnet::new(20).await;
    let stop = CancellationToken::new();
    let chain = tokio::spawn(subnet.chain().clone().run(stop.clone()));
    let lifecycle = LifecycleConfig {
        poll_interval: Duration::from_millis(5),
        backoff_max: Duration::from_millis(100),
        ..LifecycleConfig::default()
    };
    let mut roles: JoinSet<Result<(), NeuronExit>> = JoinSet::new();
    let health = Health::default;
    roles.spawn(run_neuron(subnet.trainer(), lifecycle, health(), stop.clone()));
    roles.spawn(run_neuron(subnet.validator(), lifecycle, health(), stop.clone()));
    roles.spawn(run_neuron(subnet.miner(), lifecycle, health(), stop.clone()));
    subnet.a_new_window_comes_through().await;
    for mishap in [
        Mishap::Drop,
        Mishap::Cut,
        Mishap::Restart,
        Mishap::Upgrade,
        Mishap::Prune,
        Mishap::Fork { keeps: true },
        Mishap::Fork { keeps: false },
        Mishap::Hang,
    ] {
        subnet.suffer(mishap).await;
        subnet.a_new_window_comes_through().await;
        assert!(roles.try_join_next().is_none(), "a role ended after {mishap:?}");
        println!("after {mishap:?}: {} windows accepted", subnet.accepted().len());
    }
    stop.cancel();
    while let Some(ended) = roles.join_next().await {
        ended.unwrap().unwrap();
    }
    chain.await.unwrap().unwrap();
    assert!(subnet.accepted().len() >= 9, "one before and one after each mishap");
}
