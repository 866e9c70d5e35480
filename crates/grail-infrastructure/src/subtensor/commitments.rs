//! What the hotkeys of a subnet have committed on the chain.

use std::collections::BTreeMap;

use grail_protocol::ids::Hotkey;
use tracing::debug;

use super::error::{Trouble, unreadable};
use super::view::View;
use crate::substrate::{ShapeError, Value};

/// Most bytes of a raw field. Source: `spec/bittensor.md`, `Data`.
pub const RAW_BYTES_MAX: usize = 128;

/// Reads every hotkey's commitment whose first field is raw bytes. Others' commitments are theirs
/// to write, so what cannot be used is passed over.
pub async fn read(view: &View<'_>, netuid: u16) -> Result<BTreeMap<Hotkey, Vec<u8>>, Trouble> {
    let entries = view.entries("Commitments", "CommitmentOf", &[netuid.into()]).await?;
    let mut commitments = BTreeMap::new();
    for (key, value) in entries {
        let hotkey = key
            .first()
            .ok_or_else(|| unreadable("Commitments.CommitmentOf", "a key without a hotkey"))?
            .as_bytes32()
            .map_err(|error| unreadable("Commitments.CommitmentOf", error))?;
        let hotkey = Hotkey(hotkey);
        match value.map(|value| raw(&value)) {
            Ok(Ok(Some(bytes))) => drop(commitments.insert(hotkey, bytes)),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => debug!(%hotkey, %error, "a commitment cannot be read"),
            Err(error) => debug!(%hotkey, %error, "a commitment cannot be read"),
        }
    }
    Ok(commitments)
}

/// Returns the bytes of the first field; `None` if it is not raw, or there is none.
fn raw(registration: &Value) -> Result<Option<Vec<u8>>, ShapeError> {
    let fields = registration.field("info")?.field("fields")?.as_list()?;
    let Some(field) = fields.first() else { return Ok(None) };
    let (name, _) = field.as_variant()?;
    if !name.starts_with("Raw") {
        return Ok(None);
    }
    let bytes = field.item(0)?.as_bytes()?;
    Ok((1..=RAW_BYTES_MAX).contains(&bytes.len()).then(|| bytes.to_vec()))
}

/// Returns the arguments of `Commitments.set_commitment` for one raw field.
///
/// # Errors
/// When `data` does not fit: 1 to 128 bytes.
pub fn info(data: &[u8]) -> Option<Value> {
    if !(1..=RAW_BYTES_MAX).contains(&data.len()) {
        return None;
    }
    let field = Value::variant(&format!("Raw{}", data.len()), Value::bytes(data));
    Some(Value::record([("fields", Value::list([field]))]))
}
