//! Tests of sketches: their definition, and what they tell apart.

use proptest::prelude::*;

use super::*;
use crate::philox::philox4x32;

const HIDDEN: usize = 576;

/// Independent numbers of mean 0 and deviation 1, a function of `seed`.
fn normal_row(seed: u32) -> Vec<f32> {
    let uniform = |word: u32| f32::from_bits(word >> 9 | 0x3f80_0000) - 1.5;
    let dims = u32::try_from(HIDDEN).unwrap();
    // Twelve uniform numbers of variance 1/12 each.
    let draw = |dim| {
        (0..3).flat_map(|part| philox4x32([dim, part, 0, 0], [seed, 9])).map(uniform).sum::<f32>()
    };
    (0..dims).map(draw).collect()
}

fn flat(hidden: usize) -> Arc<Whitening> {
    Arc::new(Whitening::new(vec![0.0; hidden], vec![1.0; hidden]).unwrap())
}

fn sketch_of(key: [u32; 4], whitening: &Arc<Whitening>, row: &[f32]) -> Sketch {
    let mut sketcher = Sketcher::new(SketchKey::of(RaceKey(key)), Arc::clone(whitening));
    sketcher.push(row);
    sketcher.finish()[0]
}

#[test]
fn sketches_are_those_of_their_documentation() {
    let text = include_str!("../../tests/vectors/sketch.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let (hidden, tokens) = (number(&case["hidden"]), number(&case["tokens"]));
        let key: Vec<u32> = case["race_key"].as_array().unwrap().iter().map(number).collect();
        let key = RaceKey(key.try_into().unwrap());
        let mean = (0..hidden).map(|i| 1.0 / (3 + i % 5) as f32).collect();
        let scale = (0..hidden).map(|i| (1 + i % 7) as f32 / 3.0).collect();
        let whitening = Arc::new(Whitening::new(mean, scale).unwrap());
        assert_eq!(whitening.digest().to_string(), case["whitening"].as_str().unwrap());
        let mut sketcher = Sketcher::new(SketchKey::of(key), whitening);
        for token in 0..tokens {
            let value = |i| ((i * 37 + token * 101) % 257) as f32 / 3.0 / 7.0;
            let row: Vec<f32> = (0..hidden).map(value).collect();
            sketcher.push(&row);
        }
        let found: Vec<String> =
            sketcher.finish().iter().map(|sketch| format!("{:016x}", sketch.0)).collect();
        let expected = case["sketches"].as_array().unwrap();
        assert_eq!(expected.len(), sketches_of(usize::try_from(tokens).unwrap()));
        let expected: Vec<&str> = expected.iter().map(|sketch| sketch.as_str().unwrap()).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn every_fourth_token_is_sketched() {
    for (tokens, expected) in [(0, 0), (1, 1), (4, 1), (7, 1), (8, 2), (9, 2), (12, 3)] {
        assert_eq!(sketches_of(tokens), expected, "{tokens} tokens");
        let mut sketcher = Sketcher::new(SketchKey::of(RaceKey([1; 4])), flat(HIDDEN));
        (0..tokens).for_each(|seed| sketcher.push(&normal_row(u32::try_from(seed).unwrap())));
        let sketches = sketcher.finish();
        assert_eq!(sketches.len(), expected);
        for (sketch, seed) in sketches.iter().zip((0..).step_by(STRIDE)) {
            assert_eq!(*sketch, sketch_of([1; 4], &flat(HIDDEN), &normal_row(seed)));
        }
    }
}

#[test]
fn a_distance_counts_the_signs_that_differ() {
    for (left, right, distance) in [(0, 0, 0), (0, u64::MAX, 64), (0b1011, 0b0110, 3)] {
        assert_eq!(Sketch(left).distance(Sketch(right)), distance);
        assert_eq!(Sketch(right).distance(Sketch(left)), distance);
    }
}

#[test]
fn an_unrelated_row_differs_in_about_half_of_the_signs() {
    let whitening = flat(HIDDEN);
    let distances: Vec<u32> = (0..200)
        .map(|seed| {
            let key = [seed, 2, 3, 4];
            let [left, right] =
                [seed, seed + 1000].map(|seed| sketch_of(key, &whitening, &normal_row(seed)));
            left.distance(right)
        })
        .collect();
    // The mean of 200 draws of a deviation of 4 is off by 0.28.
    let mean = f64::from(distances.iter().sum::<u32>()) / 200.0;
    assert!((mean - 32.0).abs() < 1.5, "{mean}");
    assert!(distances.iter().all(|distance| (12..=52).contains(distance)), "{distances:?}");
}

#[test]
fn small_noise_changes_few_signs() {
    let whitening = flat(HIDDEN);
    let total = |noise: f32| -> u32 {
        (0..50)
            .map(|seed| {
                let row = normal_row(seed);
                let noisy: Vec<f32> =
                    row.iter().zip(normal_row(seed + 500)).map(|(x, z)| x + noise * z).collect();
                let [left, right] =
                    [&row, &noisy].map(|row| sketch_of([seed, 0, 0, 9], &whitening, row));
                left.distance(right)
            })
            .sum()
    };
    // A projection of angle `a` to the old one changes its sign with probability a / pi: 10 of
    // 3,200 signs at 1 %, and 100 at 10 %.
    assert_eq!(total(0.0), 0);
    assert!(total(0.01) < 25, "{}", total(0.01));
    assert!((60..150).contains(&total(0.1)), "{}", total(0.1));
}

#[test]
fn other_rollouts_have_other_projections() {
    let (row, whitening) = (normal_row(1), flat(HIDDEN));
    let base = sketch_of([1, 2, 3, 4], &whitening, &row);
    for word in 0..4 {
        let mut key = [1, 2, 3, 4];
        key[word] += 1;
        assert!(base.distance(sketch_of(key, &whitening, &row)) > 12, "word {word}");
    }
}

#[test]
fn whitening_is_what_a_direct_computation_finds() {
    // Columns: 1 2 3 4 5, all alike, and alternating.
    let rows = [1.0, 7.0, -1.0, 2.0, 7.0, 1.0, 3.0, 7.0, -1.0, 4.0, 7.0, 1.0, 5.0, 7.0, -1.0];
    let whitening = Whitening::measure(&rows, 3).unwrap();
    assert_eq!(whitening.hidden_size(), 3);
    assert_eq!(whitening.mean(), [3.0, 7.0, -0.2]);
    let deviation = |variance: f64| (1.0 / variance.sqrt()) as f32;
    let expected = [deviation(2.0), 1e6, deviation(0.96)];
    assert_eq!(whitening.scale()[1], expected[1], "a dimension that never moves is bounded");
    for (found, expected) in whitening.scale().iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn whitening_separates_rows_that_share_a_direction() {
    let row = |seed| -> Vec<f32> { normal_row(seed).iter().map(|z| 5.0 + 0.1 * z).collect() };
    let rows: Vec<f32> = (0..200).flat_map(row).collect();
    let measured = Arc::new(Whitening::measure(&rows, HIDDEN).unwrap());
    let distance = |whitening: &Arc<Whitening>| {
        let [left, right] = [300, 301].map(|seed| sketch_of([5; 4], whitening, &row(seed)));
        left.distance(right)
    };
    assert!(distance(&flat(HIDDEN)) <= 6, "raw, unrelated rows look alike");
    assert!(distance(&measured) >= 16, "whitened, they do not");
}

#[test]
fn unusable_statistics_are_refused() {
    for (mean, scale, why) in [
        (vec![], vec![], "0 means and 0 scales"),
        (vec![0.0; 2], vec![1.0; 3], "2 means and 3 scales"),
        (vec![0.0, f32::NAN], vec![1.0; 2], "dimension 1"),
        (vec![f32::INFINITY, 0.0], vec![1.0; 2], "dimension 0"),
        (vec![0.0; 2], vec![1.0, 0.0], "dimension 1"),
        (vec![0.0; 2], vec![-1.0, 1.0], "dimension 0"),
        (vec![0.0; 2], vec![f32::INFINITY, 1.0], "dimension 0"),
    ] {
        let error = Whitening::new(mean, scale).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    for (rows, hidden) in [(&[][..], 3), (&[1.0, 2.0], 3), (&[1.0], 0), (&[f32::NAN, 1.0], 1)] {
        assert!(Whitening::measure(rows, hidden).is_err(), "{rows:?}");
    }
    let digest = |mean: &[f32], scale: &[f32]| {
        Whitening::new(mean.to_vec(), scale.to_vec()).unwrap().digest()
    };
    assert_ne!(digest(&[0.0], &[1.0]), digest(&[0.0], &[2.0]));
    assert_ne!(digest(&[0.0], &[1.0]), digest(&[1.0], &[1.0]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// The sums of a half are vectors to the compiler; bit by bit they are the definition.
    #[test]
    fn a_sketch_is_its_projections_one_by_one(
        key in any::<[u32; 4]>(),
        row in prop::collection::vec(-9.0f32..9.0, 1..80),
    ) {
        let mean: Vec<f32> = row.iter().map(|x| x / 3.0 + 0.1).collect();
        let scale: Vec<f32> = row.iter().map(|x| x.abs() + 0.3).collect();
        let whitening = Arc::new(Whitening::new(mean.clone(), scale.clone()).unwrap());
        let found = sketch_of(key, &whitening, &row);
        for bit in 0..64 {
            let mut sum = 0.0f32;
            for (dim, x) in (0u32..).zip(&row) {
                let at = usize::try_from(dim).unwrap();
                let value = (x - mean[at]) * scale[at];
                let is_minus = SketchKey::of(RaceKey(key)).signs(dim) >> bit & 1 == 1;
                sum += if is_minus { -value } else { value };
            }
            prop_assert_eq!(found.0 >> bit & 1 == 1, sum < 0.0, "bit {}", bit);
        }
    }
}
