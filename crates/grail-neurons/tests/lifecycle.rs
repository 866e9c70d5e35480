//! How a neuron lives and ends, with a role that does what the test says.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use grail_neurons::health::Health;
use grail_neurons::lifecycle::{LifecycleConfig, NeuronExit, run_neuron};
use grail_neurons::neuron::{Neuron, NeuronError, Tick};
use grail_ports::chain::{Block, ChainError};
use grail_services::context::RunContext;
use support::{MINER, World};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

type Script = Box<dyn Fn(u32, &RunContext) -> Act + Send>;

/// What a scripted role does at a tick.
enum Act {
    Do(Tick),
    Fail,
    Panic,
    /// Works for ever, with or without a heartbeat each minute.
    Work {
        beats: bool,
    },
    /// Works until it is asked to stop, looking only that often.
    WorkUntilStopped(Duration),
}

struct Scripted {
    ctx: RunContext,
    script: Script,
    ticks: Arc<AtomicU32>,
}

#[async_trait]
impl Neuron for Scripted {
    fn role(&self) -> &'static str {
        "scripted"
    }

    fn context(&self) -> &RunContext {
        &self.ctx
    }

    async fn start(&mut self) -> Result<(), NeuronError> {
        Ok(())
    }

    async fn tick(&mut self, _: Block) -> Result<Tick, NeuronError> {
        let nth = self.ticks.fetch_add(1, Ordering::SeqCst);
        match (self.script)(nth, &self.ctx) {
            Act::Do(tick) => Ok(tick),
            Act::Fail => Err(ChainError::Unavailable("a test".to_owned()).into()),
            Act::Panic => panic!("index out of bounds"),
            Act::Work { beats } => loop {
                tokio::time::sleep(Duration::from_secs(60)).await;
                if beats {
                    self.ctx.heartbeat.beat();
                }
            },
            Act::WorkUntilStopped(pause) => {
                while !self.ctx.stop.is_stopped() {
                    tokio::time::sleep(pause).await;
                }
                Ok(Tick::Idle)
            }
        }
    }
}

struct Life {
    world: World,
    health: Health,
    cancel: CancellationToken,
    ticks: Arc<AtomicU32>,
    task: JoinHandle<Result<(), NeuronExit>>,
}

fn live(script: impl Fn(u32, &RunContext) -> Act + Send + 'static) -> Life {
    let world = World::new();
    let (health, cancel, ticks) = (Health::default(), CancellationToken::new(), Arc::default());
    let neuron =
        Scripted { ctx: world.context(MINER), script: Box::new(script), ticks: Arc::clone(&ticks) };
    let run = run_neuron(neuron, LifecycleConfig::default(), health.clone(), cancel.clone());
    Life { task: tokio::spawn(run), world, health, cancel, ticks }
}

impl Life {
    fn ticks(&self) -> u32 {
        self.ticks.load(Ordering::SeqCst)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn each_block_is_one_tick() {
    let life = live(|_, _| Act::Do(Tick::Done("something".to_owned())));
    pass(20).await;
    assert_eq!(life.ticks(), 1);
    life.world.chain.advance(1);
    pass(20).await;
    assert_eq!(life.ticks(), 2);
    let report = life.health.report();
    assert!(report.ready);
    assert_eq!((report.role.as_str(), report.ticks, report.failures), ("scripted", 2, 0));
    assert_eq!(report.last.as_deref(), Some("something"));
    assert!(serde_json::to_string(&report).unwrap().contains("\"head\":1"));

    life.cancel.cancel();
    assert_eq!(life.task.await.unwrap(), Ok(()));
    let report = life.health.report();
    assert!(!report.ready && report.ended.is_some());
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_with_growing_pauses() {
    let life = live(|nth, _| if nth < 8 { Act::Fail } else { Act::Do(Tick::Idle) });
    pass(1).await;
    assert_eq!(life.ticks(), 1);
    assert!(!life.health.report().ready);
    // 2 + 4 + 8 + 16 + 32 + 60 seconds.
    pass(122).await;
    assert_eq!(life.ticks(), 7);
    pass(120).await;
    assert_eq!(life.ticks(), 9, "the head is tried again until it is done, then left alone");
    let report = life.health.report();
    assert!(report.ready && report.last_failure.is_some());
    assert_eq!(report.failures, 0);
    pass(600).await;
    assert_eq!(life.ticks(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_is_down_is_asked_again() {
    let life = live(|_, _| Act::Do(Tick::Idle));
    pass(1).await;
    life.world.chain.set_down(true);
    pass(300).await;
    assert!(life.health.report().last_failure.unwrap().contains("the fake chain is down"));
    life.world.chain.set_down(false);
    life.world.chain.advance(1);
    pass(120).await;
    assert_eq!(life.ticks(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_neuron_with_a_reason() {
    let life = live(|_, _| Act::Panic);
    let exit = life.task.await.unwrap().unwrap_err();
    assert!(exit.to_string().contains("index out of bounds"), "{exit}");
    assert!(life.health.report().ended.unwrap().contains("mistake in this program"));
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_ends_work_without_a_heartbeat() {
    let before = Instant::now();
    let life = live(|_, _| Act::Work { beats: false });
    let exit = life.task.await.unwrap().unwrap_err();
    assert!(matches!(exit, NeuronExit::Stalled { .. }), "{exit}");
    let minutes = before.elapsed().as_secs() / 60;
    assert!((30..=41).contains(&minutes), "{minutes} minutes");

    let life = live(|_, _| Act::Work { beats: true });
    pass(24 * 3600).await;
    assert!(!life.task.is_finished(), "work with a heartbeat may take long");
}

#[tokio::test(start_paused = true)]
async fn shutdown_takes_five_seconds_at_most() {
    let life = live(|_, _| Act::WorkUntilStopped(Duration::from_secs(1)));
    pass(10).await;
    let before = Instant::now();
    life.cancel.cancel();
    assert_eq!(life.task.await.unwrap(), Ok(()));
    assert!(before.elapsed() <= Duration::from_secs(1));

    let life = live(|_, _| Act::Work { beats: true });
    pass(10).await;
    let before = Instant::now();
    life.cancel.cancel();
    assert_eq!(life.task.await.unwrap(), Ok(()));
    assert_eq!(before.elapsed(), Duration::from_secs(5));
}
