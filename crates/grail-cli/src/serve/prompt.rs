//! From what a request calls its prompt to the token ids of each.

use std::sync::Arc;

use grail_model::chat::ChatMessage;
use grail_ports::model::Model;
use grail_protocol::ids::TokenId;
use serde_json::Value;

use super::app::App;
use super::error::{Answer, ApiError};
use super::fields::{Fields, whole};
use super::limits::MESSAGES_MAX;

/// One prompt as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// To be tokenised, with the frame that the tokenizer puts around a text.
    Text(String),
    /// Token ids.
    Tokens(Vec<TokenId>),
    /// A conversation to be rendered by the model's template.
    Chat(Vec<ChatMessage>),
}

/// Reads texts and token ids: one of either, or a list of either.
pub fn texts_or_tokens(field: &str, value: Value) -> Answer<Vec<Prompt>> {
    let wrong = || {
        let expected = "a text, a list of texts, a list of token ids, or a list of such lists";
        ApiError::field(field, format!("`{field}` must be {expected}; give one"))
    };
    let parts = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(parts) if !parts.is_empty() => parts,
        _ => return Err(wrong()),
    };
    if parts[0].is_number() {
        return Ok(vec![Prompt::Tokens(tokens(field, &parts)?)]);
    }
    let prompts = parts.into_iter().map(|part| match part {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) => Ok(Prompt::Tokens(tokens(field, &ids)?)),
        _ => Err(wrong()),
    });
    prompts.collect()
}

fn tokens(field: &str, values: &[Value]) -> Answer<Vec<TokenId>> {
    let ids = values.iter().map(|value| whole(value).and_then(|id| TokenId::try_from(id).ok()));
    ids.collect::<Option<_>>().ok_or_else(|| {
        ApiError::field(
            field,
            format!("`{field}` has something that is no token id; ids are whole numbers"),
        )
    })
}

/// Reads the messages of a chat.
pub fn messages(value: Value) -> Answer<Prompt> {
    let refuse = |message: String| Err(ApiError::field("messages", message));
    let Value::Array(list) = value else {
        return refuse("`messages` must be a list of {\"role\", \"content\"}".to_owned());
    };
    if list.is_empty() || list.len() > MESSAGES_MAX {
        let len = list.len();
        return refuse(format!("`messages` has {len} messages, 1 to {MESSAGES_MAX} are taken"));
    }
    Ok(Prompt::Chat(list.into_iter().map(message).collect::<Answer<_>>()?))
}

fn message(value: Value) -> Answer<ChatMessage> {
    let mut fields = Fields::within("messages[].", value)?;
    let role = fields.text("role")?;
    let role = match role.as_deref() {
        // OpenAI's newer name for the same thing.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some(_) | None => {
            let expected = "`messages[].role` must be system, developer, user or assistant";
            return Err(ApiError::field("messages", expected));
        }
    };
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            parts.into_iter().map(text_part).collect::<Answer<Vec<_>>>()?.concat()
        }
        _ => {
            let expected = "`messages[].content` must be a text or a list of text parts";
            return Err(ApiError::field("messages", expected));
        }
    };
    fields.take("name");
    for name in ["tool_calls", "function_call", "refusal", "audio"] {
        fields.neutral(name, |value| value.as_array().is_some_and(Vec::is_empty))?;
    }
    fields.end()?;
    Ok(ChatMessage::new(role, content))
}

fn text_part(value: Value) -> Answer<String> {
    let mut fields = Fields::within("messages[].content[].", value)?;
    let kind = fields.text("type")?;
    if kind.as_deref() != Some("text") {
        let message = "only parts of type `text` are supported; this model reads nothing else";
        return Err(ApiError::unsupported("messages", message));
    }
    let text = fields.text("text")?.unwrap_or_default();
    fields.end()?;
    Ok(text)
}

/// Turns prompts into token ids, off the async threads.
///
/// # Errors
/// 400 for a prompt that is empty, does not fit, or is not of this model's vocabulary.
pub async fn encode(
    app: &Arc<App>,
    field: &'static str,
    prompts: Vec<Prompt>,
) -> Answer<Vec<Vec<TokenId>>> {
    let app = app.clone();
    let work = move || prompts.into_iter().map(|prompt| encode_one(&app, field, prompt)).collect();
    let encoded = tokio::task::spawn_blocking(work).await;
    encoded.map_err(|error| ApiError::internal(format!("tokenising failed: {error}")))?
}

fn encode_one(app: &App, field: &str, prompt: Prompt) -> Answer<Vec<TokenId>> {
    let tokenizer = app.model.tokenizer();
    let refused = |error: &dyn std::error::Error| ApiError::field(field, error.to_string());
    let ids = match prompt {
        Prompt::Tokens(ids) => ids,
        Prompt::Text(text) => {
            check_bytes(app, field, &text)?;
            tokenizer.encode(&text, true).map_err(|error| refused(&error))?
        }
        Prompt::Chat(messages) => {
            let text =
                app.model.template().render(&messages, true).map_err(|error| refused(&error))?;
            check_bytes(app, field, &text)?;
            // The template writes the special tokens itself.
            tokenizer.encode(&text, false).map_err(|error| refused(&error))?
        }
    };
    check(app, field, &ids)?;
    Ok(ids)
}

/// Refuses a text that has too many tokens however it is cut, before time is spent on it.
fn check_bytes(app: &App, field: &str, text: &str) -> Answer<()> {
    if text.len() <= app.prompt_bytes_max {
        return Ok(());
    }
    let (len, max) = (text.len(), app.limits.context_max);
    Err(too_long(field, &format!("the prompt has {len} bytes, far more than {max} tokens")))
}

fn check(app: &App, field: &str, ids: &[TokenId]) -> Answer<()> {
    let (len, max) = (ids.len(), app.limits.context_max);
    if len == 0 {
        return Err(ApiError::field(field, "the prompt has no token; give at least one"));
    }
    if len >= max {
        return Err(too_long(
            field,
            &format!(
                "the prompt has {len} tokens and prompt and completion together at most {max}"
            ),
        ));
    }
    let vocab_size = app.model.info().vocab_size;
    match ids.iter().find(|id| **id >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(ApiError::field(
            field,
            format!(
                "token {id} is not below the vocabulary's {vocab_size}; was the text tokenised for another model?"
            ),
        )),
    }
}

fn too_long(field: &str, what: &str) -> ApiError {
    let error = ApiError::field(field, format!("{what}; shorten the prompt"));
    ApiError { code: Some("context_length_exceeded"), ..error }
}
