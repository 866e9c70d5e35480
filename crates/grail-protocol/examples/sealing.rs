//! Measures what sealing costs a miner, opening a validator, and refusing a bad file.
//!
//!     cargo run --release -p grail-protocol --example sealing
//!
//! Files have groups of 16 rollouts with 256 tokens each. One thread; medians of repeated runs.

#![expect(clippy::print_stdout, reason = "a table is what the example is for")]
#![expect(clippy::disallowed_types, reason = "it measures time, which the crate itself never does")]

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use grail_protocol::constants::{NUMERICS_EXACT, ROLLOUTS_PER_GROUP};
use grail_protocol::ids::{Digest, Hotkey, Netuid, Signature, Window};
use grail_protocol::prover;
use grail_protocol::rollout::{
    Body, EnvironmentFingerprint, FileHeader, Group, Proof, Rollout, RolloutFile, commitment,
};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::signature::SIGNING_CONTEXT;
use grail_protocol::timelock::{self, BeaconPublicKey, RoundOpener, SealTo};
use grail_protocol::verifier::{ExpectedContext, ExpectedSeal, check_structure};
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};

/// drand's quicknet, and the signature of its round 1000.
const KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3a\
                   c6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5\
                   a6e9c76a4bc09e76eae8991ef5ece45a";
const ROUND: u64 = 1_000;
const SIGNATURE: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2\
                         bacbe47e4b6b63ed5e39";
const TOKENS: u32 = 256;
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> Result<(), Box<dyn Error>> {
    let key: BeaconPublicKey = KEY.parse()?;
    let to = SealTo { key, round: ROUND };
    let opener = RoundOpener::new(key, ROUND, SIGNATURE.parse()?)?;
    bytes(to, &opener)?;
    files(to, &opener)?;
    refusals(to, &opener)
}

fn bytes(to: SealTo, opener: &RoundOpener) -> Result<(), Box<dyn Error>> {
    println!("{:>12} {:>12} {:>12} {:>14} {:>14}", "bytes", "seal", "open", "seal", "open");
    for (size, times) in [(0usize, 30), (1 << 20, 30), (64 << 20, 5), (349 << 20, 3)] {
        let content = vec![7u8; size];
        let sealed = timelock::seal(to, content.clone(), &[1; 32])?;
        let seals = (0..times).map(|_| content.clone()).map(|content| {
            timed(|| timelock::seal(to, content, &[1; 32]).map(|sealed| sealed.len()))
        });
        let seal = median(seals.collect());
        let open = median((0..times).map(|_| timed(|| opener.open(&sealed))).collect());
        let rate = |took: Duration| size as f64 / MIB / took.as_secs_f64();
        println!(
            "{size:>12} {:>9.2} ms {:>9.2} ms {:>8.0} MiB/s {:>8.0} MiB/s",
            ms(seal),
            ms(open),
            rate(seal),
            rate(open)
        );
    }
    Ok(())
}

fn files(to: SealTo, opener: &RoundOpener) -> Result<(), Box<dyn Error>> {
    println!("\nwhole files: sign and seal by the miner, check_structure by the validator");
    for count in [1u32, 8, 64, 1_024] {
        let times = if count > 100 { 3 } else { 15 };
        let wallet = Wallet::new(1);
        let (header, groups) = (wallet.header(), groups(count));
        let file = wallet.seal(header.clone(), groups.clone(), to)?;
        let made = (0..times).map(|_| (header.clone(), groups.clone()));
        let make = made.map(|(header, groups)| timed(|| wallet.seal(header, groups, to)));
        let (make, expected) = (median(make.collect()), expected(&header, opener));
        let check = (0..times).map(|_| timed(|| check_structure(&file, &expected)));
        let check = median(check.collect());
        println!(
            "{:>6} groups, {:>9} tokens, {:>10} bytes: {:>8.2} ms {:>8.2} ms ({:.3} ms a rollout)",
            count,
            count * ROLLOUTS_PER_GROUP * TOKENS,
            file.len(),
            ms(make),
            ms(check),
            ms(check) / f64::from(count * ROLLOUTS_PER_GROUP)
        );
    }
    Ok(())
}

fn refusals(to: SealTo, opener: &RoundOpener) -> Result<(), Box<dyn Error>> {
    const GROUPS: u32 = 1_024;
    println!("\nrefusing a file of {GROUPS} groups ({} rollouts)", GROUPS * ROLLOUTS_PER_GROUP);
    let (wallet, other) = (Wallet::new(1), Wallet::new(2));
    let honest = wallet.seal(wallet.header(), groups(GROUPS), to)?;
    let file = RolloutFile::decode(&honest)?;
    let changed = |change: &dyn Fn(&mut RolloutFile)| {
        let mut file = file.clone();
        change(&mut file);
        file.encode()
    };
    let mut noise = honest.clone();
    noise[..8].fill(0);
    let cases = [
        ("not a file", noise),
        ("cut in half", honest[..honest.len() / 2].to_vec()),
        ("another window", changed(&|file| file.header.window = file.header.window.next())?),
        (
            "groups in the clear",
            prover::sign_open(wallet.header(), groups(GROUPS), &|message| wallet.sign(message))?,
        ),
        (
            "signed by another key",
            changed(&|file| {
                file.signature = other.sign(&commitment::signed_message(&file.root));
            })?,
        ),
        ("no point in the seal", changed(&|file| ciphertext(file)[10] ^= 1)?),
        ("sealed to another round", {
            let mut file =
                wallet.seal(wallet.header(), groups(GROUPS), SealTo { round: 999, ..to })?;
            let at = file.len() - ciphertext(&mut RolloutFile::decode(&file)?).len() - 12;
            file[at..at + 8].copy_from_slice(&ROUND.to_le_bytes());
            file
        }),
        (
            "last byte changed",
            changed(&|file| {
                if let Some(last) = ciphertext(file).last_mut() {
                    *last ^= 1;
                }
            })?,
        ),
        ("seals no groups", {
            let sealed = timelock::seal(to, vec![0xff; 180 << 20], &[2; 32])?;
            changed(&|file| *ciphertext(file) = sealed.clone())?
        }),
        ("another root", {
            let root = Digest([9; 32]);
            changed(&|file| {
                file.root = root;
                file.signature = wallet.sign(&commitment::signed_message(&root));
            })?
        }),
    ];
    let expected = expected(&wallet.header(), opener);
    for (name, bytes) in cases {
        let refused = check_structure(&bytes, &expected);
        let code = refused.as_ref().err().map_or("accepted", |rejection| rejection.code());
        let took = (0..5).map(|_| timed(|| check_structure(&bytes, &expected).is_err()));
        println!(
            "{name:>24} {code:>16} {:>10} bytes {:>10.3} ms",
            bytes.len(),
            ms(median(took.collect()))
        );
    }
    Ok(())
}

fn ciphertext(file: &mut RolloutFile) -> &mut Vec<u8> {
    match &mut file.body {
        Body::Sealed(body) => &mut body.ciphertext,
        Body::Open(_) => panic!("the example seals its files"),
    }
}

struct Wallet(Keypair);

impl Wallet {
    fn new(seed: u8) -> Self {
        let secret = MiniSecretKey::from_bytes(&[seed; 32]).expect("32 bytes are a seed");
        Self(secret.expand_to_keypair(ExpansionMode::Ed25519))
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign_simple(SIGNING_CONTEXT, message).to_bytes())
    }

    fn seal(
        &self,
        header: FileHeader,
        groups: Vec<Group>,
        to: SealTo,
    ) -> Result<Vec<u8>, prover::ProverError> {
        prover::seal(header, groups, to, &|message| self.sign(message))
    }

    fn header(&self) -> FileHeader {
        FileHeader {
            network: "local".to_owned(),
            netuid: Netuid(81),
            window: Window::default(),
            hotkey: Hotkey(self.0.public.to_bytes()),
            checkpoint: Digest([0xc0; 32]),
            environment: EnvironmentFingerprint::new("arithmetic", "{}"),
            sampler: SamplerParams { temperature: 1.0, max_new_tokens: TOKENS },
            tokenizer: Digest([0x70; 32]),
            numerics: NUMERICS_EXACT.to_owned(),
            rollouts_per_group: ROLLOUTS_PER_GROUP,
        }
    }
}

fn groups(count: u32) -> Vec<Group> {
    let rollout = |seed: u32| Rollout {
        tokens: (0..TOKENS).map(|position| seed.wrapping_mul(31).wrapping_add(position)).collect(),
        reward: 0.5,
        success: true,
        proof: Proof::Exact(Digest([7; 32])),
    };
    (0..count)
        .map(|index| Group {
            index,
            prompt: (0..64).collect(),
            rollouts: (0..ROLLOUTS_PER_GROUP).map(rollout).collect(),
        })
        .collect()
}

fn expected(header: &FileHeader, opener: &RoundOpener) -> ExpectedContext {
    ExpectedContext {
        header: header.clone(),
        seal: ExpectedSeal::Round(opener.clone()),
        vocab_size: u32::MAX,
        eos_token_ids: vec![u32::MAX],
        sequence_tokens_max: 4_096,
        accepts_other_numerics: false,
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let made = work();
    let took = start.elapsed();
    drop(black_box(made));
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
