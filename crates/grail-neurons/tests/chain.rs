//! Checkpoints over many windows, in both profiles: deltas, full copies beside them, clean-up, and
//! readers that come late.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::any::Any;
use std::path::Path;
use std::sync::{Arc, Mutex};

use grail_neurons::neuron::Neuron;
use grail_neurons::roles::{ReferenceTrainerNeuron, TrainerNeuron};
use grail_ports::layer::{Call, Layer, Layered, PortError};
use grail_ports::object_store::{Buckets, ObjectStore, ReadCredentials, StoreError};
use grail_protocol::checkpoint::{Unsigned, WEIGHTS_FILE};
use grail_protocol::ids::Window;
use grail_protocol::keys::{self, MANIFEST_SIGNATURE_FILE, METADATA_FILE};
use grail_protocol::v5::python::json;
use grail_services::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use grail_services::checkpoint::reference::{Method, Obtained, ReferenceConsumer};
use grail_services::checkpoint::weights::weights_hash;
use grail_services::context::{Heartbeat, RunContext};
use grail_services::training::evaluation::HeldOut;
use grail_services::training::service::TrainingService;
use support::reference::Subnet;
use support::{
    MINER, OTHER_MINER, TRAINER, VALIDATOR, World, hotkey, settle, training_config, window,
};
use tokio::sync::Semaphore;

/// Buckets whose own one can refuse or hold what is written to some keys.
struct Picky {
    inner: Arc<dyn Buckets>,
    rules: Arc<Rules>,
}

struct Rules {
    /// Part of a key that cannot be written.
    refused: Mutex<Option<String>>,
    /// Part of a key whose writing waits for a permit.
    held: Mutex<Option<String>>,
    permits: Semaphore,
}

impl Rules {
    fn new() -> Arc<Self> {
        let (refused, held) = (Mutex::default(), Mutex::default());
        Arc::new(Self { refused, held, permits: Semaphore::new(0) })
    }

    fn refuse(&self, part: Option<String>) {
        *self.refused.lock().unwrap() = part;
    }

    fn hold(&self, part: Option<String>) {
        *self.held.lock().unwrap() = part;
    }
}

impl Buckets for Picky {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Layered::new(self.inner.own(), self.rules.clone()))
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        self.inner.open(credentials)
    }
}

impl Layer for Rules {
    async fn around<T, E, F>(
        &self,
        call: Call<'_>,
        make: impl Fn() -> F + Send + Sync,
    ) -> Result<T, E>
    where
        T: Any + Send,
        E: PortError,
        F: Future<Output = Result<T, E>> + Send,
    {
        let names = |rule: &Mutex<Option<String>>| {
            rule.lock().unwrap().as_ref().is_some_and(|part| call.argument.contains(part.as_str()))
        };
        let is_put = ["put", "put_file"].contains(&call.verb);
        if is_put && names(&self.refused) {
            return Err(E::unavailable("the test refuses it".to_owned()));
        }
        if is_put && names(&self.held) {
            self.permits.acquire().await.unwrap().forget();
        }
        make().await
    }
}

fn picky(ctx: RunContext, rules: &Arc<Rules>) -> RunContext {
    let buckets = Arc::new(Picky { inner: ctx.buckets.clone(), rules: rules.clone() });
    RunContext { buckets, ..ctx }
}

/// Makes a subnet of one group a window.
fn small() -> Subnet {
    let mut subnet = Subnet::of(World { groups: 1, problems: 1, ..World::new() });
    // Slow enough that the fake's completions stay what the profile's soft checks expect.
    subnet.training.steps.optimizer.lr = 0.002;
    subnet
}

fn reference_trainer(subnet: &Subnet, rules: &Arc<Rules>) -> ReferenceTrainerNeuron {
    subnet.trainer_in(picky(subnet.world.context(TRAINER), rules))
}

fn native_trainer(world: &World, rules: &Arc<Rules>) -> TrainerNeuron {
    let ctx = picky(world.context(TRAINER), rules);
    let held_out = HeldOut { problems: 1, seeds: Arc::new(u64::from), at_once: 1 };
    let (base, environment) = (world.folder.path().join("base"), world.environment.clone());
    let service = TrainingService::new(ctx.clone(), training_config(), environment, held_out, base);
    TrainerNeuron::new(ctx, service)
}

/// A reader of the reference's profile with an empty cache.
fn reader(world: &World, cache: &Path) -> ReferenceConsumer {
    ReferenceConsumer {
        cache: cache.to_owned(),
        trainer: hotkey(TRAINER),
        bucket: world.storage.buckets(hotkey(TRAINER)).own(),
        unsigned: Unsigned::Refuse,
        heartbeat: Heartbeat::default(),
    }
}

fn assert_intact(obtained: &Obtained) {
    let found = weights_hash(&[obtained.dir.join(WEIGHTS_FILE)]).unwrap();
    assert_eq!(Some(found), obtained.metadata.weights_hash, "{}", obtained.window);
    assert_eq!(obtained.metadata.missing(), Vec::<String>::new());
}

/// Starts roles that go on from window to window.
async fn start(neurons: &mut [&mut dyn Neuron]) {
    for neuron in neurons {
        neuron.start().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn deltas_are_followed_cleaned_up_and_caught_up_with() {
    let subnet = small();
    let (world, rules) = (&subnet.world, Rules::new());
    let mut trainer = reference_trainer(&subnet, &rules);
    let (mut miner, mut validator) = (subnet.miner(MINER), subnet.validator());
    start(&mut [&mut trainer, &mut miner, &mut validator]).await;
    let mut log = settle(&mut trainer, world.chain.head()).await;
    let follower = world.folder.path().join("follower");
    let mut whole = Vec::new();
    // A delta that cannot go up is given up after three attempts.
    rules.refuse(Some("checkpoint-210/DELTA/".to_owned()));
    for round in 1..=41u64 {
        let head = world.next_window();
        log += &settle(&mut validator, head).await;
        log += &settle(&mut trainer, head).await;
        log += &settle(&mut miner, head).await;
        let current = Window::containing(head.number);
        let Some(obtained) = reader(world, &follower).for_window(current.next()).await.unwrap()
        else {
            panic!("no checkpoint in round {round}\n{log}");
        };
        assert_intact(&obtained);
        if obtained.method == Method::Full {
            whole.push(obtained.window.start().0);
        }
        // Whoever still needs an older checkpoint, with nothing in the cache, finds it.
        for back in 0..=4u64.min(round - 1) {
            let needed = window(current.start().0 - 30 * back);
            let cache = world.folder.path().join(format!("late-{round}-{back}"));
            let late = reader(world, &cache).for_window(needed).await.unwrap().unwrap();
            assert_intact(&late);
            std::fs::remove_dir_all(cache).unwrap();
        }
    }
    // The first one, and the one whose delta was given up; a restart would begin whole as well.
    assert_eq!(whole, [0, 210], "{log}");
    let keys = world.storage.keys(hotkey(TRAINER));
    let has = |key: String| keys.contains(&key);
    for anchor in [900, 1_200] {
        assert!(has(keys::checkpoint_file(window(anchor), MANIFEST_SIGNATURE_FILE)), "{keys:?}");
        let bytes =
            world.storage.peek(hotkey(TRAINER), &keys::delta_file(window(anchor), METADATA_FILE));
        let text = String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let metadata = json::parse(&text).unwrap();
        let prev = metadata.get("prev_window");
        assert_eq!(prev, Some(&json::Value::Integer(anchor as i64 - 30)));
    }
    assert!(!has(keys::delta_file(window(330), MANIFEST_SIGNATURE_FILE)), "{keys:?}");
    assert!(has(keys::delta_file(window(1_230), MANIFEST_SIGNATURE_FILE)), "{keys:?}");

    // A miner that comes now goes over the chain, and its work is accepted.
    let mut late = subnet.miner(OTHER_MINER);
    late.start().await.unwrap();
    let log = settle(&mut late, world.chain.head()).await;
    assert!(log.contains("uploaded"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_full_copy_that_is_still_going_up_is_in_nobodys_way() {
    for is_reference in [false, true] {
        let subnet = small();
        let (world, rules) = (&subnet.world, Rules::new());
        let mut trainer: Box<dyn Neuron> = match is_reference {
            true => Box::new(reference_trainer(&subnet, &rules)),
            false => Box::new(native_trainer(world, &rules)),
        };
        let (mut miner, mut validator): (Box<dyn Neuron>, Box<dyn Neuron>) = match is_reference {
            true => (Box::new(subnet.miner(MINER)), Box::new(subnet.validator())),
            false => (Box::new(world.miner(MINER)), Box::new(world.validator())),
        };
        start(&mut [&mut *trainer, &mut *miner, &mut *validator]).await;
        let mut log = turn(&mut *trainer, world.chain.head()).await;
        let whole = |name: &str| keys::checkpoint_file(window(300), name);
        // The weights of the anchor's full copy stay on their way.
        rules.hold(Some(whole(WEIGHTS_FILE)));
        for round in 1..=12 {
            let head = world.next_window();
            for neuron in [&mut *validator, &mut *trainer, &mut *miner] {
                log += &turn(neuron, head).await;
            }
            if round < 10 {
                continue;
            }
            // Signature and metadata come last: half a copy is none.
            let there = |name: &str| world.storage.peek(hotkey(TRAINER), &whole(name)).is_some();
            assert!(!there(METADATA_FILE) && !there(MANIFEST_SIGNATURE_FILE), "{log}");
            let ctx = RunContext {
                state_dir: world.folder.path().join(format!("reader-{round}")),
                ..world.context(VALIDATOR)
            };
            let next = Window::containing(head.number).next();
            let found = match is_reference {
                true => {
                    let obtained = reader(world, &ctx.state_dir).for_window(next).await.unwrap();
                    obtained.inspect(assert_intact).map(|it| it.window)
                }
                false => {
                    let mut consumer = CheckpointConsumer::new(ctx, Runtimes::Published);
                    consumer.for_window(next).await.unwrap().map(|it| it.window)
                }
            };
            assert_eq!(found, Some(Window::containing(head.number)), "{log}");
        }
        // On its way it outlives two newer checkpoints, and arrives.
        rules.hold(None);
        rules.permits.add_permits(1);
        for _ in 0..2 {
            let head = world.next_window();
            for neuron in [&mut *validator, &mut *trainer, &mut *miner] {
                log += &turn(neuron, head).await;
            }
        }
        let copy = world.storage.peek(hotkey(TRAINER), &whole(MANIFEST_SIGNATURE_FILE));
        assert!(copy.is_some(), "{log}");
    }
}

/// As [`settle`], for a role of any kind; work beside the ticks gets its turns as well.
async fn turn(neuron: &mut dyn Neuron, head: grail_ports::chain::Block) -> String {
    let mut log = String::new();
    for _ in 0..6 {
        log += &format!("{} at {}: {:?}\n", neuron.role(), head.number, neuron.tick(head).await);
        tokio::task::yield_now().await;
    }
    log
}
