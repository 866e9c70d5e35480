//! Refuses requests that the model cannot serve, before any work is done for them.

use std::sync::Arc;

use grail_ports::model::{GenerateRequest, ModelError, Sampling, ScoreRequest};
use grail_ports::reference::TraceRequest;
use grail_protocol::ids::TokenId;
use grail_protocol::sampler::RaceKey;
use grail_protocol::sketch::{SketchKey, Sketcher, Whitening};

use super::Engine;
use super::scheduler::blocks_needed;
use crate::arch::Decoder;

/// Most bytes of LM-head inputs that one call may ask for.
const ROWS_BYTES_MAX: usize = 1 << 30;

fn refuse<T>(text: String) -> Result<T, ModelError> {
    Err(ModelError::BadRequest(text))
}

/// Checks that there is a token, that each is in the vocabulary, and that all fit the context.
pub(crate) fn check_tokens(tokens: &[TokenId], decoder: &Decoder) -> Result<(), ModelError> {
    let vocab_size = decoder.config.vocab_size;
    if tokens.is_empty() {
        return refuse("the prompt is empty; give at least one token".into());
    }
    check_length(tokens.len(), decoder)?;
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(idx) => refuse(format!(
            "token {} at position {idx} is not below vocab_size {vocab_size}; was the text \
             tokenised for another model?",
            tokens[idx]
        )),
    }
}

fn check_length(tokens: usize, decoder: &Decoder) -> Result<(), ModelError> {
    let max = decoder.positions_max;
    if tokens <= max {
        return Ok(());
    }
    refuse(format!(
        "{tokens} tokens of prompt and completion do not fit the model's {max} positions; shorten \
         the prompt or ask for fewer new tokens"
    ))
}

fn check_temperature(temperature: f32) -> Result<(), ModelError> {
    if temperature.is_finite() && temperature > 0.0 {
        return Ok(());
    }
    refuse(format!("temperature {temperature} is not a number above 0; 1 is usual"))
}

/// Starts the sketches of the completion whose race has the key `race_key`.
pub(super) fn sketcher(race_key: [u32; 4], whitening: &Arc<Whitening>) -> Sketcher {
    Sketcher::new(SketchKey::of(RaceKey(race_key)), Arc::clone(whitening))
}

/// Checks that statistics, if there are any, are those of a model like this one.
pub(super) fn check_whitening(
    whitening: Option<&Arc<Whitening>>,
    decoder: &Decoder,
) -> Result<(), ModelError> {
    let Some(whitening) = whitening else { return Ok(()) };
    let (found, hidden) = (whitening.hidden_size(), decoder.shape.hidden);
    if found == hidden {
        return Ok(());
    }
    refuse(format!(
        "whitening of {found} dimensions for hidden states of {hidden}; take that of this \
         checkpoint's metadata"
    ))
}

/// Checks all that [`Engine::generate`] is asked for.
pub(super) fn check_generate(
    requests: &[GenerateRequest],
    engine: &Engine,
) -> Result<(), ModelError> {
    for request in requests {
        check_completion(&request.prompt, request.max_new_tokens, request.sampling, engine)?;
        if request.race_keys.is_empty() {
            return refuse("a group has no race keys; give one for each completion".into());
        }
        check_whitening(request.whitening.as_ref(), &engine.decoder)?;
    }
    Ok(())
}

/// Checks what is asked of one completion, and that it fits the cache by itself.
pub(super) fn check_completion(
    prompt: &[TokenId],
    max_new_tokens: u32,
    sampling: Sampling,
    engine: &Engine,
) -> Result<(), ModelError> {
    check_tokens(prompt, &engine.decoder)?;
    if max_new_tokens == 0 {
        return refuse("max_new_tokens is 0; ask for at least one token".into());
    }
    check_length(prompt.len().saturating_add(max_new_tokens as usize), &engine.decoder)?;
    match sampling {
        Sampling::Greedy => {}
        Sampling::Race { temperature } => check_temperature(temperature)?,
        Sampling::TopP { temperature, top_p } => {
            check_temperature(temperature)?;
            if !(top_p > 0.0 && top_p <= 1.0) {
                return refuse(format!("top_p {top_p} is not above 0 and at most 1"));
            }
        }
    }
    let needed = blocks_needed(prompt.len(), max_new_tokens);
    let allowed = engine.kv_blocks_max();
    if needed > allowed {
        return refuse(format!(
            "one completion needs {needed} cache blocks but kv_bytes_max {} holds {allowed}; raise \
             it or ask for fewer tokens",
            engine.config.kv_bytes_max
        ));
    }
    Ok(())
}

/// Checks the tokens of a sequence, and that it has a prompt and a completion.
pub(crate) fn check_sequence(
    tokens: &[TokenId],
    prompt_len: usize,
    decoder: &Decoder,
) -> Result<(), ModelError> {
    check_tokens(tokens, decoder)?;
    if (1..tokens.len()).contains(&prompt_len) {
        return Ok(());
    }
    let len = tokens.len();
    refuse(format!(
        "a prompt of {prompt_len} in a sequence of {len} tokens; prompt and completion need one each"
    ))
}

pub(super) fn check_score(requests: &[ScoreRequest], decoder: &Decoder) -> Result<(), ModelError> {
    let mut row_tokens = 0usize;
    for request in requests {
        check_sequence(&request.tokens, request.prompt_len, decoder)?;
        if let Some(race) = request.race {
            check_temperature(race.temperature)?;
        }
        check_whitening(request.whitening.as_ref(), decoder)?;
        if request.whitening.is_some() && request.race.is_none() {
            let text = "sketches need the key of a race; give the race with the whitening";
            return refuse(text.into());
        }
        if request.rows {
            row_tokens += request.tokens.len() - request.prompt_len;
        }
    }
    check_rows(row_tokens, decoder.shape.hidden)
}

pub(super) fn check_trace(requests: &[TraceRequest], decoder: &Decoder) -> Result<(), ModelError> {
    let mut row_tokens = 0usize;
    for request in requests {
        check_sequence(&request.tokens, request.prompt_len, decoder)?;
        if let Some(warp) = request.warp {
            check_temperature(warp.temperature)?;
            let penalty = warp.repetition_penalty;
            if !(penalty.is_finite() && penalty > 0.0) {
                return refuse(format!("repetition_penalty {penalty} is not a number above 0"));
            }
        }
        row_tokens += request.tokens.len();
    }
    check_rows(row_tokens, decoder.shape.hidden)
}

/// Bounds the rows that a call returns: `tokens` of `hidden` values each.
fn check_rows(tokens: usize, hidden: usize) -> Result<(), ModelError> {
    let bytes = tokens.saturating_mul(hidden * size_of::<f32>());
    if bytes <= ROWS_BYTES_MAX {
        return Ok(());
    }
    refuse(format!(
        "the rows of {tokens} tokens take {bytes} bytes, above {ROWS_BYTES_MAX}; ask for those of \
         fewer sequences at a time"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_call_are_bounded() {
        let fitting = ROWS_BYTES_MAX / 4 / 576;
        assert_eq!(check_rows(fitting, 576), Ok(()));
        for tokens in [fitting + 1, usize::MAX] {
            let refused = check_rows(tokens, 576).unwrap_err().to_string();
            assert!(refused.contains("fewer sequences at a time"), "{refused}");
        }
    }
}
