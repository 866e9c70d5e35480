//! Small reports and events for the tests of this module.

use grail_protocol::ids::{Hotkey, Uid, Window};

use super::fold::Roster;
use super::{MinerRole, Report, Setup};

/// Uid 3 cheats: free sampling first, a forged reward from window 60 on.
pub struct TestRoster;

impl Roster for TestRoster {
    fn miners(&self) -> Vec<(Uid, Hotkey)> {
        Vec::new()
    }

    fn miner(&self, hotkey: Hotkey) -> (String, MinerRole) {
        let role = if hotkey.0[0] == 3 { MinerRole::Cheater } else { MinerRole::Honest };
        (format!("miner-{}", hotkey.0[0]), role)
    }

    fn cheat(&self, hotkey: Hotkey, window: Window) -> Option<String> {
        let cheat = if u64::from(window) < 60 { "free-sampling" } else { "forged-reward" };
        (hotkey.0[0] == 3).then(|| cheat.to_owned())
    }
}

pub fn report() -> Report {
    Report::new(Setup {
        protocol: "v6".to_owned(),
        network: "local".to_owned(),
        netuid: 81,
        block_time_ms: 1_000,
        seed: 1,
        model: "embedded".to_owned(),
        architecture: "LlamaForCausalLM".to_owned(),
        parameters: 1_000_000,
        numerics: "exact-1".to_owned(),
        environment: "arithmetic".to_owned(),
        environment_params: "{}".to_owned(),
        temperature: 1.0,
        max_new_tokens: 32,
        threads: 2,
    })
}

fn window(start: u64) -> Window {
    Window::from_start(start).unwrap()
}

pub mod judged {
    use grail_ports::events::Event;
    use grail_protocol::ids::{BlockNumber, Hotkey, Uid};

    use super::super::{Entry, RoleTag};
    use super::window as start_of;

    fn tag(name: &str, uid: u16) -> RoleTag {
        let byte = u8::try_from(uid).unwrap();
        RoleTag { name: name.to_owned(), uid: Uid(uid), hotkey: Hotkey([byte; 32]) }
    }

    pub fn uploaded(start: u64, uid: u16, tokens: u64, seconds: f64) -> Entry {
        let event = Event::RolloutsUploaded {
            window: start_of(start),
            groups: 1,
            rollouts: 16,
            tokens,
            seconds,
            bytes: 1,
        };
        Entry { role: tag("miner", uid), event }
    }

    pub fn miner(
        start: u64,
        uid: u16,
        rollouts: u32,
        checked: u32,
        accepted: u32,
        rejection: Option<&str>,
    ) -> Entry {
        let event = Event::MinerJudged {
            window: start_of(start),
            hotkey: tag("", uid).hotkey,
            uid: Uid(uid),
            rollouts,
            checked,
            accepted,
            rejection: rejection.map(str::to_owned),
            reward_mean: 0.5,
            seconds: 0.25,
        };
        Entry { role: tag("validator", 1), event }
    }

    pub fn window(start: u64, accepted: u32, reward_mean: f64) -> Entry {
        let event = Event::WindowValidated {
            window: start_of(start),
            active: 2,
            judged: 2,
            accepted,
            reward_mean,
        };
        Entry { role: tag("validator", 1), event }
    }

    pub fn weights(block: u64, weights: &[(u16, f64)]) -> Entry {
        let weights = weights.iter().map(|(uid, weight)| (Uid(*uid), *weight)).collect();
        let event = Event::WeightsSet { block: BlockNumber(block), weights };
        Entry { role: tag("validator", 1), event }
    }

    pub fn landed(block: u64) -> Entry {
        let event = Event::WeightsLanded { block: BlockNumber(block) };
        Entry { role: tag("validator", 1), event }
    }

    pub fn failed(block: u64, reason: &str) -> Entry {
        let event = Event::WeightsFailed { block: BlockNumber(block), reason: reason.to_owned() };
        Entry { role: tag("validator", 1), event }
    }
}

pub mod trained {
    use grail_ports::events::Event;
    use grail_protocol::ids::{Hotkey, Uid};

    use super::super::{Entry, RoleTag};
    use super::window as start_of;

    fn told(event: Event) -> Entry {
        let role = RoleTag { name: "trainer".to_owned(), uid: Uid(0), hotkey: Hotkey([0; 32]) };
        Entry { role, event }
    }

    pub fn window(start: u64, steps: u32, loss: f64) -> Entry {
        told(Event::WindowTrained {
            window: start_of(start),
            steps,
            rollouts: 32,
            tokens: 512,
            loss,
            grad_norm: 1.0,
            reward_mean: 0.5,
            first_log_ratio_max: 0.0,
            seconds: 1.5,
        })
    }

    pub fn evaluated(checkpoint: u64, pass_at_1: f64) -> Entry {
        told(Event::Evaluated {
            checkpoint: start_of(checkpoint),
            problems: 200,
            pass_at_1,
            seconds: 2.0,
        })
    }

    pub fn published(checkpoint: u64, ready: u64) -> Entry {
        told(Event::CheckpointPublished {
            checkpoint: start_of(checkpoint),
            ready: start_of(ready),
            bytes: 1_000,
        })
    }
}
