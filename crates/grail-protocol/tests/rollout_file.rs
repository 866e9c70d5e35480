//! The bytes of a rollout file: golden, canonical, bounded, and covered by the signature to the last
//! bit.

mod fixtures;

use fixtures::{Wallet, context, groups, header, open_context, opener, quicknet, sealed, unsealed};
use grail_protocol::codec::{DecodeError, EncodeError};
use grail_protocol::constants::{
    COMPLETION_TOKENS_MAX, GROUPS_PER_FILE_MAX, PROMPT_TOKENS_MAX, ROLLOUT_FILE_BYTES_MAX,
};
use grail_protocol::ids::{Digest, Hotkey, Netuid, Signature, Window};
use grail_protocol::prover::{self, ProverError};
use grail_protocol::rollout::{
    Body, EnvironmentFingerprint, FileHeader, Group, Proof, RawRollouts, Rollout, RolloutFile,
    SealedBody, commitment,
};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::sketch::{Sketch, sketches_of};
use grail_protocol::timelock::{self, RoundOpener};
use grail_protocol::verifier::{Rejection, check_structure};
use proptest::prelude::*;

/// Something done to honest content.
type Change<'a> = &'a dyn Fn(&mut FileHeader, &mut Vec<Group>);

fn golden_bytes() -> Vec<u8> {
    from_hex(include_str!("vectors/rollout_file.hex"))
}

fn from_hex(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).expect("the vector is hex")
}

/// Returns whether anything but a context notices that something is wrong.
fn is_refused(bytes: &[u8], opener: Option<&RoundOpener>) -> bool {
    let Ok(decoded) = RawRollouts::new(bytes).expect("small enough").decode() else { return true };
    let Ok(vouched) = decoded.verify_signature() else { return true };
    vouched.open(opener).map_or(true, |opened| opened.verify_root().is_err())
}

/// Made once; if this fails, miners and validators of two versions no longer understand each other.
#[test]
fn the_golden_file_has_these_bytes_and_this_root() {
    let wallet = Wallet::new(1);
    let bytes = golden_bytes();
    let file = RolloutFile::decode(&bytes).unwrap();
    assert_eq!(file.header, header(wallet.hotkey()));
    assert_eq!(file.body, Body::Open(groups(2)));
    assert_eq!(file.encode().unwrap(), bytes);
    assert_eq!(file.root.to_hex(), GOLDEN_ROOT);
    let signed = check_structure(&bytes, &open_context(wallet.hotkey())).unwrap();
    assert_eq!(signed.root(), file.root);
}

/// The same, sealed to a round of drand's whose signature everybody knows.
#[test]
fn the_golden_sealed_file_opens_to_the_same_content() {
    let wallet = Wallet::new(1);
    let bytes = from_hex(include_str!("vectors/sealed_file.hex"));
    let file = RolloutFile::decode(&bytes).unwrap();
    assert_eq!(
        (file.root.to_hex().as_str(), &file.header),
        (GOLDEN_ROOT, &header(wallet.hotkey()))
    );
    assert!(matches!(&file.body, Body::Sealed(SealedBody { round: 1_000, .. })));
    assert_eq!(file.encode().unwrap(), bytes);
    let opened = check_structure(&bytes, &context(wallet.hotkey())).unwrap();
    assert_eq!(opened.groups(), groups(2));
}

const GOLDEN_ROOT: &str = "a5aa4b783cc179db39146df1accd47fb4809a678858eed7df4c8d2e7540b6a2b";

#[test]
fn a_sealed_file_is_accepted_even_without_groups() {
    let wallet = Wallet::new(1);
    for count in [0, 1, 5] {
        let bytes = sealed(&wallet, header(wallet.hotkey()), groups(count));
        let file = check_structure(&bytes, &context(wallet.hotkey())).unwrap();
        assert_eq!(file.groups(), groups(count));
        assert_eq!(file.n_rollouts(), 16 * count as usize);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let wallet = Wallet::new(1);
    let honest = unsealed(&wallet, header(wallet.hotkey()), groups(1));
    for position in 0..8 * honest.len() {
        let mut bytes = honest.clone();
        bytes[position / 8] ^= 1 << (position % 8);
        assert!(is_refused(&bytes, None), "bit {} of byte {}", position % 8, position / 8);
    }
}

#[test]
fn every_flipped_bit_of_a_seal_is_noticed() {
    let wallet = Wallet::new(1);
    let honest = sealed(&wallet, header(wallet.hotkey()), groups(1));
    let (opener, context) = (opener(), context(wallet.hotkey()));
    // The round stands outside: a context knows the right one. Opening takes milliseconds, so one
    // bit of each byte up to the content, and of every 16th from there.
    let body = unsealed(&wallet, header(wallet.hotkey()), vec![]).len() - 5;
    let (key, content) = (body + 13, body + 13 + 160);
    for position in (key..content).chain((content..honest.len()).step_by(16)) {
        let mut bytes = honest.clone();
        bytes[position] ^= 1 << (position % 8);
        assert!(is_refused(&bytes, Some(&opener)), "byte {position}");
        let code = check_structure(&bytes, &context).unwrap_err().code();
        assert_eq!(code, "seal_broken", "byte {position}");
    }
    let mut other_round = honest.clone();
    other_round[body + 1] ^= 1;
    let rejection = check_structure(&other_round, &context).unwrap_err();
    assert_eq!(
        rejection.to_string(),
        "sealed to beacon round 1001, expected sealed to beacon round 1000"
    );
}

#[test]
fn every_cut_and_every_added_byte_is_noticed() {
    let wallet = Wallet::new(1);
    for make in [sealed, unsealed] {
        let mut bytes = make(&wallet, header(wallet.hotkey()), groups(1));
        for length in 0..bytes.len() {
            assert!(RolloutFile::decode(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
        bytes.push(0);
        assert_eq!(RolloutFile::decode(&bytes), Err(DecodeError::TrailingBytes(1)));
    }
}

#[test]
fn a_seal_hides_the_content_and_differs_each_time() {
    let wallet = Wallet::new(1);
    let make = || sealed(&wallet, header(wallet.hotkey()), groups(1));
    let (first, second) = (make(), make());
    let clear = unsealed(&wallet, header(wallet.hotkey()), groups(1));
    let prompt: Vec<u8> = [10u32, 11, 0].iter().flat_map(|token| token.to_le_bytes()).collect();
    let holds = |bytes: &[u8]| bytes.windows(prompt.len()).any(|part| part == prompt);
    assert!(holds(&clear) && !holds(&first));
    assert_eq!(first.len(), clear.len() + 12 + 176);
    let ciphertext = first.len() - 100;
    assert_ne!(first[ciphertext..], second[ciphertext..], "another key each time");
}

#[test]
fn what_a_seal_hides_is_bounded_like_what_it_shows() {
    let wallet = Wallet::new(1);
    let refused = |content: Vec<u8>| {
        let header = header(wallet.hotkey());
        let root = commitment::root(&header, &[]);
        let signature = wallet.sign(&commitment::signed_message(&root));
        let ciphertext = timelock::seal(quicknet(), content, &[9; 32]).unwrap();
        let body = Body::Sealed(SealedBody { round: 1_000, ciphertext });
        let bytes = RolloutFile { root, signature, header, body }.encode().unwrap();
        check_structure(&bytes, &context(wallet.hotkey())).unwrap_err()
    };
    for content in [vec![0xff; 64], vec![0; 5], 1_000u32.to_le_bytes().to_vec()] {
        let rejection = refused(content);
        assert!(matches!(&rejection, Rejection::MalformedGroups(_)), "{rejection}");
        assert_eq!(rejection.code(), "malformed");
    }
}

#[test]
fn hostile_headers_get_a_clear_answer() {
    let wallet = Wallet::new(1);
    let honest = unsealed(&wallet, header(wallet.hotkey()), groups(1));
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = honest.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        RolloutFile::decode(&bytes).unwrap_err().to_string()
    };
    // Offsets follow the layout in the module `encoding`.
    let name = 8 + 2 + 32 + 64;
    let window = name + 4 + "local".len() + 2;
    let temperature = window + 8 + 32 + 32 + 4 + "arithmetic".len() + 32;
    let body = temperature + 4 + 4 + 32 + 4 + "exact-1".len() + 4;
    let n_groups = body + 1;
    let prompt = n_groups + 4 + 4;
    for (at, patch, want) in [
        (0, b"PAR1PAR1".as_slice(), "this is no rollout file: its first bytes are wrong"),
        (8, &[6, 0], "the file speaks protocol version 6, this program 7"),
        (body, &[2], "byte 0x02 at offset 290 is no kind of body"),
        (body, &[1], "3 sealed bytes, expected 180 to 367001600"),
        (name, &[0xff; 4], "network at byte 106 is not 1 to 64 printable ASCII characters"),
        (name, &[0; 4], "network at byte 106 is not 1 to 64 printable ASCII characters"),
        (name + 4, b"lo al", "network at byte 106 is not 1 to 64 printable ASCII characters"),
        (window, &[1, 0, 0, 0, 0, 0, 0, 0], "window 1 is not the first block of a window"),
        (temperature, &f32::NAN.to_le_bytes(), "temperature at byte 235 is not a finite number"),
        (n_groups, &1_025u32.to_le_bytes(), "1025 groups, expected 0 to 1024"),
        (n_groups, &1_000u32.to_le_bytes(), "the file ends inside groups"),
        (prompt, &[0xff; 4], "4294967295 prompt tokens, expected 0 to 8192"),
        (prompt, &8_000u32.to_le_bytes(), "the file ends inside prompt tokens"),
    ] {
        let error = patched(at, patch);
        assert!(error.starts_with(want), "at {at}: {error}");
    }
    assert!(RolloutFile::decode(&[]).unwrap_err().to_string().contains("no rollout file"));
}

#[test]
fn an_oversized_object_is_refused_unread() {
    let max = usize::try_from(ROLLOUT_FILE_BYTES_MAX).unwrap();
    // Zeroed pages: nothing is touched, so nothing is really allocated.
    let bytes = vec![0; max + 1];
    assert!(matches!(RawRollouts::new(&bytes), Err(DecodeError::TooLarge { .. })));
    assert!(RawRollouts::new(&bytes[..max]).is_ok());
}

#[test]
fn content_that_no_reader_takes_is_not_sealed() {
    let wallet = Wallet::new(1);
    let sealing = |change: Change<'_>| {
        let (mut header, mut groups) = (header(wallet.hotkey()), groups(1));
        change(&mut header, &mut groups);
        prover::seal(header, groups, quicknet(), &|message| wallet.sign(message))
    };
    assert!(sealing(&|_, _| {}).is_ok());
    assert!(matches!(
        sealing(&|header, _| header.network = "two words".to_owned()),
        Err(ProverError::Encode(EncodeError::BadName { .. }))
    ));
    assert_eq!(
        sealing(&|_, groups| groups[0].rollouts[3].reward = f32::INFINITY),
        Err(EncodeError::NotFinite("reward").into())
    );
    let too_many: [Change<'_>; 4] = [
        &|_, groups| groups[0].prompt = vec![1; PROMPT_TOKENS_MAX as usize + 1],
        &|_, groups| groups[0].rollouts[0].tokens = vec![1; COMPLETION_TOKENS_MAX as usize + 1],
        &|_, groups| {
            let rollout = groups[0].rollouts[0].clone();
            groups[0].rollouts.push(rollout);
        },
        &|_, groups| {
            let empty = Group { index: 0, prompt: vec![], rollouts: vec![] };
            *groups = vec![empty; GROUPS_PER_FILE_MAX as usize + 1];
        },
    ];
    for change in too_many {
        assert!(matches!(sealing(change), Err(ProverError::Encode(EncodeError::BadCount { .. }))));
    }
}

#[test]
fn every_part_of_the_content_changes_the_root() {
    let wallet = Wallet::new(1);
    let root = commitment::root(&header(wallet.hotkey()), &groups(3));
    let changes: [Change<'_>; 19] = [
        &|header, _| header.network.push('x'),
        &|header, _| header.netuid = Netuid(82),
        &|header, _| header.window = header.window.next(),
        &|header, _| header.hotkey = Hotkey([0; 32]),
        &|header, _| header.checkpoint = Digest([0; 32]),
        &|header, _| header.environment.id.push('x'),
        &|header, _| header.environment.params = Digest([0; 32]),
        &|header, _| header.sampler.temperature = 0.8,
        &|header, _| header.sampler.max_new_tokens = 4,
        &|header, _| header.tokenizer = Digest([0; 32]),
        &|header, _| header.numerics.push('x'),
        &|header, _| header.rollouts_per_group = 8,
        &|_, groups| groups[2].index = 7,
        &|_, groups| groups[1].prompt[0] = 9,
        &|_, groups| groups[1].rollouts[4].tokens[0] = 9,
        &|_, groups| groups[1].rollouts[4].reward = 0.5,
        &|_, groups| groups[1].rollouts[4].success = false,
        &|_, groups| groups[1].rollouts[4].proof = Proof::Exact(Digest([0; 32])),
        &|_, groups| groups[1].rollouts.swap(2, 3),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (mut header, mut groups) = (header(wallet.hotkey()), groups(3));
        change(&mut header, &mut groups);
        assert_ne!(commitment::root(&header, &groups), root, "change {number}");
    }
}

prop_compose! {
    fn any_digest()(bytes: [u8; 32]) -> Digest { Digest(bytes) }
}

prop_compose! {
    fn any_header()(
        (network, id, numerics) in ("[!-~]{1,64}", "[!-~]{1,64}", "exact-1|[!-~]{1,64}"),
        (netuid, window, hotkey) in (any::<u16>(), 0u64..1 << 40, any::<[u8; 32]>()),
        (checkpoint, params, tokenizer) in (any_digest(), any_digest(), any_digest()),
        (temperature, max_new_tokens, rollouts_per_group) in (-2.0f32..2.0, any::<u32>(), any::<u32>()),
    ) -> FileHeader {
        FileHeader {
            network,
            netuid: Netuid(netuid),
            window: Window::from_start(30 * window).expect("a multiple of 30"),
            hotkey: Hotkey(hotkey),
            checkpoint,
            environment: EnvironmentFingerprint { id, params },
            sampler: SamplerParams { temperature, max_new_tokens },
            tokenizer,
            numerics,
            rollouts_per_group,
        }
    }
}

prop_compose! {
    fn any_rollout()(
        tokens in prop::collection::vec(any::<u32>(), 0..12),
        reward in prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL,
        success: bool,
        hidden_digest in any_digest(),
    ) -> Rollout {
        Rollout { tokens, reward, success, proof: Proof::Exact(hidden_digest) }
    }
}

/// Returns the rollout with a proof of the kind that `numerics` asks for.
fn proved(rollout: Rollout, numerics: &str) -> Rollout {
    let Proof::Exact(digest) = rollout.proof else { return rollout };
    if Proof::is_exact(numerics) {
        return rollout;
    }
    let sketches = (0u64..).map(|n| Sketch(n ^ u64::from(digest.0[0])));
    let sketches = sketches.take(sketches_of(rollout.tokens.len())).collect();
    Rollout { proof: Proof::Tolerant(sketches), ..rollout }
}

prop_compose! {
    fn any_file()(
        root in any_digest(),
        signature in prop::collection::vec(any::<u8>(), 64),
        header in any_header(),
        groups in prop::collection::vec(
            (any::<u32>(), prop::collection::vec(any::<u32>(), 0..12),
             prop::collection::vec(any_rollout(), 0..=16)),
            0..5,
        ),
    ) -> RolloutFile {
        let groups = groups.into_iter()
            .map(|(index, prompt, rollouts): (u32, Vec<u32>, Vec<Rollout>)| {
                let proved = |rollout| proved(rollout, &header.numerics);
                Group { index, prompt, rollouts: rollouts.into_iter().map(proved).collect() }
            })
            .collect();
        let signature = Signature(signature.try_into().expect("64 bytes"));
        RolloutFile { root, signature, header, body: Body::Open(groups) }
    }
}

proptest! {
    #[test]
    fn files_round_trip(file in any_file(), ciphertext in prop::collection::vec(any::<u8>(), 180..400),
                        round: u64) {
        let body = Body::Sealed(SealedBody { round, ciphertext });
        let sealed = RolloutFile { body, ..file.clone() };
        prop_assert_eq!(&RolloutFile::decode(&sealed.encode().unwrap()).unwrap(), &sealed);

        let bytes = file.encode().unwrap();
        let decoded = RolloutFile::decode(&bytes).unwrap();
        prop_assert_eq!(&decoded, &file);
        prop_assert_eq!(decoded.encode().unwrap(), bytes);
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(RolloutFile::decode(&tail).is_err());
        // With a valid start, so that the decoder gets somewhere.
        let honest = golden_bytes();
        for kept in [10, 107, 200, 320] {
            let bytes = [&honest[..kept], &tail].concat();
            if let Ok(file) = RolloutFile::decode(&bytes) {
                prop_assert_eq!(file.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn mutated_files_are_refused_or_canonical(
        file in any_file(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = file.encode().unwrap();
        for (position, byte) in mutations {
            let position = position.index(bytes.len());
            bytes[position] = byte;
        }
        if let Ok(file) = RolloutFile::decode(&bytes) {
            prop_assert_eq!(file.encode().unwrap(), bytes);
        }
    }
}
