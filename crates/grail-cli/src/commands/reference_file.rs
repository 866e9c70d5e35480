//! `grail verify FILE.parquet`: everything about the reference's rollout file that needs no model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use grail_parquet::{
    ChunkReader, FileSource, Limits, ReadError, RowReader, gunzip, on_all_threads,
};
use grail_protocol::ids::{Digest, Hotkey};
use grail_protocol::v5::file::{
    BYTES_MAX, Expected, Footer, GroupKeys, Row, RowBench, RowFault, Scalar, StructureCheck,
    StructureFault, commit_digest, completion_digest, inspect_row, is_size_allowed,
};
use grail_protocol::v5::groups::{self, GroupFault};
use grail_protocol::v5::python::json::{self, Value};

use crate::cli::VerifyArgs;
use crate::exit::Outcome;
use crate::explain::reference::{Answer, Copies, GroupTally, RowTally};
use crate::files::read_bounded;

use super::verify::outcome;

/// Most bytes of a model's `config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Rows that are held and shared out to the threads at a time.
const ROWS_AT_A_TIME: usize = 64;

/// Whether a file is one of the reference's, by its name or its first bytes.
pub fn is_one(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut magic = [0; 4];
    let starts = File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok();
    name.ends_with(".parquet") || name.ends_with(".parquet.gz") || (starts && &magic == b"PAR1")
}

/// Does what the options ask for.
pub fn run(args: &VerifyArgs) -> Result<Outcome> {
    let answer = match examine(args) {
        Ok(answer) => answer,
        // Whatever fails on our side is no verdict on the miner.
        Err(error) => Answer::undecided(&args.file, crate::message(&error)),
    };
    answer.print(args.json)?;
    Ok(outcome(answer.verdict))
}

fn examine(args: &VerifyArgs) -> Result<Answer> {
    let file = &args.file;
    let length = std::fs::metadata(file)
        .with_context(|| format!("while looking at {}", file.display()))?
        .len();
    if !is_size_allowed(length, BYTES_MAX) {
        let evidence = format!("it has {length} bytes; 200 to {BYTES_MAX} are read");
        return Ok(Answer::refused(file, "size", evidence));
    }
    let config = match &args.checkpoint {
        Some(folder) => read_config(&folder.join("config.json"))?,
        None => Value::Null,
    };
    let is_gzip = file.extension().is_some_and(|extension| extension == "gz");
    let judged = if is_gzip {
        let object = read_bounded(file, BYTES_MAX)?;
        gunzip(&object, BYTES_MAX)
            .and_then(|bytes| RowReader::open(Bytes::from(bytes), &Limits::default()))
            .map(|rows| judge(rows, args, &config))
    } else {
        let source = FileSource::open(file)?;
        RowReader::open(source, &Limits::default()).map(|rows| judge(rows, args, &config))
    };
    match judged.and_then(|judged| judged) {
        Ok(answer) => Ok(answer),
        Err(ReadError::Io(error)) => Err(error).context("while reading the file"),
        Err(error @ ReadError::Corrupt(_)) => {
            Ok(Answer::refused(file, "corrupt_parquet", error.to_string()))
        }
        Err(error @ ReadError::Unreadable(_)) => {
            Ok(Answer::refused(file, "unreadable", error.to_string()))
        }
    }
}

fn read_config(path: &Path) -> Result<Value> {
    let bytes = read_bounded(path, CONFIG_BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    let text = String::from_utf8(bytes).context("config.json is no text")?;
    json::parse(&text).with_context(|| format!("while reading {}", path.display()))
}

/// What the file must agree with, and what of it was believed from the file itself.
struct Facts {
    hotkey: String,
    window: i64,
    block_hash: Option<String>,
    taken: Vec<&'static str>,
}

impl Facts {
    fn new(args: &VerifyArgs, footer: &Footer) -> Self {
        let mut taken = Vec::new();
        let named = named(&args.file);
        let hotkey = args.facts.hotkey.clone().or(named.as_ref().map(|(hotkey, _)| hotkey.clone()));
        let hotkey = hotkey.unwrap_or_else(|| {
            taken.push("hotkey");
            footer.wallet.clone()
        });
        let asked = args.facts.window.and_then(|window| i64::try_from(window).ok());
        let window = asked.or(named.map(|(_, window)| window)).unwrap_or_else(|| {
            taken.push("window");
            footer.window_start
        });
        let block_hash = args.block_hash.clone();
        if block_hash.is_none() {
            taken.push("block_hash");
        }
        Self { hotkey, window, block_hash, taken }
    }
}

/// Reads hotkey and window from `{hotkey}-window-{window}.parquet`, as an object's key has them.
fn named(file: &Path) -> Option<(String, i64)> {
    let name = file.file_name()?.to_str()?;
    let stem = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".parquet")?;
    let (hotkey, window) = stem.rsplit_once("-window-")?;
    Some((hotkey.to_owned(), window.parse().ok()?))
}

fn judge<R: ChunkReader + Clone + 'static>(
    mut rows: RowReader<R>,
    args: &VerifyArgs,
    config: &Value,
) -> Result<Answer, ReadError> {
    let mut facts = Facts::new(args, rows.footer());
    let footer = rows.footer().clone();
    let first = rows.next().transpose()?;
    let block_hash = facts.block_hash.take().unwrap_or_else(|| {
        let first = first.as_ref().and_then(|row| row.block_hash.as_text());
        first.unwrap_or_default().to_owned()
    });
    let expected =
        Expected { hotkey: &facts.hotkey, window_start: facts.window, block_hash: &block_hash };
    let mut judge = Judge {
        structure: Structure::new(&footer, &expected),
        owner: facts.hotkey.parse::<Hotkey>().ok(),
        address: &facts.hotkey,
        config,
        rows: RowTally::default(),
        groups: BTreeMap::new(),
        keys: GroupKeys::default(),
        completions: BTreeMap::new(),
        n_tokens: 0,
        checkpoints: BTreeMap::new(),
    };
    let mut rows = first.map(Ok).into_iter().chain(rows);
    loop {
        let some: Vec<Row> = rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
        if some.is_empty() {
            break;
        }
        // Signatures and digests take the time.
        let looked_at = on_all_threads(some.len(), |at| judge.look_at(&some[at]));
        for (row, look) in some.iter().zip(looked_at) {
            judge.row(row, &look);
        }
    }
    Ok(judge.answer(&args.file, facts.window, facts.taken))
}

/// The structure check, which ends at the first fault while the rest of the file is still read.
struct Structure<'a>(Result<StructureCheck<'a>, StructureFault>);

impl<'a> Structure<'a> {
    fn new(footer: &Footer, expected: &Expected<'a>) -> Self {
        Self(StructureCheck::new(footer, expected))
    }

    fn row(&mut self, row: &Row) {
        if let Ok(check) = &mut self.0
            && let Err(fault) = check.row(row)
        {
            self.0 = Err(fault);
        }
    }

    fn finish(self) -> Option<StructureFault> {
        self.0.and_then(StructureCheck::finish).err()
    }
}

struct Judge<'a> {
    structure: Structure<'a>,
    owner: Option<Hotkey>,
    address: &'a str,
    config: &'a Value,
    rows: RowTally,
    /// Claimed rewards and advantages of each group.
    groups: BTreeMap<String, [Vec<f64>; 2]>,
    keys: GroupKeys,
    completions: BTreeMap<[u8; 32], u64>,
    n_tokens: u64,
    checkpoints: BTreeMap<String, u64>,
}

/// What a row is by itself.
struct Look {
    faults: Vec<RowFault>,
    commit: [u8; 32],
    completion: Option<[u8; 32]>,
}

impl Judge<'_> {
    fn look_at(&self, row: &Row) -> Look {
        // Without an owner no signature can be checked; the structure check says what the footer has.
        let faults = self.owner.map(|owner| {
            inspect_row(row, &RowBench { owner, address: self.address, config: self.config })
        });
        Look {
            faults: faults.unwrap_or_default(),
            commit: commit_digest(&row.commit),
            completion: completion_digest(&row.commit),
        }
    }

    fn row(&mut self, row: &Row, look: &Look) {
        self.structure.row(row);
        self.rows.count();
        for fault in &look.faults {
            self.rows.fail(fault);
        }
        let rollout = &row.commit.rollout;
        let number = |cell: &Scalar| cell.as_float().unwrap_or(f64::NAN);
        let [rewards, advantages] = self.groups.entry(row.rollout_group.to_text()).or_default();
        rewards.push(number(&rollout.total_reward));
        advantages.push(number(&rollout.advantage));
        self.keys.push(&row.rollout_group, &look.commit);
        if let Some(digest) = look.completion {
            *self.completions.entry(digest).or_default() += 1;
        }
        self.n_tokens += row.commit.tokens.len() as u64;
        *self.checkpoints.entry(row.checkpoint_window.to_text()).or_default() += 1;
    }

    fn answer(self, file: &Path, window: i64, taken: Vec<&'static str>) -> Answer {
        let mut groups = GroupTally::new(self.groups.len());
        for (group, [rewards, advantages]) in &self.groups {
            if let Some(fault) = groups::check(rewards, advantages) {
                groups.fail(format!("group {group}: {}", told(&fault)));
            }
        }
        let copies = Copies {
            completions: self.completions.values().sum(),
            unique_completions: self.completions.len() as u64,
            most_often: self.completions.values().copied().max().unwrap_or(0),
        };
        let group_keys = self.keys.places().iter();
        let digests = self.keys.digests();
        let group_keys = group_keys
            .map(|(group, &place)| (group.clone(), Digest(digests[place]).to_string()))
            .collect();
        Answer::of(file, self.structure.finish().as_ref(), &self.rows, &groups)
            .with_contents(self.address, window, self.n_tokens, self.checkpoints)
            .with_digests(copies, group_keys)
            .with_taken(taken, self.owner.is_some())
    }
}

fn told(fault: &GroupFault) -> String {
    match fault {
        GroupFault::Size(rows) => format!("{rows} rows; expected 16"),
        GroupFault::Sum(sum) => format!("advantages add up to {sum}; expected 0 within 0.01"),
        GroupFault::Advantage { rollout, claimed, expected } => format!(
            "rollout {rollout} claims advantage {claimed}; its rewards give {expected} within 0.001"
        ),
    }
}
