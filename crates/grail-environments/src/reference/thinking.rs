//! How a model is asked to think and answer: the two modes, their tags and prompts.

use grail_ports::environment::{ChatMessage, ChatRole};

/// Opens a final answer.
pub const SOLUTION_OPEN: &str = "<SOLUTION>";

/// Closes a final answer.
pub const SOLUTION_CLOSE: &str = "</SOLUTION>";

/// Whether the model is told how to mark its thinking, or does so by itself.
///
/// Checkpoints carry it; with another mode every prompt and reward differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingMode {
    /// The system prompt names the tags; prompts are plain ChatML.
    Instructed,
    /// The model has tags of its own; prompts use its own template, with `enable_thinking` set.
    Native,
}

/// No mode has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no thinking mode `{name}`; the modes are instructed and native")]
pub struct UnknownMode {
    /// The start of the name.
    pub name: String,
}

impl ThinkingMode {
    /// Finds a mode by its name in any case.
    ///
    /// # Errors
    /// When no mode has this name.
    pub fn from_name(name: &str) -> Result<Self, UnknownMode> {
        match name {
            _ if name.eq_ignore_ascii_case("instructed") => Ok(Self::Instructed),
            _ if name.eq_ignore_ascii_case("native") => Ok(Self::Native),
            _ => Err(UnknownMode { name: name.chars().take(64).collect() }),
        }
    }

    /// Returns the tag that opens the thinking.
    pub fn thinking_open(self) -> &'static str {
        match self {
            Self::Instructed => "<start_working_out>",
            Self::Native => "<think>",
        }
    }

    /// Returns the tag that closes the thinking. It is no mirror of the one that opens it.
    pub fn thinking_close(self) -> &'static str {
        match self {
            Self::Instructed => "</end_working_out>",
            Self::Native => "</think>",
        }
    }

    /// Returns whether prompts are rendered by [`chatml`] instead of the model's own template.
    pub fn uses_chatml(self) -> bool {
        self == Self::Instructed
    }

    /// Returns what the model's own template gets as `enable_thinking`.
    pub fn enables_thinking(self) -> bool {
        self == Self::Native
    }

    /// Returns the system prompt.
    pub fn system_prompt(self) -> String {
        let tags = match self {
            Self::Instructed => {
                "Place your reasoning between <start_working_out> and </end_working_out>.\n"
            }
            Self::Native => "",
        };
        format!(
            "You are given a problem. Think step by step.\n{tags}\
             You may write and reason about code during your thinking.\n\
             After thinking, you MUST provide your final solution wrapped in <SOLUTION> and </SOLUTION> tags.\n\
             Any code outside <SOLUTION> tags will be ignored. Your answer will score 0 without these tags."
        )
    }

    /// Returns `messages` with the system prompt in front, unless they begin with a system message.
    pub fn prepare(self, messages: Vec<ChatMessage>) -> Vec<ChatMessage> {
        if messages.first().is_some_and(|message| message.role == ChatRole::System) {
            return messages;
        }
        let system = ChatMessage { role: ChatRole::System, content: self.system_prompt() };
        std::iter::once(system).chain(messages).collect()
    }
}

/// Renders messages as plain ChatML up to where the assistant's answer begins.
pub fn chatml(messages: &[ChatMessage]) -> String {
    let mut text: String = messages
        .iter()
        .map(|message| {
            format!("<|im_start|>{}\n{}<|im_end|>\n", message.role.as_str(), message.content)
        })
        .collect();
    text.push_str("<|im_start|>assistant\n");
    text
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;
    use serde_json::Value;

    use super::*;

    fn messages(value: &Value) -> Vec<ChatMessage> {
        let roles = [ChatRole::System, ChatRole::User, ChatRole::Assistant];
        let message = |value: &Value| {
            let name = vectors::text(&value["role"]);
            let role = roles.into_iter().find(|role| role.as_str() == name).unwrap();
            ChatMessage { role, content: vectors::text(&value["content"]).to_owned() }
        };
        vectors::list(value).iter().map(message).collect()
    }

    /// The rendering of native cases is tested where templates are rendered, in the model's crate.
    #[test]
    fn prompts_are_the_references() {
        vectors::every_case("chat", "chat_template.json", |case| {
            let mode = ThinkingMode::from_name(vectors::text(&case["mode"])).unwrap();
            let prepared = mode.prepare(messages(&case["messages"]));
            assert_eq!(prepared, messages(&case["prepared"]));
            if mode.uses_chatml() {
                assert_eq!(chatml(&prepared), vectors::text(&case["rendered"]));
            }
        });
    }

    #[test]
    fn the_modes_are_the_references() {
        let vectors = vectors::load("chat", "chat_template.json");
        for (name, config) in vectors["configs"].as_object().unwrap() {
            let mode = ThinkingMode::from_name(name).unwrap();
            assert_eq!(mode.system_prompt(), vectors::text(&config["system_prompt"]));
            assert_eq!(mode.thinking_open(), config["thinking_open"]);
            assert_eq!(mode.thinking_close(), config["thinking_close"]);
            assert_eq!(SOLUTION_OPEN, config["solution_open"]);
            assert_eq!(SOLUTION_CLOSE, config["solution_close"]);
            assert_eq!(mode.uses_chatml(), config["use_custom_template"]);
            assert_eq!(mode.enables_thinking(), config["enable_thinking"]);
        }
        for (name, outcome) in vectors["mode_lookup"].as_object().unwrap() {
            assert_eq!(ThinkingMode::from_name(name).is_ok(), outcome == "ok", "{name}");
        }
    }
}
