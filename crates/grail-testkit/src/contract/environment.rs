//! The contract of [`Environment`].

use grail_ports::environment::Environment;

/// Checks an environment on the problems of `seeds`.
///
/// # Panics
/// When the environment breaks the contract.
pub fn environment(environment: &dyn Environment, seeds: impl IntoIterator<Item = u64>) {
    assert!(!environment.id().is_empty(), "an environment has an id");
    let params = environment.params_json();
    let value: serde_json::Value = serde_json::from_str(&params).expect("parameters are JSON");
    assert!(value.is_object(), "parameters are a JSON object");
    assert_eq!(canonical(&value), params, "parameters are canonical JSON");

    for seed in seeds {
        let messages = environment.prompt(seed);
        assert!(!messages.is_empty(), "seed {seed} has a prompt");
        assert_eq!(messages, environment.prompt(seed), "seed {seed}: same seed, same prompt");

        let evaluate = |text: &str| environment.evaluate(seed, text).expect("it can be evaluated");
        let empty = evaluate("");
        assert!(!empty.success && empty.reward.is_finite(), "seed {seed}: nothing is no answer");
        let Some(answer) = environment.solve(seed) else { continue };
        let right = evaluate(&answer);
        assert!(right.success, "seed {seed}: `{answer}` is right");
        assert!(right.reward > empty.reward, "seed {seed}: a right answer earns more");
        assert_eq!(right, evaluate(&answer), "seed {seed}: same answer, same reward");
        for mad in ["\0", "\u{202e}9\u{0301}", "-", "NaN", "💥", &"7 ".repeat(10_000)] {
            let worth = evaluate(mad);
            assert!(worth.reward.is_finite() && worth.reward <= right.reward, "seed {seed}");
        }
    }
}

/// Returns JSON with sorted keys and without white space.
fn canonical(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            let field = |key: &String| {
                format!("{}:{}", serde_json::Value::from(key.as_str()), canonical(&map[key]))
            };
            format!("{{{}}}", keys.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}
