//! Roles as processes of their own, on a chain, a beacon and a store that lie outside: reached over
//! WebSocket, HTTP and S3, as the real ones are.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as it does")]

#[path = "../../grail-infrastructure/tests/suite/s3/server.rs"]
#[allow(dead_code, reason = "its own suite uses the rest")]
mod server;
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grail_infrastructure::clock::system_clock;
use grail_infrastructure::local::chain::LocalChain;
use grail_infrastructure::local::network::{LocalNetwork, NetworkConfig};
use grail_infrastructure::local::server::Server;
use grail_infrastructure::object_store::BucketSecrets;
use serde_json::Value;
use server::{S3Server, secrets};
use support::{Running, grail};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Held by a test while its network lives: two of them would be too much for small machines, and
/// windows would pass before the miner is ready.
static MACHINE: Mutex<()> = Mutex::new(());

fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

const BLOCK_TIME: Duration = Duration::from_millis(200);

/// Names of wallets, and of the buckets, which are 32 hexadecimal digits as R2's.
const ROLES: [(&str, &str); 3] = [
    ("trainer", "00000000000000000000000000000001"),
    ("validator", "00000000000000000000000000000002"),
    ("miner-1", "00000000000000000000000000000003"),
];

fn bucket(wallet: &str) -> BucketSecrets {
    secrets(ROLES.iter().find(|(name, _)| *name == wallet).unwrap().1)
}

/// The outside world, in this process.
struct World {
    runtime: Runtime,
    network: LocalNetwork,
    _server: Server,
    store: S3Server,
    folder: TempDir,
    endpoint: String,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = NetworkConfig::local(system_clock()(), 1);
        config.rules.block_time_ms = BLOCK_TIME.as_millis().try_into().unwrap();
        config.beacon_period_ms = config.rules.block_time_ms;
        let network = LocalNetwork::create(&folder.path().join("net"), &config).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (server, store) = runtime.block_on(async {
            let server = network.serve(address, CancellationToken::new()).await.unwrap();
            (server, S3Server::start(&ROLES.map(|(wallet, _)| bucket(wallet))).await)
        });
        let endpoint = server.endpoint();
        runtime.spawn(keep_pace(network.chain().clone()));
        Self { runtime, network, _server: server, store, folder, endpoint }
    }

    /// Returns a role's command, with everything it needs from the outside.
    fn role(&self, command: &str, wallet: &str) -> Command {
        let mut role = grail();
        role.arg(command).args(["--network", "custom", "--netuid", "81", "--threads", "1"]);
        role.args(["--wallet", wallet]).arg("--dir").arg(self.folder.path().join("state"));
        self.configure(&mut role);
        give_keys(&mut role, wallet);
        role
    }

    /// Returns the verdict of `grail doctor` on a wallet: its exit code, and its checks by name.
    fn doctor(
        &self,
        wallet: &str,
        change: impl FnOnce(&mut Command),
    ) -> (Option<i32>, BTreeMap<String, Value>) {
        let mut doctor = grail();
        doctor.args(["doctor", "--json", "--network", "custom", "--netuid", "81"]);
        doctor.args(["--wallet", wallet]).arg("--dir").arg(self.folder.path().join("state"));
        self.configure(&mut doctor);
        give_keys(&mut doctor, wallet);
        change(&mut doctor);
        let output = doctor.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().iter();
        let by_name = |check: &Value| (check["name"].as_str().unwrap().to_owned(), check.clone());
        (output.status.code(), checks.map(by_name).collect())
    }

    fn configure(&self, command: &mut Command) {
        let file = self.network.file();
        let node = self.endpoint.replacen("http", "ws", 1);
        command.env("GRAIL_NETWORK_ENDPOINTS", node);
        command.env("GRAIL_BEACON_CHAIN", file.beacon.hash.to_hex());
        command.env("GRAIL_BEACON_RELAYS", &self.endpoint);
        command.env("GRAIL_WALLET_PATH", self.network.dir().join("wallets"));
        command.env("GRAIL_STORE_ENDPOINT", format!("http://localhost:{}", self.store.port));
        command.env("GRAIL_STORE_ALLOW_HTTP", "true");
        command.env("GRAIL_STORE_REGION", "us-east-1");
        command.env("GRAIL_SAMPLING_MAX_NEW_TOKENS", "12");
        command.env("GRAIL_MINING_GROUPS_PER_WINDOW", "2");
    }
}

/// Hands over the keys to the bucket of a wallet; a wallet that is no role's gets the first one's.
fn give_keys(command: &mut Command, wallet: &str) {
    let known = ROLES.iter().any(|(name, _)| *name == wallet);
    let keys = bucket(if known { wallet } else { ROLES[0].0 });
    command.env("GRAIL_STORE_BUCKET", &keys.bucket_name);
    command.env("R2_WRITE_ACCESS_KEY_ID", &keys.write.access_key_id);
    command.env("R2_WRITE_SECRET_ACCESS_KEY", keys.write.secret_access_key.as_str());
    command.env("R2_READ_ACCESS_KEY_ID", &keys.read.access_key_id);
    command.env("R2_READ_SECRET_ACCESS_KEY", keys.read.secret_access_key.as_str());
}

/// Makes blocks in the rhythm of the wall clock, by which the store dates its objects.
async fn keep_pace(chain: Arc<LocalChain>) {
    let mut ticks = interval(BLOCK_TIME);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let chain = Arc::clone(&chain);
        tokio::task::spawn_blocking(move || chain.advance(1)).await.unwrap().unwrap();
    }
}

#[test]
fn a_subnet_lives_on_what_lies_outside() {
    let _machine = machine();
    let world = World::new();
    let mut trainer = world.role("train", "trainer");
    trainer.args(["--model", "default"]);
    let mut trainer = Running::start(trainer);
    trainer.wait_for(&["uid 0", "network custom 81"]);
    trainer.wait_for(&["published checkpoint"]);
    let mut miner = Running::start(world.role("mine", "miner-1"));
    let mut validator = Running::start(world.role("validate", "validator"));
    miner.wait_for(&["uploaded 32 rollouts"]);
    validator.wait_for(&["uid 2", "accepted"]);
    for _ in 0..2 {
        validator.wait_for(&["1 miners judged", "32 rollouts accepted"]);
    }
    let metrics = world.folder.path().join("state/roles/miner-1-default/metrics.prom");
    let metrics = std::fs::read_to_string(metrics).unwrap();
    assert!(metrics.contains("uid=\"2\"") && metrics.contains("network=\"custom\""), "{metrics}");
    // What a role did is in the bucket, and nowhere on this machine.
    assert!(!world.network.dir().join("store/uploads").exists());
    for role in [&trainer, &miner, &validator] {
        role.terminate();
    }
    for role in [trainer, miner, validator] {
        let (status, output) = role.finish();
        assert!(status.success(), "{output}");
        for (wallet, _) in ROLES {
            let secret = bucket(wallet).write.secret_access_key;
            assert!(!output.contains(secret.as_str()), "a secret was shown");
        }
    }
    world.runtime.shutdown_background();
}

/// Returns how a check ended. Whatever is not well comes with a next step.
fn status<'a>(checks: &'a BTreeMap<String, Value>, name: &str) -> &'a str {
    let check = &checks[name];
    let status = check["status"].as_str().unwrap();
    assert_eq!(matches!(status, "warn" | "fail"), check["next_step"].is_string(), "{check}");
    status
}

#[test]
fn the_doctor_looks_at_everything_outside() {
    let _machine = machine();
    let world = World::new();
    let told = |checks: &BTreeMap<String, Value>, name: &str| checks[name]["told"].to_string();

    let (code, checks) = world.doctor("validator", |command| {
        command.args(["--role", "validator"]);
    });
    assert_eq!(code, Some(0), "{checks:#?}");
    for name in ["configuration", "wallet", "registration", "permit", "stake", "bucket", "beacon"] {
        assert_eq!(status(&checks, name), "pass", "{}", checks[name]);
    }
    // No role has started yet.
    assert_eq!((status(&checks, "published"), status(&checks, "trainer")), ("warn", "warn"));

    let (code, checks) = world.doctor("miner-1", |command| {
        command.args(["--role", "validator"]);
        command.env("R2_READ_SECRET_ACCESS_KEY", "no such secret");
        command.env("GRAIL_BEACON_RELAYS", "http://127.0.0.1:1");
    });
    assert_eq!(code, Some(1));
    for name in ["permit", "stake", "bucket", "beacon"] {
        assert_eq!(status(&checks, name), "fail", "{}", checks[name]);
    }
    assert!(told(&checks, "bucket").contains("with the read key"), "{}", checks["bucket"]);
    assert!(!format!("{checks:?}").contains("no such secret"));

    let made = grail()
        .args(["wallet", "new", "stranger", "--no-encrypt", "--path"])
        .arg(world.network.dir().join("wallets"))
        .output()
        .unwrap();
    assert!(made.status.success());
    let (code, checks) = world.doctor("stranger", |_| {});
    assert_eq!((code, status(&checks, "registration")), (Some(1), "fail"));
    let registration = told(&checks, "registration");
    assert!(registration.contains("btcli subnet register --netuid 81"), "{registration}");
    assert!(registration.contains("TAO"), "{registration}");

    let (code, checks) = world.doctor("nobody", |command| {
        command.env("GRAIL_NETWORK_ENDPOINTS", "ws://127.0.0.1:1");
        command.env("GRAIL_NETWORK_CALL_TIMEOUT", "1s");
        command.env_remove("R2_WRITE_ACCESS_KEY_ID");
    });
    assert_eq!(code, Some(1));
    for name in ["wallet", "chain", "bucket"] {
        assert_eq!(status(&checks, name), "fail", "{}", checks[name]);
    }
    assert!(told(&checks, "bucket").contains("R2_WRITE_ACCESS_KEY_ID"), "{}", checks["bucket"]);
    for name in ["registration", "permit", "stake", "published", "trainer"] {
        assert_eq!(status(&checks, name), "skipped", "{}", checks[name]);
    }
    assert_eq!(status(&checks, "beacon"), "pass", "{}", checks["beacon"]);
    world.runtime.shutdown_background();
}

#[test]
fn what_is_missing_is_said_before_anything_starts() {
    let _machine = machine();
    let world = World::new();
    let refused = |change: &dyn Fn(&mut Command)| {
        let mut command = world.role("mine", "miner-1");
        change(&mut command);
        let (status, output) = Running::start(command).finish();
        assert!(!status.success(), "{output}");
        output
    };
    let without = |name: &'static str| {
        move |command: &mut Command| {
            command.env_remove(name);
        }
    };
    let output = refused(&without("R2_READ_ACCESS_KEY_ID"));
    assert!(output.contains("R2_READ_ACCESS_KEY_ID"), "{output}");
    let output = refused(&|command| {
        command.args(["--hotkey", "nobody"]);
    });
    assert!(output.contains("hotkey nobody of wallet miner-1"), "{output}");
    let output = refused(&|command| {
        command.env("GRAIL_BEACON_CHAIN", "11".repeat(32));
    });
    assert!(output.contains("beacon.chain"), "{output}");
    let output = refused(&|command| {
        command.env("GRAIL_NETWORK_ENDPOINTS", "ws://127.0.0.1:1");
    });
    assert!(output.contains("while connecting to network custom"), "{output}");
    let mut trainer = world.role("train", "miner-1");
    trainer.args(["--model", "default"]);
    let (_, output) = Running::start(trainer).finish();
    assert!(output.contains("uid 0 is the trainer"), "{output}");
    world.runtime.shutdown_background();
}

#[test]
fn a_local_network_may_keep_its_buckets_on_a_server() {
    let _machine = machine();
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let owners = ["0", "1", "2"].map(|uid| {
        let keys = bucket("trainer");
        BucketSecrets { bucket_name: format!("own-{uid}"), ..keys }
    });
    let store = runtime.block_on(S3Server::start(&owners));
    let dir = folder.path().join("net");
    let mut command = grail();
    command.arg("localnet").arg("--dir").arg(&dir);
    command.args(["--block-time", "250ms", "--groups-per-window", "2", "--threads", "2"]);
    command.args(["--store", "s3", "--windows", "2", "--miners", "1", "--cheaters", "0"]);
    let keys = bucket("trainer");
    command.env("GRAIL_STORE_ENDPOINT", format!("http://localhost:{}", store.port));
    command.env("GRAIL_STORE_ALLOW_HTTP", "true").env("GRAIL_STORE_REGION", "us-east-1");
    command.env("GRAIL_STORE_BUCKET", "own");
    command.env("R2_WRITE_ACCESS_KEY_ID", &keys.write.access_key_id);
    command.env("R2_WRITE_SECRET_ACCESS_KEY", keys.write.secret_access_key.as_str());
    command.env("R2_READ_ACCESS_KEY_ID", &keys.read.access_key_id);
    command.env("R2_READ_SECRET_ACCESS_KEY", keys.read.secret_access_key.as_str());
    let (status, output) = Running::start(command).finish();
    assert!(status.success(), "{output}");
    assert!(output.contains("s3://own-1/"), "{output}");
    let report = support::report(&dir.join("report.json"));
    let miner = &report["miners"][0];
    assert!(miner["checked"].as_u64() > Some(0), "{report}\n{output}");
    assert_eq!(miner["accepted"], miner["checked"], "{miner}");
    assert_eq!(support::files_below_if_there(&dir.join("store/uploads")), [] as [&Path; 0]);
    runtime.shutdown_background();
}
