//! Keeps the newest value of every metric.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use grail_ports::events::{Event, EventSink};
use grail_ports::observer::{Observation, Observer, Outcome, Service};
use grail_protocol::ids::{Uid, Window};

use crate::histogram::Histogram;
use crate::prometheus;
use crate::{Kind, Metric, RoleContext};

/// Reasons of rejection that are told apart; more would mean that a name was not a name.
const REASONS_MAX: usize = 64;

/// What tells the series of one metric apart, besides the role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// There is one series.
    None,
    /// One for each miner that a validator judges.
    Miner(Uid),
    /// One for each reason of a rejection.
    Reason(String),
    /// One for each call of a port.
    Call(&'static str),
    /// One for each call of a port and the way in which it ended.
    Ended(&'static str, Outcome),
    /// One for each node of the chain.
    Endpoint(String),
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What is measured.
    pub metric: Metric,
    /// Who measures.
    pub context: Arc<RoleContext>,
    /// Which series.
    pub label: Label,
    /// The value; it may be any f64.
    pub value: f64,
}

/// How a value was distributed.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// What is measured.
    pub metric: Metric,
    /// Who measures.
    pub context: Arc<RoleContext>,
    /// Which series.
    pub label: Label,
    /// The counts.
    pub histogram: Histogram,
}

/// All values at one moment, sorted by metric, role and label. The block and window that a role
/// was at are its points [`Metric::ChainBlock`] and [`Metric::ChainWindow`]: as labels they would
/// make a new series of everything with every block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The values.
    pub points: Vec<Point>,
    /// The distributions, sorted as well.
    pub distributions: Vec<Distribution>,
}

impl fmt::Display for Snapshot {
    /// Writes the Prometheus text format, version 0.0.4.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        prometheus::write(f, self)
    }
}

/// Tells one series from all others.
pub(crate) type Key = (Metric, Arc<RoleContext>, Label);

type Series = BTreeMap<Key, f64>;

/// The metrics of a process; clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    series: Arc<Mutex<Series>>,
    distributions: Arc<Mutex<BTreeMap<Key, Histogram>>>,
}

impl Metrics {
    /// Returns the sink for the events of one role.
    pub fn sink(&self, context: RoleContext) -> Arc<dyn EventSink> {
        Arc::new(MetricsSink { series: self.series.clone(), context: Arc::new(context) })
    }

    /// Returns where the adapters of one role tell of their calls, or those that all roles of a
    /// process share.
    pub fn observer(&self, context: RoleContext) -> Arc<dyn Observer> {
        let context = Arc::new(context);
        let (series, distributions) = (self.series.clone(), self.distributions.clone());
        Arc::new(MetricsObserver { series, distributions, context })
    }

    /// Returns all values.
    pub fn snapshot(&self) -> Snapshot {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let points = series.iter().map(|((metric, context, label), value)| Point {
            metric: *metric,
            context: context.clone(),
            label: label.clone(),
            value: *value,
        });
        let points = points.collect();
        drop(series);
        let distributions = self.distributions.lock().unwrap_or_else(PoisonError::into_inner);
        let distributions =
            distributions.iter().map(|((metric, context, label), histogram)| Distribution {
                metric: *metric,
                context: context.clone(),
                label: label.clone(),
                histogram: histogram.clone(),
            });
        Snapshot { points, distributions: distributions.collect() }
    }

    /// Returns all values as Prometheus text.
    pub fn render(&self) -> String {
        self.snapshot().to_string()
    }
}

struct MetricsSink {
    series: Arc<Mutex<Series>>,
    context: Arc<RoleContext>,
}

impl EventSink for MetricsSink {
    fn emit(&self, event: Event) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        Update { series: &mut series, context: &self.context }.apply(&event);
    }
}

struct MetricsObserver {
    series: Arc<Mutex<Series>>,
    distributions: Arc<Mutex<BTreeMap<Key, Histogram>>>,
    context: Arc<RoleContext>,
}

impl Observer for MetricsObserver {
    fn observe(&self, observation: Observation) {
        let context = &self.context;
        if let Observation::Call { service, call, took, .. } = observation {
            let key = (seconds_of(service), context.clone(), Label::Call(call));
            let mut all = self.distributions.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key).or_default().add(took.as_secs_f64());
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        Update { series: &mut series, context }.apply_observation(observation);
    }
}

fn calls_of(service: Service) -> Metric {
    match service {
        Service::Chain => Metric::ChainCalls,
        Service::ChainNode => Metric::ChainNodeCalls,
        Service::Beacon => Metric::BeaconCalls,
        Service::Store => Metric::StoreCalls,
    }
}

fn seconds_of(service: Service) -> Metric {
    match service {
        Service::Chain => Metric::ChainCallSeconds,
        Service::ChainNode => Metric::ChainNodeCallSeconds,
        Service::Beacon => Metric::BeaconCallSeconds,
        Service::Store => Metric::StoreCallSeconds,
    }
}

/// Changes the series of one role.
struct Update<'a> {
    series: &'a mut Series,
    context: &'a Arc<RoleContext>,
}

impl Update<'_> {
    fn value(&mut self, metric: Metric, label: Label) -> &mut f64 {
        self.series.entry((metric, self.context.clone(), label)).or_default()
    }

    fn set_of(&mut self, metric: Metric, label: Label, value: f64) {
        debug_assert_eq!(metric.kind(), Kind::Gauge, "{metric:?}");
        *self.value(metric, label) = value;
    }

    fn add_of(&mut self, metric: Metric, label: Label, amount: f64) {
        debug_assert_eq!(metric.kind(), Kind::Counter, "{metric:?}");
        *self.value(metric, label) += amount;
    }

    fn set(&mut self, metric: Metric, value: f64) {
        self.set_of(metric, Label::None, value);
    }

    fn add(&mut self, metric: Metric, amount: f64) {
        self.add_of(metric, Label::None, amount);
    }

    /// Sets a rate, unless no time passed.
    fn set_rate(&mut self, metric: Metric, count: u64, seconds: f64) {
        if seconds > 0.0 {
            self.set(metric, float(count) / seconds);
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::BlockSeen { block } => {
                self.set(Metric::ChainBlock, float(block.0));
                self.set(Metric::ChainWindow, start(Window::containing(block)));
            }
            Event::CheckpointLoaded { checkpoint, seconds } => {
                self.set(Metric::CheckpointWindow, start(checkpoint));
                self.set(Metric::CheckpointLoad, seconds);
            }
            Event::GroupMined { .. }
            | Event::RolloutsUploaded { .. }
            | Event::WindowSkipped { .. } => self.apply_mining(event),
            Event::MinerJudged { .. }
            | Event::MinerEvidence { .. }
            | Event::WindowValidated { .. }
            | Event::WeightsSet { .. }
            | Event::WeightsLanded { .. }
            | Event::WeightsFailed { .. } => self.apply_validation(event),
            Event::WindowTrained { .. }
            | Event::Evaluated { .. }
            | Event::CheckpointPublished { .. } => self.apply_training(event),
        }
    }

    fn apply_observation(&mut self, observation: Observation) {
        match observation {
            Observation::Call { service, call, outcome, took: _ } => {
                self.add_of(calls_of(service), Label::Ended(call, outcome), 1.0);
            }
            Observation::Connected { endpoint } => {
                self.add_of(Metric::ChainConnections, Label::Endpoint(endpoint.clone()), 1.0);
                self.set_of(Metric::ChainEndpoint, Label::Endpoint(endpoint), 1.0);
            }
            Observation::Disconnected { endpoint } => {
                self.add_of(Metric::ChainConnectionsLost, Label::Endpoint(endpoint.clone()), 1.0);
                self.set_of(Metric::ChainEndpoint, Label::Endpoint(endpoint), 0.0);
            }
            Observation::Head { block: _, lag } => {
                self.set(Metric::ChainHeadLag, lag.as_secs_f64());
            }
        }
    }

    fn apply_mining(&mut self, event: &Event) {
        match *event {
            Event::GroupMined { window: _, group: _, tokens, reward_mean } => {
                self.add(Metric::MiningGroups, 1.0);
                self.add(Metric::MiningTokens, float(tokens));
                self.set(Metric::MiningRewardMean, reward_mean);
            }
            Event::RolloutsUploaded { window: _, groups: _, rollouts, tokens, seconds, bytes } => {
                self.add(Metric::MiningUploads, 1.0);
                self.add(Metric::MiningUploadedRollouts, rollouts.into());
                self.set(Metric::MiningFileBytes, float(bytes));
                self.set_rate(Metric::MiningTokensPerSec, tokens, seconds);
            }
            Event::WindowSkipped { window: _, reason: _ } => {
                self.add(Metric::MiningSkippedWindows, 1.0);
            }
            _ => {}
        }
    }

    fn apply_validation(&mut self, event: &Event) {
        match *event {
            Event::MinerJudged {
                window: _,
                hotkey: _,
                uid,
                rollouts,
                checked,
                accepted,
                ref rejection,
                reward_mean,
                seconds,
            } => {
                let miner = || Label::Miner(uid);
                let had_failure = if rejection.is_some() { 1.0 } else { 0.0 };
                self.set_of(Metric::MinerHadFailure, miner(), had_failure);
                self.add_of(Metric::MinerRollouts, miner(), rollouts.into());
                self.add_of(Metric::MinerCheckedRollouts, miner(), checked.into());
                self.add_of(Metric::MinerAcceptedRollouts, miner(), accepted.into());
                if accepted > 0 {
                    self.set_of(Metric::MinerRewardMean, miner(), reward_mean);
                }
                self.set(Metric::RolloutVerification, seconds);
                if let Some(reason) = rejection {
                    let label = self.reason(reason.clone());
                    self.add_of(Metric::FileRejected, label, 1.0);
                }
            }
            Event::MinerEvidence {
                window: _,
                hotkey: _,
                uid,
                wealth_log10,
                bound_log10,
                ejected_until,
                life,
            } => {
                let is_ejected = if ejected_until.is_some() { 1.0 } else { 0.0 };
                self.set_of(Metric::MinerEvidence, Label::Miner(uid), wealth_log10);
                self.set_of(Metric::MinerEvidenceBound, Label::Miner(uid), bound_log10);
                self.set_of(Metric::MinerEjected, Label::Miner(uid), is_ejected);
                self.set_of(Metric::MinerLife, Label::Miner(uid), life.into());
            }
            Event::WindowValidated { window: _, active, judged, accepted, reward_mean } => {
                self.add(Metric::ValidationWindows, 1.0);
                self.set(Metric::MinersActive, active.into());
                self.set(Metric::MinersSelected, judged.into());
                self.set(Metric::WindowValidRollouts, accepted.into());
                if accepted > 0 {
                    self.set(Metric::ValidationRewardMean, reward_mean);
                }
            }
            Event::WeightsSet { block, ref weights } => {
                self.add(Metric::WeightsSubmissions, 1.0);
                self.set(Metric::WeightsBlock, float(block.0));
                let positive = weights.iter().filter(|(_, weight)| *weight > 0.0).count();
                self.set(Metric::WeightedMiners, float(positive as u64));
                // Whoever is not named now has no weight any more.
                self.series.retain(|(metric, context, _), _| {
                    *metric != Metric::Weight || context != self.context
                });
                for &(uid, weight) in weights {
                    self.set_of(Metric::Weight, Label::Miner(uid), weight);
                }
            }
            Event::WeightsLanded { block } => {
                self.add(Metric::WeightsLandings, 1.0);
                self.set(Metric::WeightsLandedBlock, float(block.0));
                self.set(Metric::WeightsAlarm, 0.0);
            }
            Event::WeightsFailed { block: _, reason: _ } => {
                self.add(Metric::WeightsFailures, 1.0);
                self.set(Metric::WeightsAlarm, 1.0);
            }
            _ => {}
        }
    }

    fn apply_training(&mut self, event: &Event) {
        match *event {
            Event::WindowTrained {
                window,
                steps,
                rollouts,
                tokens,
                loss,
                grad_norm,
                reward_mean,
                first_log_ratio_max,
                seconds,
            } => {
                self.set(Metric::TrainingWindow, start(window));
                self.add(Metric::TrainingSteps, steps.into());
                self.add(Metric::TrainingRollouts, rollouts.into());
                self.add(Metric::TrainingTokens, float(tokens));
                self.set(Metric::TrainingLoss, loss);
                self.set(Metric::TrainingGradNorm, grad_norm);
                self.set(Metric::TrainingRewardMean, reward_mean);
                self.set(Metric::TrainingFirstLogRatio, first_log_ratio_max);
                self.set(Metric::TrainingDuration, seconds);
                self.set_rate(Metric::TrainingTokensPerSec, tokens, seconds);
            }
            Event::Evaluated { checkpoint, problems, pass_at_1, seconds } => {
                self.set(Metric::EvalCheckpoint, start(checkpoint));
                self.set(Metric::EvalProblems, problems.into());
                self.set(Metric::EvalPassAt1, pass_at_1);
                self.set(Metric::EvalDuration, seconds);
            }
            Event::CheckpointPublished { checkpoint, ready: _, bytes } => {
                self.add(Metric::UploadsFull, 1.0);
                self.set(Metric::UploadCheckpoint, start(checkpoint));
                self.set(Metric::UploadBytes, float(bytes));
            }
            _ => {}
        }
    }

    /// Returns the label of a reason, `other` when there are too many.
    fn reason(&self, reason: String) -> Label {
        let known: BTreeSet<&Label> = self
            .series
            .keys()
            .filter(|(metric, context, _)| {
                *metric == Metric::FileRejected && context == self.context
            })
            .map(|(_, _, label)| label)
            .collect();
        let label = Label::Reason(reason);
        if known.len() < REASONS_MAX || known.contains(&label) {
            return label;
        }
        Label::Reason("other".to_owned())
    }
}

fn start(window: Window) -> f64 {
    float(window.start().0)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are f64; 2^53 is beyond what is counted")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
