//! The numbers that head the files of vectors are the constants of this profile.

use grail_protocol::v5::constants::{
    LOGPROB_MEDIAN_MAX, MAX_NEW_TOKENS_PROTOCOL_CAP, MIN_EOS_PROBABILITY, PROOF_COEFF_RANGE,
    PROOF_NUM_BUCKETS, PROOF_SKETCH_TOLERANCE_BASE, PROOF_SKETCH_TOLERANCE_GROWTH, PROOF_TOPK,
    REWARD_ABS_TOL, REWARD_REL_TOL,
};
use grail_protocol::v5::gating::{HARD_CHECKS, SOFT_CHECKS};
use grail_protocol::v5::groups::ROLLOUTS_PER_PROBLEM;
use grail_protocol::v5::selection::{groups_to_check, rows_to_check, sample_size};
use grail_testkit::vectors::{float, list, load, size, text};

/// Checks fields of a file's head.
fn check(topic: &str, file: &str, heads: &[(&str, f64)]) {
    let vectors = load(topic, file);
    for (key, constant) in heads {
        // Some were written from f32.
        let gap = (float(&vectors[*key]) - constant).abs();
        assert!(
            gap <= 1e-7 * constant,
            "{topic}/{file}: {key} is {}, not {constant}",
            vectors[*key]
        );
    }
}

#[test]
fn constants_are_those_of_the_vectors() {
    let (coefficients, buckets) = (f64::from(PROOF_COEFF_RANGE), PROOF_NUM_BUCKETS as f64);
    check("r_vec", "generate_r_vec.json", &[("topk", PROOF_TOPK as f64), ("range", coefficients)]);
    for file in ["scalar_f64.json", "vectorized_f32.json", "vectorized_bf16.json"] {
        check("buckets", file, &[("num_buckets", buckets)]);
    }
    let (base, growth) = (PROOF_SKETCH_TOLERANCE_BASE, PROOF_SKETCH_TOLERANCE_GROWTH);
    check("tolerance", "tolerance.json", &[("base", base), ("growth", growth)]);
    check("validation", "logprob.json", &[("eps", LOGPROB_MEDIAN_MAX)]);
    let tolerances = [("rel_tol", REWARD_REL_TOL), ("abs_tol", REWARD_ABS_TOL)];
    check("validation", "reward_close.json", &tolerances);
    let ends = [
        ("min_eos_probability", f64::from(MIN_EOS_PROBABILITY)),
        ("protocol_cap", f64::from(MAX_NEW_TOKENS_PROTOCOL_CAP)),
    ];
    check("validation", "termination.json", &ends);
}

#[test]
fn checks_have_the_names_and_severities_of_the_vectors() {
    let vectors = load("validation", "pipeline_and_soft_cutoffs.json");
    let names = |key: &str| list(&vectors[key]).iter().map(text).collect::<Vec<_>>();
    assert_eq!(names("hard_keys"), HARD_CHECKS);
    assert_eq!(names("soft_keys"), SOFT_CHECKS.map(|(name, _)| name));
}

#[test]
fn samples_have_the_sizes_of_the_vectors() {
    let vectors = load("miner_sampling", "select.json");
    let [least, most] = ["min", "max"].map(|key| size(&vectors[key]));
    for eligible in 0..1_000 {
        let share = (eligible as f64 * float(&vectors["rate"])).ceil() as usize;
        assert_eq!(sample_size(eligible), share.max(least).min(most).min(eligible), "{eligible}");
    }
    let vectors = load("group_sampling", "group_sampling.json");
    assert_eq!(size(&vectors["rollouts_per_problem"]), ROLLOUTS_PER_PROBLEM);
    let groups_max = size(&vectors["max_samples"]) / ROLLOUTS_PER_PROBLEM;
    for groups in 1..400 {
        let tenth = (groups as f64 * float(&vectors["sample_rate"])) as usize;
        assert_eq!(groups_to_check(groups), tenth.clamp(1, groups_max), "{groups}");
    }
    // One group more than is checked of a file that is not checked whole.
    let whole = size(&vectors["check_all_at_or_below"]);
    let checked = |rows: usize| {
        let groups: Vec<usize> = (0..rows).collect();
        let digests: Vec<[u8; 32]> = (0..rows).map(|row| [row as u8; 32]).collect();
        rows_to_check("hotkey", "ab", &groups, &digests).len()
    };
    assert_eq!(checked(whole), whole);
    assert!(checked(whole + 1) < whole);
}
