//! The checks of a screened row that compare it with our own forward pass and environment.

use grail_ports::environment::ExactEvaluation;
use grail_ports::reference::Trace;
use grail_protocol::v5::file::RolloutFields;
use grail_protocol::v5::sketch;
use grail_protocol::v5::verify;

use super::screen::{Ready, Results};
use super::{Bench, ExamineError};

/// What a row's checks gave.
pub struct Compared {
    /// Results of all checks that ran.
    pub results: Results,
    /// What the completion is worth by our own environment, if it got that far.
    pub evaluation: Option<ExactEvaluation>,
}

/// Runs the rest of the checks on a row that `trace` was computed for.
///
/// # Errors
/// When we fail to evaluate the completion.
pub fn compare(
    bench: &Bench,
    mut ready: Ready,
    claims: &RolloutFields,
    trace: &Trace,
) -> Result<Compared, ExamineError> {
    let results = std::mem::take(&mut ready.results);
    let mut compared = Compared { results, evaluation: None };
    checks(bench, &ready, claims, trace, &mut compared)?;
    Ok(compared)
}

/// Runs checks until a hard one fails.
fn checks(
    bench: &Bench,
    ready: &Ready,
    claims: &RolloutFields,
    trace: &Trace,
    compared: &mut Compared,
) -> Result<(), ExamineError> {
    let Compared { results, evaluation } = compared;
    let mut holds = |check: &str, result: bool| {
        results.insert(check.to_owned(), result);
        result
    };
    if !holds("proof_valid", are_sketches_near(bench, ready, trace)) {
        return Ok(());
    }

    let assignment = &bench.assignment;
    let completion = &ready.tokens[ready.prompt_len..];
    let ending = verify::termination(
        completion.len(),
        assignment.token_limit(),
        *completion.last().expect("a challenged completion has 32 tokens"),
        assignment.model.end_token(),
        trace.end_probability,
    );
    if !holds("termination_valid", ending.passed()) {
        return Ok(());
    }

    let text = assignment.model.decode_with_special(completion)?;
    let own = assignment.environment.evaluate_exactly(ready.seed.into(), &text)?;
    *evaluation = Some(own);
    holds("env_eval_valid", true);
    let claimed = claims.total_reward.as_float().unwrap_or(f64::NAN);
    holds("reward_valid", verify::reward_close(claimed, own.reward));

    if !holds("logprobs_valid", are_logprobs_near(ready, claims, trace)) {
        return Ok(());
    }
    let probabilities: Vec<f64> = trace.probabilities.iter().copied().map(f64::from).collect();
    holds("token_distribution_valid", verify::distribution(&probabilities).passed());
    Ok(())
}

/// Compares the sketches at the challenged positions. The coefficients are the miner's own, as in
/// the reference: it cannot know which ones a validator would draw.
fn are_sketches_near(bench: &Bench, ready: &Ready, trace: &Trace) -> bool {
    let hidden = bench.hidden_size();
    let own_at = |&position: &usize| {
        let row = trace.rows.get(position * hidden..(position + 1) * hidden)?;
        sketch::commit(row, hidden, &ready.coefficients).first().copied()
    };
    let own: Option<Vec<i64>> = ready.positions.iter().map(own_at).collect();
    let claimed = |&position: &usize| ready.claimed.get(position).copied();
    let claimed: Option<Vec<i64>> = ready.positions.iter().map(claimed).collect();
    let (Some(own), Some(claimed)) = (own, claimed) else { return false };
    // The tolerance depends on the position, so both lists are as long as the sequence there.
    let spread = |values: &[i64]| {
        let mut all = vec![0; ready.tokens.len()];
        for (position, value) in ready.positions.iter().zip(values) {
            all[*position] = *value;
        }
        all
    };
    verify::sketches(&spread(&claimed), &spread(&own), &ready.positions).passed
}

/// Compares the log-probabilities at the challenged positions. Claims that are not finite are
/// refused, also where the reference's median would hide them.
fn are_logprobs_near(ready: &Ready, claims: &RolloutFields, trace: &Trace) -> bool {
    let claimed = &claims.token_logprobs;
    if claimed.len() != ready.tokens.len() {
        return false;
    }
    let claimed: Vec<f64> = ready.positions.iter().map(|&position| claimed[position]).collect();
    let own = |&position: &usize| {
        let logprob = trace.logprobs.get(position.checked_sub(ready.prompt_len)?)?;
        Some(f64::from(*logprob))
    };
    let own: Option<Vec<f64>> = ready.positions.iter().map(own).collect();
    let Some(own) = own else { return false };
    claimed.iter().all(|logprob| logprob.is_finite()) && verify::logprobs(&claimed, &own).passed
}
