//! Imitated engines: honest noise passes, everything else does not, and a fit depends on nothing
//! but its samples.

use proptest::prelude::*;
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use serde_json::Value;

use super::*;
use crate::ids::{Hotkey, Signature};
use crate::philox::philox4x32;
use crate::signature::SIGNING_CONTEXT;
use crate::sketch::sketches_of;

/// Draws between 0 and 1, the same on every machine.
struct Draw {
    seed: u32,
    step: u32,
}

impl Draw {
    fn unit(&mut self) -> f64 {
        self.step += 1;
        let [word, ..] = philox4x32([self.step, 0, 0, 0], [self.seed, 7]);
        (f64::from(word) + 0.5) / 4_294_967_296.0
    }

    /// A rollout of an engine that differs from the verifier's in a `share` of tokens, by `scale`
    /// nats on average, and in a share `flips` of the signs.
    fn rollout(&mut self, tokens: usize, share: f64, scale: f64, flips: f64) -> RolloutSample {
        let margin = |draw: &mut Self| {
            if draw.unit() < share { (-draw.unit().ln() * scale) as f32 } else { 0.0 }
        };
        let margins = (0..tokens).map(|_| margin(self)).collect();
        let signs = |draw: &mut Self| (0..64).filter(|_| draw.unit() < flips).count();
        let distances = 0..sketches_of(tokens);
        let distances = distances.map(|_| u8::try_from(signs(self)).unwrap()).collect();
        RolloutSample { margins, distances }
    }

    /// As bf16 against f32: 2 % of tokens, 0.05 nats, 1 % of signs.
    fn honest(&mut self) -> RolloutSample {
        let tokens = 10 + (self.unit() * 120.0) as usize;
        self.rollout(tokens, 0.02, 0.05, 0.01)
    }
}

fn honest(seed: u32, count: usize) -> Vec<RolloutSample> {
    let mut draw = Draw { seed, step: 0 };
    (0..count).map(|_| draw.honest()).collect()
}

fn passes(thresholds: &Thresholds, sample: &RolloutSample) -> bool {
    let measures = thresholds.measure(&sample.margins, &sample.distances);
    measures.worst.is_none_or(|(_, margin)| f64::from(margin) <= thresholds.margin_hard)
        && measures.soft_hits <= measures.soft_hits_allowed
        && measures.margin_z <= thresholds.margin.z_max
        && measures.sketch_z <= thresholds.sketch.z_max
}

fn pairing() -> Pairing {
    Pairing {
        model: Digest([1; 32]),
        checkpoint: Digest([2; 32]),
        window: Window::from_start(300).unwrap(),
        miner_runtime: "bf16-1".to_owned(),
        verifier_runtime: "exact-1".to_owned(),
        temperature: 0.7,
    }
}

fn calibration() -> Calibration {
    Calibration::fit(pairing(), Digest([3; 32]), &honest(1, 300)).unwrap()
}

#[test]
fn other_honest_rollouts_pass_and_few_lie_in_the_tails() {
    let thresholds = Thresholds::fit(&honest(1, 1500)).unwrap();
    let others = honest(2, 1500);
    assert!(others.iter().all(|sample| passes(&thresholds, sample)));
    for (level, share) in TAIL_LEVELS.into_iter().enumerate() {
        let hits = others.iter().filter(|sample| {
            thresholds.tail_hits(&thresholds.measure(&sample.margins, &sample.distances))[level]
        });
        // Another 1,500 lie there by chance: three deviations more than the level would be too many.
        let limit = 1500.0 * share + 3.0 * (1500.0 * share).sqrt();
        let hits = hits.count();
        assert!((hits as f64) < limit, "{hits} at {share}");
    }
}

#[test]
fn what_no_honest_engine_does_is_beyond_the_thresholds() {
    let thresholds = Thresholds::fit(&honest(1, 1500)).unwrap();
    let mut draw = Draw { seed: 9, step: 0 };
    let beyond = |draw: &mut Draw, share, scale, flips| {
        (0..100).filter(|_| !passes(&thresholds, &draw.rollout(100, share, scale, flips))).count()
    };
    // Unrelated states, free sampling, 4 bits.
    assert_eq!(beyond(&mut draw, 0.02, 0.05, 0.5), 100);
    assert_eq!(beyond(&mut draw, 0.65, 2.0, 0.01), 100);
    assert_eq!(beyond(&mut draw, 0.5, 1.0, 0.25), 100);
    // A neighbouring model and temperature 0.9 show in most rollouts of 100 tokens.
    assert!(beyond(&mut draw, 0.02, 0.05, 0.05) > 90);
    let warm = beyond(&mut draw, 0.1, 0.28, 0.01);
    assert!(warm > 50, "{warm}");
    // One forged token among honest ones.
    let mut edited = draw.honest();
    edited.margins[3] = 2.0;
    assert!(!passes(&thresholds, &edited));
    let measures = thresholds.measure(&edited.margins, &edited.distances);
    assert_eq!(measures.worst, Some((3, 2.0)));
}

#[test]
fn one_odd_token_of_a_short_rollout_is_not_rejected_by_the_sum() {
    let samples = honest(1, 1500);
    let thresholds = Thresholds::fit(&samples).unwrap();
    let largest = samples.iter().flat_map(|it| &it.margins).copied().fold(0.0, f32::max);
    // Within the veto, which is three times as far, whatever the length.
    for tokens in [1, 5, 20, 100] {
        let mut odd = RolloutSample { margins: vec![0.0; tokens], distances: vec![] };
        odd.distances = vec![0; sketches_of(tokens)];
        odd.margins[tokens / 2] = 2.9 * largest;
        assert!(passes(&thresholds, &odd), "{tokens} tokens");
        odd.margins[tokens / 2] = 3.1 * largest;
        assert!(!passes(&thresholds, &odd), "{tokens} tokens");
    }
    // Two of them are no luck.
    let mut twice = RolloutSample { margins: vec![0.0; 40], distances: vec![0; 10] };
    (twice.margins[3], twice.margins[30]) = (1.6 * largest, 1.6 * largest);
    assert!(!passes(&thresholds, &twice));
}

#[test]
fn an_engine_that_never_differs_gets_thresholds_that_rounding_passes() {
    let mut draw = Draw { seed: 5, step: 0 };
    let samples: Vec<_> = (0..200).map(|_| draw.rollout(50, 0.0, 0.0, 0.0)).collect();
    let thresholds = Thresholds::fit(&samples).unwrap();
    assert_eq!(thresholds.margin_hard, MARGIN_HARD_MIN);
    assert_eq!(thresholds.margin.deviation, MARGIN_DEVIATION_MIN);
    let mut near = samples[0].clone();
    near.margins[7] = 0.02;
    near.distances[2] = 2;
    assert!(passes(&thresholds, &near));
}

#[test]
fn few_samples_say_nothing_about_far_tails() {
    let thresholds = Thresholds::fit(&honest(1, 200)).unwrap();
    let [wide, middle, narrow] = thresholds.margin.z_tails;
    assert!(wide.is_some());
    assert_eq!((middle, narrow), (None, None));
    let many = Thresholds::fit(&honest(1, 1500)).unwrap().margin;
    assert!(many.z_tails.iter().all(Option::is_some), "{many:?}");
    // More samples allow a tighter threshold for the same share.
    assert!(many.z_tails[0] < wide);
    assert!(many.z_tails.is_sorted() && many.z_tails[2] < Some(many.z_max));
}

#[test]
fn a_rollout_without_anything_is_neither_good_nor_bad() {
    let thresholds = calibration().thresholds;
    let measures = thresholds.measure(&[], &[]);
    assert_eq!((measures.worst, measures.soft_hits), (None, 0));
    assert_eq!((measures.margin_z, measures.sketch_z), (0.0, 0.0));
}

#[test]
fn measurements_that_are_none_are_refused() {
    let with = |change: &dyn Fn(&mut RolloutSample)| {
        let mut samples = honest(1, 100);
        change(&mut samples[42]);
        Thresholds::fit(&samples).unwrap_err()
    };
    assert_eq!(Thresholds::fit(&[]), Err(UnusableSamples::Count(0)));
    assert_eq!(Thresholds::fit(&honest(1, 63)), Err(UnusableSamples::Count(63)));
    for value in [f32::NAN, f32::INFINITY, -0.1] {
        assert_eq!(with(&|it| it.margins[0] = value), UnusableSamples::Value(42));
    }
    assert_eq!(with(&|it| it.distances[0] = 65), UnusableSamples::Value(42));
    assert_eq!(with(&|it| it.distances.push(0)), UnusableSamples::Lengths(42));
    assert_eq!(
        with(&|it| (it.margins, it.distances) = (vec![], vec![])),
        UnusableSamples::Lengths(42)
    );
    // Finite, if absurd: the file would be refused.
    let mut huge = honest(1, 100);
    huge[42].margins[0] = f32::MAX;
    let huge = Calibration::fit(pairing(), Digest([3; 32]), &huge).unwrap();
    let error = huge.sign(hotkey(1), &|message| sign(1, message)).unwrap_err();
    assert!(error.to_string().contains("margin_hard is out of range"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_fit_passes_its_own_samples_in_any_order(
        seed in any::<u32>(), share in 0.0..0.3f64, scale in 0.0..2.0f64, flips in 0.0..0.6f64,
        turn in 0usize..80,
    ) {
        let mut draw = Draw { seed, step: 0 };
        let mut samples: Vec<RolloutSample> = (0..80)
            .map(|_| {
                let tokens = 1 + (draw.unit() * 60.0) as usize;
                draw.rollout(tokens, share, scale, flips)
            })
            .collect();
        let thresholds = Thresholds::fit(&samples).unwrap();
        for sample in &samples {
            prop_assert!(passes(&thresholds, sample), "{thresholds:?} {sample:?}");
        }
        prop_assert!(thresholds.complaints().is_empty(), "{thresholds:?}");
        samples.rotate_left(turn);
        samples.reverse();
        prop_assert_eq!(Thresholds::fit(&samples).unwrap(), thresholds);
    }

    #[test]
    fn worse_work_never_scores_better(
        seed in any::<u32>(), at in 0usize..10, more in 0.0f32..3.0, signs in 0u8..64,
    ) {
        let thresholds = Thresholds::fit(&honest(1, 100)).unwrap();
        let sample = Draw { seed, step: 0 }.honest();
        let mut worse = sample.clone();
        worse.margins[at] += more;
        // Tokens after the last whole stride have no sketch of their own.
        let last = worse.distances.len() - 1;
        let sketch = &mut worse.distances[last.min(at / 4)];
        *sketch = (*sketch).max(signs);
        let before = thresholds.measure(&sample.margins, &sample.distances);
        let after = thresholds.measure(&worse.margins, &worse.distances);
        prop_assert!(after.margin_z >= before.margin_z && after.sketch_z >= before.sketch_z);
        prop_assert!(after.soft_hits >= before.soft_hits);
        prop_assert!(after.worst.unwrap().1 >= before.worst.unwrap().1);
    }

    #[test]
    fn no_bytes_open_but_those_that_were_signed(
        place in any::<prop::sample::Index>(), byte in any::<u8>(), noise in any::<Vec<u8>>(),
    ) {
        let file = signed();
        let mut changed = file.clone().into_bytes();
        let at = place.index(changed.len());
        changed[at] = byte;
        let opened = Calibration::open(&changed, &[hotkey(1)]);
        // Other white space or spelling of a number may stand for the same content.
        prop_assert!(opened.is_err() || opened == Ok((calibration(), hotkey(1))));
        prop_assert!(Calibration::open(&noise, &[hotkey(1)]).is_err());
    }
}

fn key(seed: u8) -> Keypair {
    let secret = MiniSecretKey::from_bytes(&[seed; 32]).unwrap();
    secret.expand_to_keypair(ExpansionMode::Ed25519)
}

fn hotkey(seed: u8) -> Hotkey {
    Hotkey(key(seed).public.to_bytes())
}

fn sign(seed: u8, message: &[u8]) -> Signature {
    Signature(key(seed).sign_simple(SIGNING_CONTEXT, message).to_bytes())
}

fn signed() -> String {
    calibration().sign(hotkey(1), &|message| sign(1, message)).unwrap()
}

#[test]
fn a_calibration_reads_back() {
    let file = signed();
    assert!((file.len() as u64) < CALIBRATION_BYTES_MAX);
    let opened = Calibration::open(file.as_bytes(), &[hotkey(2), hotkey(1)]).unwrap();
    assert_eq!(opened, (calibration(), hotkey(1)));
    // Indented for people it is the same.
    let value: Value = serde_json::from_str(&file).unwrap();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    assert_eq!(Calibration::open(pretty.as_bytes(), &[hotkey(1)]).unwrap(), opened);
    let mut other = calibration();
    other.thresholds.margin.z_max += 1.0;
    assert_ne!(other.digest(), calibration().digest());
}

#[test]
fn a_calibration_of_a_stranger_or_changed_is_refused_with_the_reason() {
    let file = signed();
    let open = |file: &str| Calibration::open(file.as_bytes(), &[hotkey(1)]).unwrap_err();
    let stranger = Calibration::open(file.as_bytes(), &[hotkey(2)]).unwrap_err();
    assert_eq!(stranger, CalibrationError::UnknownSigner(hotkey(1)));
    assert!(stranger.to_string().contains("not among calibration.signers"), "{stranger}");
    let edited = file.replace("\"rollouts\":300", "\"rollouts\":301");
    assert!(matches!(open(&edited), CalibrationError::BadSignature(_)));
    let renamed = file.replace(&hotkey(1).to_string(), &hotkey(2).to_string());
    assert_eq!(open(&renamed), CalibrationError::UnknownSigner(hotkey(2)));
    let newer = file.replace("\"version\":2", "\"version\":3");
    assert_eq!(open(&newer), CalibrationError::WrongVersion(3));
    for (from, to) in [
        ("\"signature\"", "\"stamp\""),
        ("\"rollouts\"", "\"rolls\""),
        (",\"version\":2", ""),
        ("\"window\":300", "\"window\":301"),
    ] {
        let error = open(&file.replace(from, to));
        assert!(matches!(error, CalibrationError::Malformed(_)), "{from}: {error}");
    }
    let huge = vec![b' '; 1 << 17];
    assert_eq!(Calibration::open(&huge, &[]), Err(CalibrationError::TooLarge(1 << 17)));
}

/// What makes a calibration useless.
type Change = fn(&mut Calibration);

#[test]
fn thresholds_that_nothing_can_be_judged_by_are_refused() {
    let cases: [(&str, Change); 12] = [
        ("margin_hard", |it| it.thresholds.margin_hard = f64::NAN),
        ("margin_hard", |it| it.thresholds.margin_hard = 0.0),
        ("margin_soft", |it| it.thresholds.margin_soft = 99.0),
        ("margin_clip", |it| it.thresholds.margin_clip = 0.0),
        ("margin_clip", |it| it.thresholds.margin_clip = 2.0 * it.thresholds.margin_hard),
        ("soft_hits_per_1000", |it| it.thresholds.soft_hits_per_1000 = -1.0),
        ("the margin test", |it| it.thresholds.margin.deviation = 0.0),
        ("the sketch test", |it| it.thresholds.sketch.z_tails = [Some(2.0), Some(1.0), None]),
        ("the sketch test", |it| it.thresholds.sketch.z_tails = [None, None, Some(1.0)]),
        ("judged by equality", |it| it.pairing.miner_runtime = "exact-1".to_owned()),
        ("temperature", |it| it.pairing.temperature = 0.0),
        ("version 3", |it| it.version = 3),
    ];
    for (reason, change) in cases {
        let mut broken = calibration();
        change(&mut broken);
        let error = broken.sign(hotkey(1), &|message| sign(1, message)).unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_calibration_judges_only_what_it_was_measured_on() {
    let of = |change: &dyn Fn(&mut Pairing)| {
        let mut wanted = pairing();
        change(&mut wanted);
        pairing().covers(&wanted, 4)
    };
    let later = |windows: u64| Window::from_start(300 + 30 * windows).unwrap();
    assert_eq!(of(&|_| ()), Ok(()));
    assert_eq!(of(&|it| it.temperature = f64::from(0.7f32)), Ok(()));
    let next = |windows| {
        of(&|it: &mut Pairing| (it.checkpoint, it.window) = (Digest([9; 32]), later(windows)))
    };
    assert_eq!(next(4), Ok(()));
    assert!(matches!(next(5), Err(Unrelated::Age { age: 5, max: 4, .. })));
    // The very checkpoint does not age.
    assert_eq!(of(&|it| it.window = later(90)), Ok(()));
    assert!(matches!(of(&|it| it.model = Digest([9; 32])), Err(Unrelated::Model { .. })));
    assert!(matches!(of(&|it| it.temperature = 1.0), Err(Unrelated::Temperature { .. })));
    for change in [
        |it: &mut Pairing| it.miner_runtime = "fp8-1".to_owned(),
        |it: &mut Pairing| it.verifier_runtime = "bf16-1".to_owned(),
    ] {
        let error = of(&change).unwrap_err();
        assert!(matches!(error, Unrelated::Runtimes { .. }), "{error}");
    }
}

#[test]
fn the_nearest_calibration_is_chosen_or_the_nearest_miss_named() {
    let at = |window: u64, checkpoint: u8| {
        let window = Window::from_start(window).unwrap();
        let checkpoint = Digest([checkpoint; 32]);
        Calibration { pairing: Pairing { checkpoint, window, ..pairing() }, ..calibration() }
    };
    let shelf = [at(30, 7), at(270, 8), at(900, 2), at(330, 9)];
    let window_of = |wanted: &Pairing, age| {
        choose(&shelf, wanted, age).map(|found| found.pairing.window.start().0)
    };
    assert_eq!(window_of(&pairing(), 4), Ok(900), "the same checkpoint comes first");
    let other = Pairing { checkpoint: Digest([5; 32]), ..pairing() };
    let near = window_of(&other, 4).unwrap();
    assert!(near == 270 || near == 330);
    let mut reversed = shelf.clone();
    reversed.reverse();
    let again = choose(&reversed, &other, 4).unwrap();
    assert_eq!(again.pairing.window.start().0, near);
    let error = window_of(&other, 0).unwrap_err();
    assert!(matches!(error, Unrelated::Age { age: 1, max: 0, .. }), "{error}");
    let stranger = Pairing { miner_runtime: "fp8-1".to_owned(), ..pairing() };
    assert_eq!(window_of(&stranger, 4), Err(Unrelated::NoCalibration("fp8-1".to_owned())));
    assert_eq!(choose(&[], &pairing(), 4), Err(Unrelated::NoCalibration("bf16-1".to_owned())));
}
