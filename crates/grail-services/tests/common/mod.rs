//! A small window on a fake model: what a validator holds against a miner's work, and the job.

use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::environment::Environment;
use grail_protocol::ids::{Digest, Hotkey, Netuid, Window};
use grail_protocol::randomness::{ValidationChallenge, WindowRandomness};
use grail_protocol::rollout::EnvironmentFingerprint;
use grail_protocol::sampler::SamplerParams;
use grail_protocol::timelock::{BeaconPublicKey, SealTo};
use grail_protocol::verifier::ExpectedSeal;
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::mining::pipeline::MiningJob;
use grail_services::validation::pipeline::Bench;
use grail_testkit::FakeModel;

/// Where tests seal to that write open files, or none.
#[allow(dead_code, reason = "not every test file writes open files")]
pub const NOWHERE: SealTo = SealTo { key: BeaconPublicKey([0; 96]), round: 1 };

/// Returns the bench of a validator and the job of `hotkey` in the same window.
pub fn window(
    environment: Arc<dyn Environment>,
    hotkey: Hotkey,
    (expected, seal): (ExpectedSeal, SealTo),
    groups_checked_max: u32,
) -> (Bench, MiningJob) {
    let checkpoint = Arc::new(LoadedCheckpoint {
        window: Window::from_start(60).expect("a multiple of 30"),
        model: Arc::new(FakeModel::new(7)),
        environment,
        fingerprint: EnvironmentFingerprint::new("fake", "{}"),
        sampler: SamplerParams { temperature: 1.0, max_new_tokens: 6 },
        whitening: None,
        identity: Digest([8; 32]),
        dir: PathBuf::new(),
    });
    let bench = Bench {
        network: "local".to_owned(),
        netuid: Netuid(81),
        window: Window::from_start(90).expect("a multiple of 30"),
        randomness: WindowRandomness(Digest([5; 32])),
        challenge: ValidationChallenge(Digest([6; 32])),
        seal: expected,
        checkpoint: checkpoint.clone(),
        groups_checked_max,
        calibrations: Arc::default(),
        calibration_age_windows: 10,
    };
    let header = checkpoint.header(&bench.network, bench.netuid, bench.window, hotkey);
    let (window, randomness) = (bench.window, bench.randomness);
    (bench, MiningJob { window, randomness, checkpoint, header, seal })
}
