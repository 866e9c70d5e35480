//! Runs a neuron: polls the head, ticks, waits after failures, stops in time.

use std::any::Any;
use std::time::Duration;

use grail_ports::chain::Block;
use grail_ports::events::Event;
use grail_protocol::ids::Window;
use grail_services::context::RunContext;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::health::Health;
use crate::neuron::{Neuron, NeuronError, Tick};

/// Times of a neuron's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifecycleConfig {
    /// Pause between two looks at the head, and after the first failure.
    pub poll_interval: Duration,
    /// Longest wait for the head.
    pub head_timeout: Duration,
    /// Longest pause after failures; each one doubles it.
    pub backoff_max: Duration,
    /// Longest time without a heartbeat before the neuron is given up.
    pub watchdog: Duration,
    /// Longest time that running work gets to end.
    pub shutdown: Duration,
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(2),
            head_timeout: Duration::from_secs(15),
            backoff_max: Duration::from_secs(60),
            watchdog: Duration::from_secs(30 * 60),
            shutdown: Duration::from_secs(5),
        }
    }
}

/// Why a neuron ended without being asked to. The process should end with a failure.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NeuronExit {
    /// A person must act first.
    #[error("the {role} cannot go on: {error}")]
    Final {
        /// The role.
        role: &'static str,
        /// What happened.
        error: NeuronError,
    },
    /// A task panicked: a mistake in this program.
    #[error("the {role} stopped because of a mistake in this program: {message}; report this")]
    Panicked {
        /// The role.
        role: &'static str,
        /// Message of the panic.
        message: String,
    },
    /// The watchdog saw no progress.
    #[error("the {role} made no progress for {seconds} s and was stopped; start it again")]
    Stalled {
        /// The role.
        role: &'static str,
        /// Time without a heartbeat, seconds.
        seconds: u64,
    },
}

/// Runs `neuron` until `cancel` is cancelled. Work that is under way then is asked to end and gets
/// [`LifecycleConfig::shutdown`] to do so; what it was writing has a temporary name.
///
/// # Errors
/// When the neuron ended by itself.
pub async fn run_neuron(
    neuron: impl Neuron,
    config: LifecycleConfig,
    health: Health,
    cancel: CancellationToken,
) -> Result<(), NeuronExit> {
    let role = neuron.role();
    health.update(|report| report.role = role.to_owned());
    let ctx = neuron.context().clone();
    let mut life = Life { role, ctx, config, health: health.clone(), cancel, failures: 0 };
    let ended = life.run(neuron).await;
    health.update(|report| {
        report.ready = false;
        report.ended = Some(match &ended {
            Ok(()) => "stopped on request".to_owned(),
            Err(exit) => exit.to_string(),
        });
    });
    match &ended {
        Ok(()) => info!(role, "stopped"),
        Err(exit) => error!(role, %exit, "stopped"),
    }
    ended
}

struct Life {
    role: &'static str,
    ctx: RunContext,
    config: LifecycleConfig,
    health: Health,
    cancel: CancellationToken,
    failures: u32,
}

/// What a piece of work came to.
enum Work<N, T> {
    /// It ended by itself.
    Ended(N, Result<T, NeuronError>),
    /// We were asked to stop.
    Cancelled,
}

impl Life {
    async fn run<N: Neuron>(&mut self, mut neuron: N) -> Result<(), NeuronExit> {
        loop {
            let starting = tokio::spawn(async move {
                let started = neuron.start().await;
                (neuron, started)
            });
            let Work::Ended(back, started) = self.supervise(starting).await? else {
                return Ok(());
            };
            neuron = back;
            match started {
                Ok(()) => break,
                Err(error) => self.failed(error)?,
            }
            if !self.pause().await {
                return Ok(());
            }
        }
        info!(role = self.role, hotkey = %self.ctx.hotkey(), "started");
        self.failures = 0;
        self.health.update(|report| report.ready = true);

        let mut done_at: Option<Block> = None;
        loop {
            self.ctx.heartbeat.beat();
            if let Some(head) = self.head().await.filter(|head| done_at != Some(*head)) {
                self.saw(head);
                let Work::Ended(back, ticked) = self.tick(neuron, head).await? else {
                    return Ok(());
                };
                neuron = back;
                let alarm = neuron.alarm().map(str::to_owned);
                self.health.update(|report| report.alarm = alarm);
                match ticked {
                    Ok(tick) => {
                        done_at = Some(head);
                        self.succeeded(&tick);
                    }
                    Err(error) if error.is_stop() => return Ok(()),
                    Err(error) => self.failed(error)?,
                }
            }
            if !self.pause().await {
                return Ok(());
            }
        }
    }

    /// Returns the head, or nothing if the chain did not say in time.
    async fn head(&mut self) -> Option<Block> {
        let asked = tokio::select! {
            () = self.cancel.cancelled() => return None,
            asked = timeout(self.config.head_timeout, self.ctx.chain.head()) => asked,
        };
        let reason = match asked {
            Ok(Ok(head)) => return Some(head),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the chain gave no head in {:?}", self.config.head_timeout),
        };
        self.note_failure(reason);
        None
    }

    async fn tick<N: Neuron>(&self, neuron: N, head: Block) -> Result<Work<N, Tick>, NeuronExit> {
        let window = Window::containing(head.number);
        let span = info_span!("tick", role = self.role, block = %head.number, %window);
        let mut neuron = neuron;
        let ticking = tokio::spawn(
            async move {
                let ticked = neuron.tick(head).await;
                (neuron, ticked)
            }
            .instrument(span),
        );
        self.supervise(ticking).await
    }

    /// Waits for a task of the neuron while watching the stop token and the heartbeat.
    async fn supervise<N, T>(
        &self,
        mut task: JoinHandle<(N, Result<T, NeuronError>)>,
    ) -> Result<Work<N, T>, NeuronExit> {
        let look_every = (self.config.watchdog / 3).max(Duration::from_millis(1));
        let mut beats = self.ctx.heartbeat.count();
        let mut progress = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.ctx.stop.stop();
                    if timeout(self.config.shutdown, &mut task).await.is_err() {
                        warn!(role = self.role, "work did not end in time and was abandoned");
                        task.abort();
                    }
                    return Ok(Work::Cancelled);
                }
                joined = &mut task => {
                    let (neuron, result) = joined.map_err(|error| self.panicked(error))?;
                    return Ok(Work::Ended(neuron, result));
                }
                () = sleep(look_every) => {
                    let now = self.ctx.heartbeat.count();
                    if now != beats {
                        beats = now;
                        progress = Instant::now();
                    } else if progress.elapsed() >= self.config.watchdog {
                        self.ctx.stop.stop();
                        task.abort();
                        let seconds = progress.elapsed().as_secs();
                        return Err(NeuronExit::Stalled { role: self.role, seconds });
                    }
                }
            }
        }
    }

    /// Waits for the next poll, longer after failures; returns whether life goes on.
    async fn pause(&self) -> bool {
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = self.config.poll_interval.saturating_mul(1 << doublings);
        let longest = self.config.backoff_max.max(self.config.poll_interval);
        tokio::select! {
            () = self.cancel.cancelled() => {
                self.ctx.stop.stop();
                false
            }
            () = sleep(pause.min(longest)) => true,
        }
    }

    fn saw(&self, head: Block) {
        self.ctx.emit(Event::BlockSeen { block: head.number });
        self.health.update(|report| {
            report.head = Some(head.number);
            report.window = Some(Window::containing(head.number));
        });
    }

    fn succeeded(&mut self, tick: &Tick) {
        self.failures = 0;
        let last = match tick {
            Tick::Idle => None,
            Tick::Waiting(reason) => Some(format!("waiting: {reason}")),
            Tick::Done(what) => {
                info!(role = self.role, "{what}");
                Some(what.clone())
            }
        };
        self.health.update(|report| {
            report.ready = true;
            report.ticks += 1;
            report.failures = 0;
            report.last = last.or(report.last.take());
        });
    }

    /// Takes note of a failure, or ends the neuron if nothing but a person can help.
    fn failed(&mut self, error: NeuronError) -> Result<(), NeuronExit> {
        if error.is_final() {
            return Err(NeuronExit::Final { role: self.role, error });
        }
        self.note_failure(error.to_string());
        Ok(())
    }

    fn note_failure(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        warn!(role = self.role, failures = self.failures, reason, "failed; trying again");
        self.health.update(|report| {
            report.ready = false;
            report.failures = report.failures.saturating_add(1);
            report.last_failure = Some(reason);
        });
    }

    fn panicked(&self, error: JoinError) -> NeuronExit {
        let message = match error.try_into_panic() {
            Ok(panic) => message_of(&*panic),
            Err(error) => error.to_string(),
        };
        NeuronExit::Panicked { role: self.role, message }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}
