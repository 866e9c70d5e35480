//! Checks of a validator on single rollouts.

use grail_protocol::v5::distribution::{
    DistributionOutcome, Metrics, chosen_probabilities, judge, softmax_at,
};
use grail_protocol::v5::gating::{FileGate, Stop};
use grail_protocol::v5::python::print::to_int;
use grail_protocol::v5::{groups, indices, verify};
use serde_json::Value;

use grail_testkit::vectors::{
    every_case, every_entry, float, floats, is_own, list, python, same, size, sizes, text, tokens,
};

#[test]
fn log_probabilities_are_judged_as_in_the_reference() {
    every_case("validation", "logprob.json", |case| {
        let sequence = tokens(&case["tokens"]);
        let completion_length = size(&case["completion_length"]);
        let claimed = floats(&case["claimed"]);
        // The other conditions of the check: enough tokens, and a value for each.
        if completion_length < 32 || claimed.len() != sequence.len() {
            assert_eq!(case["valid"], false, "{case}");
            return;
        }
        let positions = indices::challenge(
            &sequence,
            text(&case["challenge_randomness"]),
            size(&case["prompt_length"]),
            completion_length,
        )
        .unwrap();
        assert_eq!(positions, sizes(&case["challenged"]));
        let own = floats(&case["model_logprobs_full"]);
        let at = |all: &[f64]| -> Vec<f64> { positions.iter().map(|&p| all[p]).collect() };
        let outcome = verify::logprobs(&at(&claimed), &at(&own));
        assert!(same(outcome.median_ratio, float(&case["median_dev"])), "{outcome:?}");
        assert!(same(outcome.max_ratio, float(&case["max_dev"])), "{outcome:?}");
        assert_eq!(outcome.passed, case["valid"] == true);
    });
}

#[test]
fn endings_are_judged_as_in_the_reference() {
    every_case("validation", "termination.json", |case| {
        let logits: Vec<f32> =
            floats(&case["second_last_logits"]).into_iter().map(|logit| logit as f32).collect();
        let at_2 = softmax_at(&logits, 2).unwrap();
        assert!((f64::from(at_2) - float(&case["p_eos_token2"])).abs() < 1e-7, "{at_2} {case}");
        let eos_token = case["eos_token_id"].as_u64().map(|token| token as u32);
        let max_tokens = to_int(&python(&case["max_tokens"]));
        let outcome = verify::termination(
            size(&case["completion_length"]),
            verify::token_limit(max_tokens.map(|tokens| i64::try_from(tokens).unwrap_or(i64::MAX))),
            *tokens(&case["tokens"]).last().unwrap(),
            eos_token,
            eos_token.map_or(0.0, |token| softmax_at(&logits, token).unwrap()),
        );
        assert_eq!(outcome.passed(), case["valid"] == true, "{outcome:?} {case}");
    });
}

/// What Python's `int()` makes of these values.
#[test]
fn rewards_are_close_as_in_the_reference() {
    every_case("validation", "reward_close.json", |case| {
        let close = match &case["env_reward"] {
            // Not evaluated: the check fails.
            Value::Null => false,
            own => verify::reward_close(float(&case["miner_reward"]), float(own)),
        };
        assert_eq!(close, case["valid"] == true, "{case}");
    });
}

#[test]
fn distributions_are_measured_as_in_the_reference() {
    every_case("validation", "distribution_from_probs.json", |case| {
        let outcome = judge(&floats(&case["probs"]));
        let DistributionOutcome::Judged { metrics, initial, .. } = outcome else {
            panic!("{outcome:?}");
        };
        check_metrics(&metrics, &case["metrics"]);
        check_metrics(&initial, &case["initial_metrics"]);
        check_reasons(&outcome, &case["reasons"]);
        assert_eq!(outcome.passed(), case["suspicious"] == false);
    });
}

fn check_metrics(got: &Metrics, want: &Value) {
    for (key, got) in [
        ("mean", got.mean),
        ("median", got.median),
        ("q10", got.q10),
        ("min", got.min),
        ("low_frac", got.low_frac),
        ("high_frac", got.high_frac),
        ("mid_frac", got.mid_frac),
    ] {
        assert_eq!(got, float(&want[key]), "{key} of {want}");
    }
    // Powers are the machine's.
    assert!((got.bimodality - float(&want["bc"])).abs() < 1e-12, "{got:?} {want}");
}

fn check_reasons(outcome: &DistributionOutcome, want: &Value) {
    let DistributionOutcome::Judged { reasons, .. } = outcome else { panic!("{outcome:?}") };
    for (key, got) in [
        ("median_low", reasons.median_low),
        ("min_low", reasons.min_low),
        ("q10_low", reasons.q10_low),
        ("q10_low_initial", reasons.q10_low_initial),
    ] {
        assert_eq!(got, want[key] == true, "{key} of {want}");
    }
}

#[test]
fn distributions_of_logits_are_judged_as_in_the_reference() {
    every_case("validation", "distribution_from_logits.json", |case| {
        let parameters = &case["generation_params"];
        let numbers = ["temperature", "repetition_penalty"].map(|key| parameters[key].as_f64());
        let [Some(temperature), Some(penalty)] = numbers else {
            assert_eq!(case["reason"], "insufficient", "{case}");
            assert_eq!(judge(&[]), DistributionOutcome::Insufficient);
            return;
        };
        let rows = list(&case["logits"]);
        let vocab = list(&rows[0]).len();
        let logits: Vec<f32> = rows.iter().flat_map(floats).map(|logit| logit as f32).collect();
        let probabilities = chosen_probabilities(
            &logits,
            vocab,
            &tokens(&case["tokens"]),
            size(&case["prompt_length"]),
            temperature as f32,
            penalty as f32,
        );
        let want = floats(&case["probs"]);
        assert_eq!(probabilities.len(), want.len());
        for (got, want) in probabilities.iter().zip(&want) {
            assert!((got - want).abs() < 1e-6 * want + 1e-9, "{got} {want}");
        }
        let outcome = judge(&probabilities);
        assert_eq!(outcome.passed(), case["valid"] == true);
        if case["reason"] == "insufficient" {
            assert_eq!(outcome, DistributionOutcome::Insufficient);
        } else {
            check_reasons(&outcome, &case["reasons"]);
        }
    });
}

#[test]
fn soft_checks_end_a_file_as_in_the_reference() {
    let thresholds = std::cell::RefCell::new(Vec::new());
    every_entry("validation", "pipeline_and_soft_cutoffs.json", "pipeline_order", 9, |check| {
        if check["severity"] == "soft" {
            let threshold = float(&check["soft_threshold"]);
            thresholds.borrow_mut().push((text(&check["check"]).to_owned(), threshold));
        }
    });
    assert!(!is_own() || thresholds.borrow().len() == 2);
    every_case("validation", "pipeline_and_soft_cutoffs.json", |case| {
        for (check, threshold) in thresholds.borrow().iter() {
            let cutoff = verify::soft_cutoff(*threshold, size(&case["planned_checks"]));
            assert_eq!(cutoff, size(&case["cutoffs"][check]), "{check} {case}");
        }
    });
}

#[test]
fn files_are_stopped_as_in_the_reference() {
    every_case("validation", "failure_gating_sequences.json", |case| {
        let mut gate = FileGate::new(size(&case["planned_checks"]));
        let mut stopped = None;
        for (row, results) in list(&case["checks_sequence"]).iter().enumerate() {
            let results = results.as_object().unwrap().iter();
            let results = results.map(|(check, passed)| (check.clone(), *passed == true)).collect();
            if let Some(stop) = gate.take(&results) {
                stopped = Some((row, stop));
                break;
            }
        }
        assert_eq!(stopped.map(|(row, _)| row as u64), case["stopped_at"].as_u64(), "{stopped:?}");
        let stop = stopped.map(|(_, stop)| stop);
        assert_eq!(stop.map(Stop::reason).as_deref(), case["reason"].as_str());
        assert_eq!(matches!(stop, Some(Stop::Hard(_))), case["hard_failure"] == true);
        assert_eq!(matches!(stop, Some(Stop::Soft(_))), case["soft_gate"] == true);
        let want = case["soft_failures"].as_object().unwrap();
        assert_eq!(gate.soft_failures().len(), want.len());
        for (check, count) in gate.soft_failures() {
            assert_eq!(*count, size(&want[*check]), "{check}");
        }
    });
}

#[test]
fn groups_are_checked_as_in_the_reference() {
    every_case("validation", "group_checks.json", |case| {
        let fault = groups::check(&floats(&case["rewards"]), &floats(&case["advantages"]));
        let seeds: Vec<Option<i64>> =
            case["env_seeds"].as_array().into_iter().flatten().map(Value::as_i64).collect();
        let passes = fault.is_none() && groups::have_one_seed(&seeds);
        assert_eq!(passes, case["valid"] == true, "{} {fault:?}", case["name"]);
    });
}

#[test]
fn samples_are_extrapolated_as_in_the_reference() {
    every_case("validation", "extrapolation.json", |case| {
        let metrics = &case["metrics"];
        let number = |key: &str| case[key].as_u64().unwrap();
        for (key, want) in [
            ("valid", "estimated_valid"),
            ("successful", "estimated_successful"),
            ("unique", "estimated_unique"),
        ] {
            let estimated = groups::extrapolate(number("total"), number(key), number("checked"));
            assert_eq!(Some(estimated), metrics[want].as_u64(), "{case}");
        }
    });
}
