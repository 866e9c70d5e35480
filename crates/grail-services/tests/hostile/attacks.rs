//! Rollout files that cheat, break or burden a validator without a single forward pass.
//!
//! The test makes them small and checks what they are rejected for and how much memory they get; the
//! example makes them as large as the rules allow and measures what they cost.

use std::sync::Arc;

use grail_ports::beacon::Beacon as _;
use grail_ports::model::StopFlag;
use grail_ports::signer::Signer as _;
use grail_protocol::constants::{ROLLOUT_FILE_BYTES_MAX, ROLLOUTS_PER_GROUP};
use grail_protocol::ids::{Digest, Hotkey, TokenId};
use grail_protocol::prover::{seal, sign_open};
use grail_protocol::randomness::BeaconSchedule;
use grail_protocol::rollout::encoding::encode_groups;
use grail_protocol::rollout::{
    Body, FileHeader, Group, Proof, Rollout, RolloutFile, SealedBody, commitment,
};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::timelock::{self, RoundOpener, SealTo};
use grail_protocol::verifier::ExpectedSeal;
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::context::Heartbeat;
use grail_services::validation::pipeline::{Bench, judge};
use grail_testkit::{FakeBeacon, FakeEnvironment, FakeSigner};

use crate::common::window;

const ROUND: u64 = 7;

/// How large the files are.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Groups of a full file.
    pub groups: u32,
    /// Tokens of each completion of a full file, which is the longest that is allowed.
    pub tokens: u32,
    /// Bytes of a file that is only large.
    pub bytes: usize,
}

/// A validator, a miner and a beacon.
pub struct Scene {
    bench: Bench,
    to: SealTo,
    signer: FakeSigner,
    scale: Scale,
}

/// A hostile file.
pub struct Attack {
    /// What it is.
    pub name: &'static str,
    /// Code of its rejection.
    pub code: &'static str,
    /// Makes the file.
    pub make: fn(&Scene) -> Vec<u8>,
}

/// Every hostile file, those that fall early first.
pub const ATTACKS: [Attack; 17] = [
    Attack { name: "no bytes", code: "malformed", make: |_| Vec::new() },
    Attack { name: "zeros", code: "malformed", make: |scene| vec![0; scene.scale.bytes] },
    Attack {
        name: "a byte more than allowed",
        code: "malformed",
        make: |_| vec![0; max_bytes() + 1],
    },
    Attack { name: "cut in half", code: "malformed", make: cut },
    Attack { name: "garbage behind the end", code: "malformed", make: trailing },
    Attack { name: "another window", code: "window_mismatch", make: other_window },
    Attack { name: "another round", code: "wrong_seal", make: other_round },
    Attack { name: "not sealed", code: "wrong_seal", make: unsealed },
    Attack { name: "another's signature", code: "bad_signature", make: forged },
    Attack {
        name: "signed, a seal that is none",
        code: "seal_broken",
        make: |scene| signed_seal(scene, vec![0x5a; scene.room()]),
    },
    Attack {
        name: "signed, last bit of the seal flipped",
        code: "seal_broken",
        make: |scene| {
            let mut ciphertext = sealed(scene, vec![0; scene.content_room()]);
            *ciphertext.last_mut().expect("not empty") ^= 1;
            signed_seal(scene, ciphertext)
        },
    },
    Attack {
        name: "signed and sealed, zeros",
        code: "malformed",
        make: |scene| signed_seal(scene, sealed(scene, vec![0; scene.content_room()])),
    },
    Attack {
        name: "signed and sealed, one group and garbage",
        code: "malformed",
        make: |scene| {
            let mut content = encoded(scene, &groups(1, scene.scale.tokens));
            content.resize(scene.content_room(), 0);
            signed_seal(scene, sealed(scene, content))
        },
    },
    Attack {
        name: "signed root of other groups",
        code: "root_mismatch",
        make: |scene| {
            let content = encoded(scene, &scene.full());
            signed_seal(scene, sealed(scene, content))
        },
    },
    Attack {
        name: "groups without rollouts",
        code: "wrong_group_size",
        make: |scene| honest(scene, (0..scene.scale.groups).map(empty_group).collect()),
    },
    Attack {
        name: "rollouts without tokens",
        code: "bad_termination",
        make: |scene| honest(scene, groups(scene.scale.groups, 0)),
    },
    Attack {
        name: "last token of a full file unknown",
        code: "unknown_token",
        make: |scene| {
            let mut groups = scene.full();
            let rollout = groups.last_mut().and_then(|group| group.rollouts.last_mut());
            *rollout.and_then(|it| it.tokens.last_mut()).expect("it is full") = TokenId::MAX;
            honest(scene, groups)
        },
    },
];

impl Scene {
    /// Makes a scene for files of this size.
    pub fn new(scale: Scale) -> Self {
        let schedule = BeaconSchedule { genesis_ms: 0, period_ms: 3_000 };
        let beacon = FakeBeacon::new(schedule, Arc::new(|| u64::MAX / 2), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let round = runtime.expect("a runtime without drivers").block_on(beacon.round(ROUND));
        let signature = round.ok().flatten().expect("the round is out").signature;
        let to = SealTo { key: beacon.public_key(), round: ROUND };
        let opener = RoundOpener::new(to.key, ROUND, signature).expect("the beacon's own");
        let signer = FakeSigner::new(3);
        let environment = Arc::new(FakeEnvironment::default());
        let seal = (ExpectedSeal::Round(opener), to);
        let (bench, _) = window(environment, signer.hotkey(), seal, 4);
        let sampler = SamplerParams { max_new_tokens: scale.tokens, ..bench.checkpoint.sampler };
        let checkpoint = LoadedCheckpoint { sampler, ..(*bench.checkpoint).clone() };
        let bench = Bench { checkpoint: Arc::new(checkpoint), ..bench };
        Self { bench, to, signer, scale }
    }

    fn hotkey(&self) -> Hotkey {
        self.signer.hotkey()
    }

    fn header(&self) -> FileHeader {
        let Bench { network, netuid, window, checkpoint, .. } = &self.bench;
        checkpoint.header(network, *netuid, *window, self.hotkey())
    }

    fn full(&self) -> Vec<Group> {
        groups(self.scale.groups, self.scale.tokens)
    }

    /// Bytes of the largest ciphertext in a file, some left for the frame.
    fn room(&self) -> usize {
        self.scale.bytes - 1_024
    }

    fn content_room(&self) -> usize {
        self.room() - timelock::OVERHEAD_BYTES
    }

    /// Judges a file as the miner's own and returns the code of its rejection.
    pub fn judge(&self, bytes: &[u8]) -> Option<&'static str> {
        let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
        let judgement = judge(&self.bench, self.hotkey(), bytes, &stop, &heartbeat);
        let rejection = judgement.expect("nothing fails on our side").rejection;
        rejection.map(|rejection| rejection.code())
    }
}

fn max_bytes() -> usize {
    usize::try_from(ROLLOUT_FILE_BYTES_MAX).expect("350 MiB fit")
}

fn empty_group(index: u32) -> Group {
    Group { index, prompt: Vec::new(), rollouts: Vec::new() }
}

/// Groups in the right form, with nonsense in them.
fn groups(n: u32, tokens: u32) -> Vec<Group> {
    let rollout = |index: u32| Rollout {
        // Characters, which never end a completion.
        tokens: (0..tokens).map(|at| 3 + (at * 7 + index) % 100).collect(),
        reward: 0.0,
        success: false,
        proof: Proof::Exact(Digest([9; 32])),
    };
    let rollouts: Vec<Rollout> = (0..ROLLOUTS_PER_GROUP).map(rollout).collect();
    (0..n).map(|index| Group { index, prompt: vec![5; 50], rollouts: rollouts.clone() }).collect()
}

/// A file as an honest miner makes it, but for its groups.
fn honest(scene: &Scene, groups: Vec<Group>) -> Vec<u8> {
    sign_and_seal(scene.header(), scene.to, &scene.signer, groups)
}

fn sign_and_seal(
    header: FileHeader,
    to: SealTo,
    signer: &FakeSigner,
    groups: Vec<Group>,
) -> Vec<u8> {
    seal(header, groups, to, &|message| signer.sign(message)).expect("it fits")
}

fn cut(scene: &Scene) -> Vec<u8> {
    let mut bytes = honest(scene, scene.full());
    bytes.truncate(bytes.len() / 2);
    bytes
}

fn trailing(scene: &Scene) -> Vec<u8> {
    let mut bytes = honest(scene, scene.full());
    bytes.resize(bytes.len().max(scene.scale.bytes), 0);
    bytes
}

fn other_window(scene: &Scene) -> Vec<u8> {
    let header = FileHeader { window: scene.bench.window.next(), ..scene.header() };
    sign_and_seal(header, scene.to, &scene.signer, scene.full())
}

fn other_round(scene: &Scene) -> Vec<u8> {
    let to = SealTo { round: ROUND + 1, ..scene.to };
    sign_and_seal(scene.header(), to, &scene.signer, scene.full())
}

fn forged(scene: &Scene) -> Vec<u8> {
    sign_and_seal(scene.header(), scene.to, &FakeSigner::new(4), scene.full())
}

fn unsealed(scene: &Scene) -> Vec<u8> {
    let header = scene.header();
    sign_open(header, scene.full(), &|message| scene.signer.sign(message)).expect("it fits")
}

fn encoded(scene: &Scene, groups: &[Group]) -> Vec<u8> {
    encode_groups(&scene.header().numerics, groups).expect("it fits")
}

fn sealed(scene: &Scene, content: Vec<u8>) -> Vec<u8> {
    timelock::seal(scene.to, content, &[7; 32]).expect("the key is a point")
}

/// A file around this ciphertext, with a signed root of no groups at all.
fn signed_seal(scene: &Scene, ciphertext: Vec<u8>) -> Vec<u8> {
    let header = scene.header();
    let root = commitment::root(&header, &[]);
    let signature = scene.signer.sign(&commitment::signed_message(&root));
    let body = Body::Sealed(SealedBody { round: ROUND, ciphertext });
    RolloutFile { root, signature, header, body }.encode().expect("it fits")
}
