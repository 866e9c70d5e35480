//! The unified kernel data set: rows from a file, filtered and weighted. Training only.

use grail_protocol::v5::python::random::Random;
use serde_json::Value;

use super::super::rows::{BadRows, Row, text_of};
use super::super::split;
use super::super::tasks::{Pick, Source, Spread};

/// Share of the rows held out for validation, at least one.
const VALIDATION: f64 = 0.2;

/// What the rows are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every row.
    #[default]
    All,
    /// Rows that can be checked.
    Rl,
    /// Rows with a reference solution of quality or of none that is known.
    Sft,
}

/// Which rows are taken; what is `None` or empty takes all.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What the rows are for.
    pub mode: Mode,
    /// Where the rows come from.
    pub source: Option<String>,
    /// Where they do not come from.
    pub exclude_sources: Vec<String>,
    /// How hard they are.
    pub difficulty: Option<String>,
    /// What they compute.
    pub category: Option<String>,
    /// Least quality of a reference solution.
    pub sft_quality: f64,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            mode: Mode::All,
            source: None,
            exclude_sources: Vec::new(),
            difficulty: None,
            category: None,
            sft_quality: 0.60,
        }
    }
}

/// The rows of a split that pass a filter.
#[derive(Clone, Debug)]
pub struct Unified {
    source: Source<Row>,
    /// Weights of the rows, where seeds are spread by them.
    weights: Option<Vec<f64>>,
}

impl Unified {
    /// Takes the rows of a split (`train`, `val`, `all`) that pass `filter`. The split is made before
    /// anything is filtered.
    ///
    /// # Errors
    /// When the split is unknown or nothing is left.
    pub fn load(rows: &[Row], split: &str, filter: &Filter) -> Result<Self, BadRows> {
        let n_held_out = ((rows.len() as f64 * VALIDATION) as usize).max(1);
        let all: Vec<&Row> = rows.iter().collect();
        let rows = match split {
            "all" => all,
            "train" => split::hold_out(&mut split::generator(), all, n_held_out).0,
            "val" => split::hold_out(&mut split::generator(), all, n_held_out).1,
            _ => return Err(BadRows::unknown_split(split, "train, val, all")),
        };
        let rows = rows.into_iter().filter(|row| filter.takes(row)).cloned().collect();
        Ok(Self { source: Source::new(split, rows, Spread::Scaled)?, weights: None })
    }

    /// Spreads seeds by source and difficulty. The reference does so only in the first instance of a
    /// process; later ones take the rows from a cache without their weights.
    #[must_use]
    pub fn weighted(mut self) -> Self {
        self.weights = Some(self.source.tasks().iter().map(weight).collect());
        self
    }

    /// Returns the rows.
    pub fn rows(&self) -> &[Row] {
        self.source.tasks()
    }

    /// Picks a row; a task id that is a row's own comes before its number.
    pub fn pick(&self, pick: Pick<'_>) -> &Row {
        let row = match (pick, &self.weights) {
            (Pick::Seed(seed), Some(weights)) => Random::from_integer(seed).choices(weights, 1)[0],
            (Pick::Task(id), _) => self
                .rows()
                .iter()
                .position(|row| row.get("id").and_then(Value::as_str) == Some(id))
                .unwrap_or_else(|| self.source.pick(pick).row),
            _ => self.source.pick(pick).row,
        };
        &self.rows()[row]
    }
}

impl Filter {
    fn takes(&self, row: &Row) -> bool {
        let is = |column: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| {
                row.get(column).and_then(Value::as_str) == Some(wanted.as_str())
            })
        };
        let source = text_of(row, "source");
        is("source", &self.source)
            && is("difficulty", &self.difficulty)
            && is("category", &self.category)
            && !self.exclude_sources.iter().any(|excluded| excluded == source)
            && match self.mode {
                Mode::All => true,
                Mode::Rl => !super::super::text::strip(text_of(row, "test_code")).is_empty(),
                Mode::Sft => {
                    let quality = row.get("solution_quality").filter(|value| !value.is_null());
                    let is_good = |value: &Value| {
                        value.as_f64().is_some_and(|quality| quality >= self.sft_quality)
                    };
                    !text_of(row, "reference_solution").is_empty() && quality.is_none_or(is_good)
                }
            }
    }
}

fn weight(row: &Row) -> f64 {
    let source = match text_of(row, "source") {
        "production_repos" => 3.0,
        "ai_cuda_engineer" => 2.0,
        _ => 1.0,
    };
    let difficulty = match text_of(row, "difficulty") {
        "easy" => 0.5,
        "hard" => 1.5,
        "expert" => 2.0,
        _ => 1.0,
    };
    source * difficulty
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;

    use super::super::super::rows::parse_json_lines;
    use super::*;

    fn filter(args: &Value) -> Filter {
        let text = |key: &str| args.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let excluded = args.get("exclude_sources").and_then(Value::as_array);
        let defaults = Filter::default();
        Filter {
            mode: match text("mode").as_deref() {
                Some("rl") => Mode::Rl,
                Some("sft") => Mode::Sft,
                _ => Mode::All,
            },
            source: text("source_filter"),
            exclude_sources: excluded
                .into_iter()
                .flatten()
                .map(|source| vectors::text(source).to_owned())
                .collect(),
            difficulty: text("difficulty"),
            category: text("category"),
            sft_quality: args
                .get("sft_quality_threshold")
                .map_or(defaults.sft_quality, vectors::float),
        }
    }

    #[test]
    fn rows_and_seeds_are_the_references() {
        let file = vectors::shared("datasets", "unified_rows.jsonl");
        let rows = parse_json_lines(&std::fs::read_to_string(file).unwrap()).unwrap();
        vectors::every_case("datasets", "unified_kernel.json", |case| {
            let args = &case["args"];
            let split = args.get("split").map_or("train", vectors::text);
            let cached = Unified::load(&rows, split, &filter(args)).unwrap();
            let ids: Vec<&Value> = cached.rows().iter().map(|row| &row["id"]).collect();
            assert_eq!(ids, vectors::list(&case["ids"]).iter().collect::<Vec<_>>());
            let is_weighted = args.get("weighted_sampling") == Some(&true.into());
            let first = if is_weighted { cached.clone().weighted() } else { cached.clone() };
            for (unified, key) in
                [(first, "task_ids_first_instance"), (cached, "task_ids_second_instance_cached")]
            {
                let seeds = vectors::list(&case["seeds"]).iter().map(vectors::integer);
                let got: Vec<Value> =
                    seeds.map(|seed| unified.pick(Pick::Seed(seed))["id"].clone()).collect();
                assert_eq!(got, vectors::list(&case[key]), "{key} of {args}");
            }
        });
    }

    #[test]
    fn a_row_is_found_by_its_own_id() {
        let rows = parse_json_lines("{\"id\":\"x_1\"}\n{\"id\":\"x_0\"}").unwrap();
        let unified = Unified::load(&rows, "all", &Filter::default()).unwrap();
        assert_eq!(unified.pick(Pick::Task("x_0"))["id"], "x_0");
        assert_eq!(unified.pick(Pick::Task("y_0"))["id"], "x_1");
        assert_eq!(unified.pick(Pick::First)["id"], "x_1");
    }
}
