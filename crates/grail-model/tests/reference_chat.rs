//! Prompts of the Python reference: its ChatML and a model's own template, byte for byte.

use std::collections::BTreeMap;

use grail_model::chat::{ChatMessage, ChatTemplate};
use grail_testkit::vectors;

#[test]
fn prompts_are_rendered_as_the_reference_does() {
    vectors::every_case("chat", "chat_template.json", |case| {
        let messages: Vec<ChatMessage> = serde_json::from_value(case["prepared"].clone()).unwrap();
        let rendered = match case["template"].as_str() {
            Some(source) => {
                let template = ChatTemplate::new(source.to_owned(), BTreeMap::new()).unwrap();
                template.render_thinking(&messages)
            }
            None => ChatTemplate::chatml().render(&messages, true),
        };
        assert_eq!(rendered.unwrap(), vectors::text(&case["rendered"]));
    });
}
