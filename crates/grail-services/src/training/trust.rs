//! Decides whose rollouts a trainer of the reference's profile takes.
//!
//! Source: `spec/trainer.md`, trusted miners: the trust list of one validator, and without one the
//! miners that earn most. The list's format is [`grail_protocol::v5::trust`].

/// Returns the place of the validator whose trust list counts: the one with the most stake, above 0,
/// among those with a permit; of equals the first.
///
/// Both slices are in the order of the metagraph.
pub fn deciding_validator(permits: &[bool], stakes: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, (&permit, &stake)) in permits.iter().zip(stakes).enumerate() {
        if permit && stake > best.map_or(0.0, |(_, most)| most) {
            best = Some((place, stake));
        }
    }
    best.map(|(place, _)| place)
}

/// Returns the places of the `at_most` miners that earn most on chain, best first, of equals the
/// first. Place 0 is the trainer's own and is left out, as is who earns nothing.
///
/// For windows without a trust list. `incentives` is in the order of the metagraph.
pub fn best_earning(incentives: &[f64], at_most: usize) -> Vec<usize> {
    let earns = |place: &usize| incentives[*place] > 0.0;
    let mut places: Vec<usize> = (1..incentives.len()).filter(earns).collect();
    places.sort_by(|a, b| incentives[*b].total_cmp(&incentives[*a]));
    places.truncate(at_most);
    places
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, floats, list, size, text};

    use super::*;

    #[test]
    fn miners_are_trusted_as_in_the_reference() {
        every_case("trainer_data", "trust.json", |case| {
            let permits: Vec<bool> =
                list(&case["validator_permit"]).iter().map(|permit| *permit == true).collect();
            let validator = deciding_validator(&permits, &floats(&case["stake"]));
            assert_eq!(
                validator.map(|place| place as u64),
                case["highest_stake_validator"].as_u64(),
                "{case}"
            );
            let trusted = best_earning(&floats(&case["incentive"]), size(&case["min_trusted"]));
            // The hotkeys of the vectors end with their places; their order says nothing.
            let mut trusted: Vec<String> = trusted.iter().map(ToString::to_string).collect();
            trusted.sort();
            let mut expected: Vec<&str> = list(&case["trusted"])
                .iter()
                .map(|hotkey| text(hotkey).trim_start_matches(|c: char| !c.is_ascii_digit()))
                .collect();
            expected.sort_unstable();
            assert_eq!(trusted, expected, "{case}");
        });
    }

    #[test]
    fn numbers_that_are_none_trust_nobody() {
        assert_eq!(deciding_validator(&[true, true], &[f64::NAN, 0.0]), None);
        assert_eq!(deciding_validator(&[true], &[]), None);
        assert_eq!(best_earning(&[9.0, f64::NAN, -1.0], 5), [0; 0]);
        assert_eq!(best_earning(&[], 5), [0; 0]);
    }
}
