//! The parts of OpenAI's answers that several routes share.

use grail_model::tokenizer::Tokenizer;
use grail_protocol::ids::TokenId;
use serde::Serialize;

use super::account::Account;

/// Tokens that a request used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

impl Usage {
    /// Reads the books.
    pub fn of(account: &Account) -> Self {
        let Account { prompt_tokens, completion_tokens, cached_tokens, .. } = *account;
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: cached_tokens
                .map(|cached_tokens| PromptDetails { cached_tokens }),
        }
    }
}

/// Returns a token as a text. One that is no whole character is told by its bytes, as OpenAI does:
/// `bytes:\xe2\x82`.
pub fn token_text(tokenizer: &Tokenizer, id: TokenId) -> String {
    match String::from_utf8(tokenizer.token_bytes(id)) {
        Ok(text) => text,
        Err(error) => {
            let digits = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", digits.collect::<String>())
        }
    }
}
