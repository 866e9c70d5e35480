//! The options that the routes have in common: sampling, seeds, stop strings, which model.

use axum::http::StatusCode;
use grail_ports::model::Sampling;
use serde_json::Value;

use super::app::App;
use super::error::{Answer, ApiError};
use super::fields::Fields;
use super::limits::{STOP_BYTES_MAX, STOPS_MAX, TEMPERATURE_MAX, TEMPERATURE_MIN};

/// Takes `temperature` and `top_p`. Temperature 0 is greedy.
pub fn sampling(fields: &mut Fields) -> Answer<Sampling> {
    let temperature = fields.number("temperature", 0.0, TEMPERATURE_MAX)?.unwrap_or(1.0);
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
    of_numbers(temperature, top_p)
        .map_err(|(name, message)| ApiError::field(&fields.full(name), message))
}

/// Returns the sampling that two numbers stand for.
///
/// # Errors
/// The name of the number that cannot be used, and why.
pub fn of_numbers(temperature: f64, top_p: f64) -> Result<Sampling, (&'static str, String)> {
    if temperature == 0.0 {
        return Ok(Sampling::Greedy);
    }
    if !(TEMPERATURE_MIN..=TEMPERATURE_MAX).contains(&temperature) {
        let expected = format!("0, or {TEMPERATURE_MIN} to {TEMPERATURE_MAX}");
        return Err((
            "temperature",
            format!("temperature is {temperature}; it must be {expected}"),
        ));
    }
    #[expect(clippy::cast_possible_truncation, reason = "both are rounded to f32 on purpose")]
    let (temperature, top_p) = (temperature as f32, top_p as f32);
    if !(top_p > 0.0 && top_p <= 1.0) {
        let hint = "for the most likely token alone set temperature to 0";
        return Err(("top_p", format!("top_p is {top_p}; it must be above 0, at most 1; {hint}")));
    }
    Ok(if top_p < 1.0 {
        Sampling::TopP { temperature, top_p }
    } else {
        Sampling::Race { temperature }
    })
}

/// Takes `seed`: any whole number of 64 bits; a negative one counts as its two's complement.
pub fn seed(fields: &mut Fields, name: &'static str) -> Answer<Option<u64>> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    match seed {
        Some(seed) => Ok(Some(seed)),
        None => Err(fields.mistyped(name, "a whole number of at most 64 bits", &value)),
    }
}

/// Takes `stop`: a text or a list of texts.
pub fn stops(fields: &mut Fields) -> Answer<Vec<String>> {
    let refuse = |fields: &Fields, message: String| {
        let name = fields.full("stop");
        Err(ApiError::field(&name, format!("`{name}` {message}")))
    };
    let stops = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => {
            let texts: Option<Vec<String>> =
                stops.into_iter().map(|stop| Some(stop.as_str()?.to_owned())).collect();
            match texts {
                Some(texts) => texts,
                None => return refuse(fields, "has something that is no text".to_owned()),
            }
        }
        Some(other) => return Err(fields.mistyped("stop", "a text or a list of texts", &other)),
    };
    if stops.len() > STOPS_MAX {
        return refuse(fields, format!("has {} texts, at most {STOPS_MAX} are taken", stops.len()));
    }
    match stops.iter().map(String::len).find(|len| !(1..=STOP_BYTES_MAX).contains(len)) {
        Some(len) => {
            refuse(fields, format!("has a text of {len} bytes, 1 to {STOP_BYTES_MAX} are taken"))
        }
        None => Ok(stops),
    }
}

/// Takes `model`; without one the model that is served is meant.
///
/// # Errors
/// 404 for another model.
pub fn model(fields: &mut Fields, app: &App) -> Answer<()> {
    match fields.text("model")? {
        Some(name) if name != app.name => Err(unknown_model(&name, app)),
        _ => Ok(()),
    }
}

/// Says that there is no such model here.
pub fn unknown_model(name: &str, app: &App) -> ApiError {
    let shown: String = name.chars().take(64).collect();
    let message = format!("the model `{shown}` is not served here; this server has `{}`", app.name);
    let error = ApiError::with(StatusCode::NOT_FOUND, "model_not_found", message);
    ApiError { param: Some("model".to_owned()), ..error }
}

/// Whether a value is an empty list or object.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Whether a value is this number.
pub fn is_number(wanted: f64) -> impl Fn(&Value) -> bool {
    move |value| value.as_f64() == Some(wanted)
}
