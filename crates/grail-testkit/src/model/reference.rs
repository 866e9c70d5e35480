//! The fake model as the roles of the reference's profile use it.

use std::collections::BTreeSet;

use grail_ports::environment::ChatMessage;
use grail_ports::model::{Model as _, ModelError, StopFlag};
use grail_ports::reference::{PromptForm, ReferenceModel, Trace, TraceRequest};
use grail_protocol::ids::TokenId;
use grail_protocol::v5::distribution::chosen_probability;

use super::weights::{self, Position};
use super::{END, FIRST_CHARACTER, FakeModel, bad_request, check_temperature, check_tokens};

impl FakeModel {
    fn trace_one(&self, request: &TraceRequest) -> Result<Trace, ModelError> {
        let mut trace = Trace {
            rows: Vec::new(),
            logprobs: Vec::new(),
            probabilities: Vec::new(),
            end_probability: 0.0,
        };
        let mut position = Position::start();
        let mut seen = BTreeSet::new();
        for (at, &token) in request.tokens.iter().enumerate() {
            if at >= request.prompt_len {
                let mut logits = position.logits(&self.weights);
                trace.logprobs.push(weights::logprob(&logits, token));
                trace.end_probability = weights::logprob(&logits, END).exp();
                if let Some(warp) = request.warp {
                    let (temperature, penalty) = (warp.temperature, warp.repetition_penalty);
                    let found = chosen_probability(&mut logits, &seen, token, temperature, penalty);
                    trace.probabilities.extend(found);
                }
            }
            seen.insert(token);
            position = position.after(&self.weights, token);
            trace.rows.extend_from_slice(&position.row);
        }
        Ok(trace)
    }
}

fn check(request: &TraceRequest) -> Result<(), ModelError> {
    let TraceRequest { tokens, prompt_len, warp } = request;
    check_tokens(tokens, *prompt_len, tokens.len())?;
    if *prompt_len == tokens.len() {
        return bad_request("a sequence without a completion".to_owned());
    }
    let Some(warp) = warp else { return Ok(()) };
    check_temperature(warp.temperature)?;
    match warp.repetition_penalty {
        penalty if penalty.is_finite() && penalty > 0.0 => Ok(()),
        penalty => bad_request(format!("repetition_penalty {penalty}")),
    }
}

impl ReferenceModel for FakeModel {
    fn end_token(&self) -> Option<TokenId> {
        Some(END)
    }

    /// As [`FakeModel::render`](grail_ports::model::Model::render); `Thinking` begins with `T`.
    fn render_as(
        &self,
        messages: &[ChatMessage],
        form: PromptForm,
    ) -> Result<Vec<TokenId>, ModelError> {
        let mut tokens = self.render(messages)?;
        if form == PromptForm::Thinking {
            tokens.insert(0, TokenId::from('T'));
        }
        Ok(tokens)
    }

    /// Special tokens are written as `<0>`.
    fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        let spell = |&token: &TokenId| match token {
            special if special < FIRST_CHARACTER => Ok(format!("<{special}>")),
            character => self.decode(&[character]),
        };
        tokens.iter().map(spell).collect()
    }

    fn trace(&self, requests: &[TraceRequest], stop: &StopFlag) -> Result<Vec<Trace>, ModelError> {
        requests.iter().try_for_each(check)?;
        let trace = |request| {
            if stop.is_stopped() { Err(ModelError::Stopped) } else { self.trace_one(request) }
        };
        requests.iter().map(trace).collect()
    }
}
