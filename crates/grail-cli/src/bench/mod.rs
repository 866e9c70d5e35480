//! Measures the engine on this machine: kernels, generation, verification, training, each as a row.
//!
//! A row has an id that stays (`docs/bench.md` lists them), the seconds of several repetitions, and
//! what was done in them, so that speeds and shares of the machine's limits follow. Ratios come from
//! two kinds of work measured in turn, so that a machine that slows down slows both.

mod engine;
mod kernels;
mod measure;
mod record;
mod training;
mod work;

use std::path::Path;

use anyhow::Result;
use grail_kernels::Kernels;
use grail_model::formats::config::ModelConfig;

pub use self::measure::Effort;
pub use self::record::{Machine, ModelShape, Ratio, Report, Row, SCHEMA_VERSION, row_line};
pub use self::work::COLD_BYTES;

/// Which rows to measure.
#[derive(Clone, Debug, Default)]
pub struct Selection(Vec<String>);

impl Selection {
    /// Chooses the rows whose id is one of `ids` or starts with one of them and a dot; all, if
    /// there are none.
    pub fn new(ids: Vec<String>) -> Self {
        Self(ids)
    }

    /// Returns whether the row `id` is to be measured.
    pub fn wants(&self, id: &str) -> bool {
        let names = |chosen: &String| {
            id.strip_prefix(chosen.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.is_empty() || self.0.iter().any(names)
    }

    /// Returns whether any row of the family `family` may be wanted, so that it must be set up.
    fn touches(&self, family: &str) -> bool {
        let within = |chosen: &String| chosen.starts_with(&format!("{family}."));
        self.wants(family) || self.0.iter().any(within)
    }
}

/// What a run is given and where its rows go.
pub struct Bench<'a> {
    /// Kernels to measure with.
    pub kernels: &'a Kernels,
    /// Folder of the model.
    pub dir: &'a Path,
    /// Its shape.
    pub model: &'a ModelConfig,
    /// Rows to measure.
    pub selection: Selection,
    /// How often to repeat.
    pub effort: Effort,
    /// What the machine can do, for the shares.
    pub machine: Machine,
    /// Called with each row when it is measured.
    pub on_row: &'a mut dyn FnMut(&Row) -> Result<()>,
    /// Rows measured so far.
    pub rows: Vec<Row>,
    /// Ratios measured so far.
    pub ratios: Vec<Ratio>,
}

impl Bench<'_> {
    /// Measures every row that is selected.
    ///
    /// # Errors
    /// If the engine fails, or `on_row` does.
    pub fn run(&mut self) -> Result<()> {
        kernels::run(self)?;
        engine::run(self)?;
        training::run(self)
    }

    fn push(&mut self, row: Row) -> Result<()> {
        (self.on_row)(&row)?;
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_itself_and_what_is_below_it() {
        let chosen = Selection::new(vec!["gemm.o".into(), "decode.1".into()]);
        for (id, wanted) in [
            ("gemm.o.16.hot", true),
            ("gemm.o", true),
            ("gemm.out.16.hot", false),
            ("decode.1", true),
            ("decode.16", false),
            ("train", false),
        ] {
            assert_eq!(chosen.wants(id), wanted, "{id}");
        }
        assert!(chosen.touches("gemm") && chosen.touches("decode") && !chosen.touches("train"));
        assert!(Selection::default().wants("anything") && Selection::default().touches("train"));
    }
}
