//! Renders a conversation as the text a model was trained on.
//!
//! The template is the model's own (Jinja2, from `chat_template.jinja` or `tokenizer_config.json`),
//! rendered byte for byte as `transformers` does: same block trimming, same `tojson`, Python's
//! string methods. Every party must build the same prompt from the same messages, so a template
//! has no access to a clock, a file or the environment.

mod json;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, merge_maps};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::formats::FormatError;
use crate::formats::config::read_bounded;
use crate::tokenizer::{TOKENIZER_CONFIG_FILE, read_tokenizer_config};

/// The file that holds a template alone; it wins over `tokenizer_config.json`.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";

/// ChatML, for a model that brings no template.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// Work one rendering may do: one unit an instruction, one for each 64 bytes made. A template of a
/// published model takes a few hundred for a short conversation.
const FUEL_MAX: u64 = 2_000_000;

const TEMPLATE_NAME: &str = "chat_template";

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`; a template may refuse others.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// Makes a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is not Jinja2 that this program understands.
    #[error("the chat template is not usable: {reason}; fix the model's {CHAT_TEMPLATE_FILE}")]
    Template {
        /// What the engine says, with the line.
        reason: String,
    },
    /// The template itself refuses the conversation (`raise_exception`).
    #[error("the chat template refuses these messages: {reason}")]
    Refused {
        /// The template's words.
        reason: String,
    },
    /// The template asks for the date.
    #[error(
        "the chat template asks for the current date (strftime_now), so two parties would build \
         different prompts; write a fixed date into the model's {CHAT_TEMPLATE_FILE}"
    )]
    Clock,
    /// The rendering did not end within its budget.
    #[error(
        "the chat template did too much work (more than {FUEL_MAX} steps); use another template"
    )]
    TooMuchWork,
}

/// A template with the special tokens it may name.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    special_tokens: BTreeMap<String, String>,
    environment: Environment<'static>,
}

/// Marks the errors that a template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Loads the template of the model folder `dir`: `chat_template.jinja`, else `chat_template`
    /// in `tokenizer_config.json`, else ChatML.
    ///
    /// # Errors
    ///
    /// [`FormatError`] naming the file and, for a template that does not parse, the line.
    pub fn load(dir: &Path) -> Result<Self, FormatError> {
        let config = read_tokenizer_config(dir)?;
        let file = dir.join(CHAT_TEMPLATE_FILE);
        let (path, source) = if file.exists() {
            let bytes = read_bounded(&file, TEMPLATE_BYTES_MAX, "chat template")?;
            let source = String::from_utf8(bytes)
                .map_err(|_| FormatError::broken(&file, "chat template", "it is not UTF-8"))?;
            (file, source)
        } else {
            let path: PathBuf = dir.join(TOKENIZER_CONFIG_FILE);
            match config.chat_template {
                Some(source) => (path, source),
                None => (path, CHATML.to_owned()),
            }
        };
        Self::new(source, config.special_tokens)
            .map_err(|error| FormatError::broken(&path, "chat template", error.to_string()))
    }

    /// Returns ChatML.
    pub fn chatml() -> Self {
        Self::new(CHATML.to_owned(), BTreeMap::new()).expect("the built-in template parses")
    }

    /// Parses a template. `special_tokens` maps `bos_token`, `eos_token`, ... to their texts.
    ///
    /// # Errors
    ///
    /// [`ChatError::Template`] with the line.
    pub fn new(
        source: String,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        // What `transformers` sets; everything else is Jinja2's default.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(describe)?);
        environment.set_fuel(Some(FUEL_MAX));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function(
            "raise_exception",
            |reason: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised by the template")
                    .with_source(Raised(reason)))
            },
        );
        environment.add_template_owned(TEMPLATE_NAME, source.clone()).map_err(describe)?;
        Ok(Self { source, special_tokens, environment })
    }

    /// Returns the Jinja2 source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders `messages`; with `add_generation_prompt` the text ends where the assistant's answer
    /// begins. Tokenise it *without* adding special tokens: the template writes them.
    ///
    /// # Errors
    ///
    /// [`ChatError`]: the template's refusal, its fault, or its budget.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        self.render_with(messages, add_generation_prompt, context! {})
    }

    /// Renders `messages` up to the assistant's answer with `enable_thinking` set, as the Python
    /// reference does for models that mark their thinking themselves.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::render`].
    pub fn render_thinking(&self, messages: &[ChatMessage]) -> Result<String, ChatError> {
        self.render_with(messages, true, context! { enable_thinking => true })
    }

    fn render_with(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        more: Value,
    ) -> Result<String, ChatError> {
        let template = self.environment.get_template(TEMPLATE_NAME).map_err(describe)?;
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            // Published templates test these by `is none` as often as by `is defined`.
            tools => Value::from(()),
            documents => Value::from(()),
            ..merge_maps([more, Value::from(Serde(&self.special_tokens))]),
        };
        template.render(variables).map_err(describe)
    }
}

/// Sorts an engine error by what the caller can do about it.
#[expect(clippy::needless_pass_by_value, reason = "the form `map_err` takes")]
fn describe(error: minijinja::Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Raised(reason)) = current.downcast_ref() {
            return ChatError::Refused { reason: reason.clone() };
        }
        cause = current.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => ChatError::TooMuchWork,
        // Left undefined on purpose: a template that asks `strftime_now is defined` then uses the
        // fixed date it was published with.
        ErrorKind::UnknownFunction
            if error.detail().is_some_and(|detail| detail.contains("strftime_now")) =>
        {
            ChatError::Clock
        }
        _ => ChatError::Template { reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let tokens = BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]);
        ChatTemplate::new(source.to_owned(), tokens).unwrap()
    }

    fn hello() -> Vec<ChatMessage> {
        vec![ChatMessage::new("user", "Hello, <b>'you'</b> & me")]
    }

    #[test]
    fn chatml_is_the_default() {
        let text = ChatTemplate::chatml().render(&hello(), true).unwrap();
        let want = "<|im_start|>user\nHello, <b>'you'</b> & me<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, want);
        assert!(!ChatTemplate::chatml().render(&hello(), false).unwrap().contains("assistant"));
    }

    #[test]
    fn templates_render_as_jinja2_does() {
        for (source, want) in [
            // A block on its own line leaves nothing, as trim_blocks and lstrip_blocks ask.
            ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
            ("{{ eos_token }}{{ bos_token }}", "</s>"),
            ("{{ messages[0]['content'] | tojson }}", "\"Hello, <b>'you'</b> & me\""),
            ("{{ messages[0].content.split(',')[0].upper() }}", "HELLO"),
            ("{{ ' x '.strip() + 'abc'.replace('b', '') }}", "xac"),
            (
                "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}",
                "",
            ),
            ("{{ tools is none }}{{ missing is defined }}{{ none }}", "TrueFalseNone"),
            ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
            (
                "{% if strftime_now is defined %}clock{% else %}26 Jul 2024{% endif %}",
                "26 Jul 2024",
            ),
            ("{{ messages[-1]['role'] }}{{ messages | length }}{{ 7 // 2 }}", "user13"),
        ] {
            assert_eq!(template(source).render(&hello(), true).unwrap(), want, "{source}");
        }
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let refusing = template("{{ raise_exception('roles must alternate') }}");
        let error = refusing.render(&hello(), true).unwrap_err();
        assert!(
            matches!(&error, ChatError::Refused { reason } if reason == "roles must alternate")
        );
    }

    /// In the manner of Gemma's template: a system message goes before the first turn, turns have
    /// the role "model" and must alternate.
    #[test]
    fn turns_of_gemma_render() {
        let gemma = "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}\
            {%- set first = messages[0]['content'] + '\n\n' -%}{%- set turns = messages[1:] -%}\
            {%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}\
            {%- for turn in turns -%}\
            {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}\
            {{ raise_exception('turns must alternate') }}{%- endif -%}\
            {%- set role = 'model' if turn['role'] == 'assistant' else turn['role'] -%}\
            {{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}\
            {%- if turn['content'] is string -%}{{ turn['content'] | trim }}\
            {%- elif turn['content'] is iterable -%}{{ 'parts' }}{%- endif -%}\
            {{ '<end_of_turn>\n' }}{%- endfor -%}\
            {%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}";
        let tokens = BTreeMap::from([("bos_token".to_owned(), "<bos>".to_owned())]);
        let template = ChatTemplate::new(gemma.to_owned(), tokens).unwrap();
        let messages = [
            ChatMessage::new("system", "Be brief."),
            ChatMessage::new("user", " Hi "),
            ChatMessage::new("assistant", "Hello."),
            ChatMessage::new("user", "Bye"),
        ];
        assert_eq!(
            template.render(&messages, true).unwrap(),
            "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n\
             <start_of_turn>model\nHello.<end_of_turn>\n\
             <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
        );
        let error = template.render(&messages[2..], true).unwrap_err();
        assert!(matches!(&error, ChatError::Refused { .. }), "{error}");
    }

    #[test]
    fn no_template_reads_the_clock() {
        let error = template("{{ strftime_now('%d %b %Y') }}").render(&hello(), true).unwrap_err();
        assert!(matches!(error, ChatError::Clock), "{error}");
    }

    #[test]
    fn endless_work_is_cut_short() {
        for source in [
            "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='ab') %}\
             {% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
            "{{ 'ab' * 10000000000 }}",
        ] {
            let error = template(source).render(&hello(), true).unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, ChatError::TooMuchWork | ChatError::Template { .. }),
                "{source}: {text}"
            );
        }
    }

    #[test]
    fn a_broken_template_is_an_error() {
        for source in ["{% for %}", "{{ 'open", "{% endif %}", "{% include 'other' %}{{"] {
            let made = ChatTemplate::new(source.to_owned(), BTreeMap::new());
            assert!(matches!(made, Err(ChatError::Template { .. })), "{source}");
        }
        let reading = template("{% include '/etc/hostname' %}").render(&hello(), true);
        assert!(matches!(reading, Err(ChatError::Template { .. })));
    }
}
