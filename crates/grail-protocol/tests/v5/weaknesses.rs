//! Forgeries that v5 accepts, on made-up hidden states: why it is never the default.

use grail_protocol::v5::verify::{self, Claimed, Failure, Recomputed, Rules};
use grail_protocol::v5::{indices, r_vec, sketch};

const HIDDEN: usize = 576;
const PROMPT: usize = 8;
const TOKENS: usize = PROMPT + 200;
const EOS: u32 = 2;

/// Uniform in [-1, 1), from a counter.
fn uniform(seed: u64, counter: usize) -> f32 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(counter as u64);
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        x = (x ^ x >> 30).wrapping_mul(multiplier);
    }
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// States whose largest activations are around `scale`, as after a final norm.
fn states(seed: u64, scale: f32) -> Vec<f32> {
    (0..TOKENS * HIDDEN).map(|i| scale * uniform(seed, i)).collect()
}

struct Rollout {
    tokens: Vec<u32>,
    own: Vec<i64>,
    logprobs: Vec<f64>,
    probabilities: Vec<f64>,
}

impl Rollout {
    fn new(scale: f32) -> Self {
        let mut tokens: Vec<u32> = (0..TOKENS as u32).map(|i| 10 + i % 50).collect();
        tokens[TOKENS - 1] = EOS;
        let r_vec = r_vec::from_randomness("0badc0de").unwrap();
        Self {
            tokens,
            own: sketch::commit(&states(1, scale), HIDDEN, &r_vec),
            logprobs: vec![-0.4; TOKENS],
            probabilities: vec![0.67; TOKENS - PROMPT],
        }
    }

    /// The verdict when the miner claims these sketches and log-probabilities.
    fn judge(&self, sketches: &[i64], logprobs: &[f64]) -> verify::Verdict {
        let claimed = Claimed {
            tokens: &self.tokens,
            prompt_length: PROMPT,
            sketches,
            logprobs,
            reward: 1.0,
        };
        let own = Recomputed {
            sketches: &self.own,
            logprobs: &self.logprobs,
            probabilities: &self.probabilities,
            eos_probability: 0.9,
            reward: Some(1.0),
        };
        let limit = verify::token_limit(Some(1024));
        verify::judge(&claimed, &own, &Rules { randomness: "5eed", limit, eos_token: Some(EOS) })
    }

    fn accepts(&self, sketches: &[i64]) -> bool {
        self.judge(sketches, &self.logprobs) == verify::Verdict::default()
    }
}

#[test]
fn an_honest_rollout_passes() {
    let rollout = Rollout::new(40.0);
    assert!(rollout.accepts(&rollout.own));
}

#[test]
fn a_constant_zero_passes() {
    for scale in [1.0, 10.0, 40.0, 100.0] {
        assert!(Rollout::new(scale).accepts(&[0; TOKENS]), "scale {scale}");
    }
}

#[test]
fn sketches_of_shuffled_positions_pass() {
    let rollout = Rollout::new(40.0);
    let mut shuffled = rollout.own.clone();
    shuffled.reverse();
    assert_ne!(shuffled, rollout.own);
    assert!(rollout.accepts(&shuffled));
}

#[test]
fn sketches_of_unrelated_states_pass() {
    let r_vec = r_vec::from_randomness("0badc0de").unwrap();
    let unrelated = sketch::commit(&states(2, 40.0), HIDDEN, &r_vec);
    assert!(Rollout::new(40.0).accepts(&unrelated));
}

#[test]
fn numbers_far_out_of_range_pass() {
    for claim in [1_000_000_000_000_000_000, i64::MIN, i64::MAX, 2 * i64::from(u32::MAX)] {
        assert!(Rollout::new(40.0).accepts(&[claim; TOKENS]), "{claim}");
    }
    // Only numbers inside the ring can be too far.
    let verdict = Rollout::new(40.0).judge(&[1 << 30; TOKENS], &[-0.4; TOKENS]);
    assert!(matches!(verdict.hard[..], [Failure::Sketches(_)]), "{verdict:?}");
    assert_eq!(verdict.hard[0].check(), "proof_valid");
}

#[test]
fn fifteen_of_thirty_two_log_probabilities_may_be_anything() {
    let rollout = Rollout::new(40.0);
    let challenged = indices::challenge(&rollout.tokens, "5eed", PROMPT, TOKENS - PROMPT).unwrap();
    let claim = |n_wrong: usize| {
        let mut claimed = rollout.logprobs.clone();
        for &position in &challenged[..n_wrong] {
            claimed[position] = f64::NEG_INFINITY;
        }
        rollout.judge(&rollout.own, &claimed)
    };
    assert!(claim(15).passed());
    assert!(matches!(claim(17).hard[..], [Failure::Logprobs(_)]));
}

#[test]
fn a_short_answer_is_rejected_however_honest() {
    let mut rollout = Rollout::new(40.0);
    // Its end: a prompt of 8 tokens and a completion of 31.
    rollout.tokens = rollout.tokens.split_off(TOKENS - 31 - PROMPT);
    let claimed = Claimed {
        tokens: &rollout.tokens,
        prompt_length: PROMPT,
        sketches: &rollout.own[..31 + PROMPT],
        logprobs: &rollout.logprobs[..31 + PROMPT],
        reward: 1.0,
    };
    let own = Recomputed {
        sketches: &rollout.own[..31 + PROMPT],
        logprobs: &rollout.logprobs[..31 + PROMPT],
        probabilities: &rollout.probabilities[..31],
        eos_probability: 0.9,
        reward: Some(1.0),
    };
    let rules = Rules { randomness: "5eed", limit: 1024, eos_token: Some(EOS) };
    let verdict = verify::judge(&claimed, &own, &rules);
    assert_eq!(verdict.hard, [Failure::TooShort { tokens: 31 }]);
}
