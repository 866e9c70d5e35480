//! Answers questions about the reference's judgements, one JSON object a line, for scripts that compare.
//!
//! `{"code": TEXT}`: whether it compiles. `{"predicted": TEXT, "gold": TEXT}`: whether the answers are
//! equal. `{"solution": TEXT}`: a GSM8K solution's gold answer, and whether answering it succeeds.

#![expect(clippy::print_stdout, reason = "the answers are the output")]

use std::io::BufRead as _;

use grail_environments::reference::thinking::ThinkingMode;
use grail_environments::reference::{compiles, gsm8k, math};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in std::io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let text = |key: &str| question[key].as_str().unwrap_or_default();
        let answer = if question.get("code").is_some() {
            json!(compiles(text("code")))
        } else if question.get("solution").is_some() {
            let solution = text("solution").to_owned();
            let gold = gsm8k::gold(&solution);
            let problem = gsm8k::Problem { question: String::new(), solution };
            let completion = format!("</think><SOLUTION>{gold}</SOLUTION>");
            let answer = gsm8k::Answer::read(ThinkingMode::Native, &completion);
            json!({"gold": gold, "success": problem.assess(&answer).success})
        } else {
            json!(math::are_equal(text("predicted"), text("gold")))
        };
        println!("{answer}");
    }
    Ok(())
}
