//! The `delta_metadata.json` of a reference delta: its format, and figures for people.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::delta::Format;
use crate::ids::Window;
use crate::v5::python::json::{self, Value};
use crate::v5::python::print::{to_json_indented, to_repr};

/// What is published beside a delta.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaMetadata {
    /// How the delta is coded.
    pub format: Format,
    /// Changes up to this size were left out; 0 in every delta that leads to its hash.
    pub threshold: f64,
    /// Base of the delta.
    pub prev_window: Window,
    /// Nearest full checkpoint.
    pub anchor_window: Window,
    /// Sizes of each tensor that changed, in the publisher's order.
    pub shapes: Vec<(String, Vec<u64>)>,
    /// Values of all tensors together.
    pub total_params: u64,
    /// Values that changed.
    pub nonzero_params: u64,
}

impl DeltaMetadata {
    /// Returns the text of the file.
    pub fn to_json(&self) -> String {
        let shape = |sizes: &[u64]| Value::List(sizes.iter().copied().map(Value::from).collect());
        let shapes = self.shapes.iter().map(|(name, sizes)| (name.as_str(), shape(sizes)));
        to_json_indented(&Value::object([
            ("format", self.format.name().into()),
            ("threshold", self.threshold.into()),
            ("prev_window", self.prev_window.start().0.into()),
            ("anchor_window", self.anchor_window.start().0.into()),
            ("shapes", Value::object(shapes)),
            ("total_params", self.total_params.into()),
            ("nonzero_params", self.nonzero_params.into()),
            ("sparsity_ratio", self.sparsity_ratio().into()),
        ]))
    }

    /// Returns the share of values that did not change; 0 for no values at all.
    #[expect(clippy::cast_precision_loss, reason = "Python divides two integers below 2^53")]
    pub fn sparsity_ratio(&self) -> f64 {
        match self.total_params {
            0 => 0.0,
            total => 1.0 - self.nonzero_params as f64 / total as f64,
        }
    }

    /// Reads the one field that a reader needs: how the delta is coded.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`] for no JSON and for a format that is not known.
    pub fn read_format(text: &[u8]) -> Result<Format, CheckpointError> {
        let bad = |reason: String| CheckpointError::Malformed(format!("delta_metadata: {reason}"));
        let text = std::str::from_utf8(text).map_err(|error| bad(error.to_string()))?;
        let value = json::parse(text).map_err(|error| bad(error.to_string()))?;
        let name = value.get("format");
        let known = |format: &Format| name.and_then(Value::as_str) == Some(format.name());
        Format::ALL.into_iter().find(known).ok_or_else(|| {
            let shown: String = name.map(to_repr).unwrap_or_default().chars().take(64).collect();
            bad(format!("format {shown} is not known; a newer program may read it"))
        })
    }
}
