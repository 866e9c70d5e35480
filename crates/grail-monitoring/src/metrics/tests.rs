//! Tests of the map from events to metrics.

use std::time::Duration;

use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};

use super::*;

fn window(start: u64) -> Window {
    Window::from_start(start).unwrap()
}

fn context(role: &str, uid: u16) -> RoleContext {
    let network = "local".to_owned();
    RoleContext { role: role.to_owned(), network, netuid: Netuid(81), uid: Some(Uid(uid)) }
}

/// Returns the values after `events` of one role.
fn after(events: impl IntoIterator<Item = Event>) -> impl Fn(Metric, Label) -> Option<f64> {
    let metrics = Metrics::default();
    let sink = metrics.sink(context("validator", 1));
    events.into_iter().for_each(|event| sink.emit(event));
    let points = metrics.snapshot().points;
    move |metric, label| {
        let mut found =
            points.iter().filter(|point| point.metric == metric && point.label == label);
        let value = found.next().map(|point| point.value);
        assert!(found.next().is_none(), "one series for each label");
        value
    }
}

fn judged(uid: u16, accepted: u32, rejection: Option<&str>) -> Event {
    Event::MinerJudged {
        window: window(60),
        hotkey: Hotkey([1; 32]),
        uid: Uid(uid),
        rollouts: 64,
        checked: 16,
        accepted,
        rejection: rejection.map(ToOwned::to_owned),
        reward_mean: 0.5,
        seconds: 2.0,
    }
}

fn evidence(uid: u16, ejected_until: Option<Window>) -> Event {
    Event::MinerEvidence {
        window: window(60),
        hotkey: Hotkey([1; 32]),
        uid: Uid(uid),
        wealth_log10: 6.5,
        bound_log10: 6.3,
        ejected_until,
        life: 1,
    }
}

/// One of each event: a new one fails to compile in `apply`, and shows up here.
fn every_event() -> Vec<Event> {
    vec![
        Event::BlockSeen { block: BlockNumber(95) },
        Event::CheckpointLoaded { checkpoint: window(30), seconds: 1.5 },
        Event::GroupMined { window: window(60), group: 0, tokens: 100, reward_mean: 0.25 },
        Event::RolloutsUploaded {
            window: window(60),
            groups: 4,
            rollouts: 64,
            tokens: 400,
            seconds: 8.0,
            bytes: 5_000,
        },
        Event::WindowSkipped { window: window(90), reason: "no checkpoint".to_owned() },
        judged(2, 0, Some("race_lost")),
        evidence(2, Some(window(7260))),
        Event::WindowValidated {
            window: window(60),
            active: 3,
            judged: 2,
            accepted: 16,
            reward_mean: 0.75,
        },
        Event::WeightsSet { block: BlockNumber(96), weights: vec![(Uid(2), 0.0), (Uid(3), 1.0)] },
        Event::WeightsFailed { block: BlockNumber(97), reason: "too fast".to_owned() },
        Event::WeightsLanded { block: BlockNumber(96) },
        Event::WindowTrained {
            window: window(60),
            steps: 2,
            rollouts: 64,
            tokens: 1_000,
            loss: -0.1,
            grad_norm: 0.7,
            reward_mean: 0.6,
            first_log_ratio_max: 0.0,
            seconds: 4.0,
        },
        Event::Evaluated { checkpoint: window(90), problems: 200, pass_at_1: 0.4, seconds: 3.0 },
        Event::CheckpointPublished { checkpoint: window(90), ready: window(90), bytes: 9_000 },
    ]
}

fn call(service: Service, call: &'static str, outcome: Outcome) -> Observation {
    Observation::Call { service, call, outcome, took: Duration::from_millis(30) }
}

fn every_observation() -> Vec<Observation> {
    let endpoint = || "wss://node.example:443".to_owned();
    vec![
        call(Service::Chain, "head", Outcome::Ok),
        call(Service::ChainNode, "chain_getHeader", Outcome::TimedOut),
        call(Service::Store, "get", Outcome::Denied),
        call(Service::Beacon, "round", Outcome::Ok),
        Observation::Connected { endpoint: endpoint() },
        Observation::Disconnected { endpoint: endpoint() },
        Observation::Head { block: BlockNumber(95), lag: Duration::from_millis(1_500) },
    ]
}

#[test]
fn calls_are_counted_by_outcome_and_timed_by_call() {
    let metrics = Metrics::default();
    let observer = metrics.observer(RoleContext { uid: None, ..context("process", 0) });
    for outcome in [Outcome::Ok, Outcome::Ok, Outcome::TimedOut] {
        observer.observe(call(Service::ChainNode, "state_call", outcome));
    }
    every_observation().into_iter().for_each(|it| observer.observe(it));
    observer.observe(Observation::Connected { endpoint: "wss://other:1".to_owned() });
    let text = metrics.render();
    let who = r#"{role="process",network="local",netuid="81","#;
    for want in [
        format!(r#"grail_chain_node_calls_total{who}call="state_call",outcome="ok"}} 2"#),
        format!(r#"grail_chain_node_calls_total{who}call="state_call",outcome="timed_out"}} 1"#),
        format!(r#"grail_chain_node_call_seconds_count{who}call="state_call"}} 3"#),
        format!(r#"grail_store_calls_total{who}call="get",outcome="denied"}} 1"#),
        format!(r#"grail_chain_node_in_use{who}endpoint="wss://node.example:443"}} 0"#),
        format!(r#"grail_chain_node_in_use{who}endpoint="wss://other:1"}} 1"#),
        format!(r#"grail_chain_node_connections_total{who}endpoint="wss://other:1"}} 1"#),
        r#"grail_chain_head_lag_seconds{role="process",network="local",netuid="81"} 1.5"#
            .to_owned(),
    ] {
        assert!(text.lines().any(|line| line == want), "{want} in\n{text}");
    }
}

#[test]
fn every_metric_comes_from_some_event() {
    let metrics = Metrics::default();
    let sink = metrics.sink(context("all", 0));
    every_event().into_iter().chain([judged(3, 16, None)]).for_each(|event| sink.emit(event));
    let observer = metrics.observer(context("all", 0));
    every_observation().into_iter().for_each(|observation| observer.observe(observation));
    let Snapshot { points, distributions } = metrics.snapshot();
    let seen: BTreeSet<Metric> = points
        .iter()
        .map(|point| point.metric)
        .chain(distributions.iter().map(|it| it.metric))
        .collect();
    assert_eq!(seen, Metric::ALL.iter().copied().collect());
}

#[test]
fn events_set_gauges_and_add_to_counters() {
    let value = after(every_event().into_iter().chain(every_event()));
    for (metric, want) in [
        (Metric::ChainBlock, 95.0),
        (Metric::ChainWindow, 90.0),
        (Metric::CheckpointWindow, 30.0),
        (Metric::MiningGroups, 2.0),
        (Metric::MiningTokens, 200.0),
        (Metric::MiningUploadedRollouts, 128.0),
        (Metric::MiningTokensPerSec, 50.0),
        (Metric::MiningSkippedWindows, 2.0),
        (Metric::MinersActive, 3.0),
        (Metric::MinersSelected, 2.0),
        (Metric::WindowValidRollouts, 16.0),
        (Metric::WeightsSubmissions, 2.0),
        (Metric::WeightsFailures, 2.0),
        (Metric::WeightsBlock, 96.0),
        (Metric::WeightsLandings, 2.0),
        (Metric::WeightsLandedBlock, 96.0),
        (Metric::WeightedMiners, 1.0),
        (Metric::TrainingSteps, 4.0),
        (Metric::TrainingLoss, -0.1),
        (Metric::TrainingTokensPerSec, 250.0),
        (Metric::EvalPassAt1, 0.4),
        (Metric::UploadsFull, 2.0),
        (Metric::UploadBytes, 9_000.0),
    ] {
        assert_eq!(value(metric, Label::None), Some(want), "{metric:?}");
    }
}

#[test]
fn miners_have_their_own_series() {
    let value = after([
        judged(2, 16, None),
        judged(3, 0, Some("race_lost")),
        judged(2, 16, None),
        judged(3, 0, Some("prompt_mismatch")),
        judged(4, 0, Some("race_lost")),
    ]);
    let miner = |metric, uid| value(metric, Label::Miner(Uid(uid)));
    assert_eq!(miner(Metric::MinerAcceptedRollouts, 2), Some(32.0));
    assert_eq!(miner(Metric::MinerAcceptedRollouts, 3), Some(0.0));
    assert_eq!(miner(Metric::MinerCheckedRollouts, 3), Some(32.0));
    assert_eq!(miner(Metric::MinerHadFailure, 2), Some(0.0));
    assert_eq!(miner(Metric::MinerHadFailure, 3), Some(1.0));
    assert_eq!(miner(Metric::MinerRewardMean, 2), Some(0.5));
    assert_eq!(miner(Metric::MinerRewardMean, 3), None, "nothing accepted, no mean");
    let rejected = |reason: &str| value(Metric::FileRejected, Label::Reason(reason.to_owned()));
    assert_eq!(rejected("race_lost"), Some(2.0));
    assert_eq!(rejected("prompt_mismatch"), Some(1.0));
}

#[test]
fn an_ejection_shows_and_ends() {
    let value = after([evidence(2, Some(window(90))), evidence(3, Some(window(90)))]);
    assert_eq!(value(Metric::MinerEjected, Label::Miner(Uid(2))), Some(1.0));
    assert_eq!(value(Metric::MinerEvidence, Label::Miner(Uid(3))), Some(6.5));
    let value = after([evidence(2, Some(window(90))), evidence(2, None)]);
    assert_eq!(value(Metric::MinerEjected, Label::Miner(Uid(2))), Some(0.0));
    assert_eq!(value(Metric::MinerLife, Label::Miner(Uid(2))), Some(1.0));
}

#[test]
fn the_alarm_stands_until_weights_have_landed() {
    let failed = || Event::WeightsFailed { block: BlockNumber(9), reason: "lost".to_owned() };
    let set = Event::WeightsSet { block: BlockNumber(10), weights: vec![(Uid(2), 1.0)] };
    let value = after([failed(), set.clone()]);
    assert_eq!(value(Metric::WeightsAlarm, Label::None), Some(1.0));
    let value = after([failed(), set, Event::WeightsLanded { block: BlockNumber(10) }]);
    assert_eq!(value(Metric::WeightsAlarm, Label::None), Some(0.0));
}

#[test]
fn a_miner_that_is_not_named_loses_its_weight_series() {
    let set = |weights: &[(u16, f64)]| Event::WeightsSet {
        block: BlockNumber(1),
        weights: weights.iter().map(|(uid, weight)| (Uid(*uid), *weight)).collect(),
    };
    let value = after([set(&[(2, 0.5), (3, 0.5)]), set(&[(3, 1.0)])]);
    assert_eq!(value(Metric::Weight, Label::Miner(Uid(2))), None);
    assert_eq!(value(Metric::Weight, Label::Miner(Uid(3))), Some(1.0));
}

#[test]
fn reasons_are_bounded() {
    let names: Vec<String> = (0..200).map(|number| format!("reason_{number}")).collect();
    let twice = names.iter().chain(&names);
    let value = after(twice.map(|name| judged(2, 0, Some(name))));
    let rejected = |reason: &str| value(Metric::FileRejected, Label::Reason(reason.to_owned()));
    assert_eq!(rejected("reason_0"), Some(2.0));
    assert_eq!(rejected("reason_63"), Some(2.0));
    assert_eq!(rejected("reason_64"), None);
    assert_eq!(rejected("other"), Some(2.0 * 136.0));
}

#[test]
fn roles_of_one_process_do_not_mix() {
    let metrics = Metrics::default();
    for uid in [2, 3] {
        let sink = metrics.sink(context("miner", uid));
        sink.emit(Event::BlockSeen { block: BlockNumber(uid.into()) });
    }
    let text = metrics.render();
    for uid in [2, 3] {
        let labels = format!(r#"{{role="miner",network="local",netuid="81",uid="{uid}"}}"#);
        assert!(text.contains(&format!("grail_chain_block{labels} {uid}\n")), "{text}");
    }
    assert_eq!(text.matches("# TYPE grail_chain_block gauge").count(), 1);
    assert!(text.is_ascii() && text.ends_with('\n'));
}

#[test]
fn no_time_gives_no_rate() {
    let upload = Event::RolloutsUploaded {
        window: window(60),
        groups: 1,
        rollouts: 16,
        tokens: 5,
        seconds: 0.0,
        bytes: 9,
    };
    let value = after([upload]);
    assert_eq!(value(Metric::MiningTokensPerSec, Label::None), None);
    assert_eq!(value(Metric::MiningUploads, Label::None), Some(1.0));
}
