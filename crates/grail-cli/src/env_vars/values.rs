//! Reads settings from text, and shows them as text.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use crate::config::OutsideRole;

/// Reads a value.
pub(super) fn set<T: FromStr<Err: Display>>(field: &mut T, text: &str) -> Result<(), String> {
    *field = text.trim().parse().map_err(|error| format!("`{text}` cannot be used: {error}"))?;
    Ok(())
}

/// Reads a value that may be absent.
pub(super) fn set_some<T: FromStr<Err: Display>>(
    field: &mut Option<T>,
    text: &str,
) -> Result<(), String> {
    *field =
        Some(text.trim().parse().map_err(|error| format!("`{text}` cannot be used: {error}"))?);
    Ok(())
}

/// Reads a path; empty text is refused, as it is more often a slip than a wish.
pub(super) fn set_path(field: &mut Option<PathBuf>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty; unset it, or name a path".to_owned());
    }
    *field = Some(PathBuf::from(text));
    Ok(())
}

/// Returns a path as text.
pub(super) fn show_path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

/// Reads values with commas between them.
pub(super) fn set_list<T: FromStr<Err: Display>>(
    list: &mut Vec<T>,
    text: &str,
) -> Result<(), String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let read =
        |item: &str| item.parse().map_err(|error| format!("`{item}` cannot be used: {error}"));
    *list = items.map(read).collect::<Result<_, _>>()?;
    Ok(())
}

/// Returns values with commas between them.
pub(super) fn show_list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

/// Reads one of several names.
pub(super) fn set_choice<T: ValueEnum>(field: &mut T, text: &str) -> Result<(), String> {
    *field = T::from_str(text.trim(), false).map_err(|_| {
        let names: Vec<String> = T::value_variants().iter().map(show_choice).collect();
        format!("`{text}` cannot be used: it is one of {}", names.join(", "))
    })?;
    Ok(())
}

/// Returns the name of a choice.
pub(super) fn show_choice<T: ValueEnum>(choice: &T) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Reads roles with commas between them.
pub(super) fn set_roles(roles: &mut Vec<OutsideRole>, text: &str) -> Result<(), String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    *roles = names
        .map(|name| {
            ValueEnum::from_str(name, false)
                .map_err(|_| format!("`{name}` is no role; use validator or trainer"))
        })
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// Returns roles with commas between them.
pub(super) fn show_roles(roles: &[OutsideRole]) -> String {
    let names: Vec<String> = roles
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .map(|value| value.get_name().to_owned())
        .collect();
    names.join(",")
}
