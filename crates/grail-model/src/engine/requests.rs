//! Refuses requests that the model cannot serve, before any work is done for them.

use grail_ports::model::{GenerateRequest, ModelError, Sampling, ScoreRequest};
use grail_protocol::ids::TokenId;

use super::Engine;
use super::scheduler::blocks_needed;
use crate::arch::Decoder;

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
    for request in requests {
        check_sequence(&request.tokens, request.prompt_len, decoder)?;
        if let Some(race) = request.race {
            check_temperature(race.temperature)?;
        }
    }
    Ok(())
}
