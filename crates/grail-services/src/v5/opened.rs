//! Opens a miner's file: its structure, the rows to check, and the digests of all completions.
//!
//! The file is read twice, some rows at a time, so that memory holds the chosen rows and few others.

use std::collections::BTreeMap;

use bytes::Bytes;
use grail_parquet::{Limits, ReadError, RowReader, on_all_threads};
use grail_protocol::v5::copycat::Submission;
use grail_protocol::v5::file::{
    Expected, GroupKeys, Row, StructureCheck, StructureFault, commit_digest, completion_digest,
};
use tracing::debug;

/// The reference's reason to ban the owner of a file that is no Parquet.
const CORRUPT: &str = "corrupt_parquet";

/// Rows that are held and shared out to the threads at a time.
const ROWS_AT_A_TIME: usize = 64;

/// What the bytes of a file are.
#[derive(Debug)]
pub enum Opened {
    /// A file with the structure of one.
    Rows(ChosenRows),
    /// Its owner is at fault; the reference's word for it.
    Banned(&'static str),
    /// It counts as absent, as in the reference: no ban and no score.
    Absent(String),
}

/// A file as its judge needs it.
#[derive(Debug)]
pub struct ChosenRows {
    /// The rows to check, in file order.
    pub rows: Vec<Row>,
    /// Rows of the file.
    pub total: u64,
    /// How often each completion is in the file.
    pub digests: BTreeMap<[u8; 32], u64>,
}

impl ChosenRows {
    /// Returns what the copycat check needs of a file uploaded at `uploaded`, Unix seconds.
    pub fn submission(&self, uploaded: f64) -> Submission {
        Submission {
            digests: self.digests.clone(),
            total_rollouts: self.total,
            uploaded: Some(uploaded),
        }
    }
}

/// Opens a file. Blocks.
///
/// - `randomness`: the validator's own, hexadecimal; it chooses the rows.
///
/// # Errors
/// The reason, for a person, when we could not read the bytes that we hold.
pub fn open(bytes: &Bytes, expected: &Expected<'_>, randomness: &str) -> Result<Opened, String> {
    match try_open(bytes, expected, randomness) {
        Ok(opened) => Ok(opened),
        Err(ReadError::Corrupt(reason)) => {
            debug!(hotkey = expected.hotkey, reason, "a corrupt file");
            Ok(Opened::Banned(CORRUPT))
        }
        Err(ReadError::Unreadable(reason)) => Ok(Opened::Absent(reason)),
        Err(error @ ReadError::Io(_)) => Err(error.to_string()),
    }
}

fn try_open(bytes: &Bytes, expected: &Expected<'_>, randomness: &str) -> Result<Opened, ReadError> {
    let mut reader = RowReader::open(bytes.clone(), &Limits::default())?;
    // The reference reads all rows before it looks at any: a file that cannot be read bans nobody.
    let mut check = StructureCheck::new(reader.footer(), expected);
    let mut keys = GroupKeys::default();
    let mut digests: BTreeMap<[u8; 32], u64> = BTreeMap::new();
    let mut total = 0;
    loop {
        let rows: Vec<Row> = reader.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        total += rows.len() as u64;
        if let Ok(running) = &mut check
            && let Err(fault) = rows.iter().try_for_each(|row| running.row(row))
        {
            check = Err(fault);
        }
        if check.is_err() {
            continue;
        }
        let of_rows = on_all_threads(rows.len(), |at| {
            let commit = &rows[at].commit;
            (commit_digest(commit), completion_digest(commit))
        });
        for (row, (commit, completion)) in rows.iter().zip(&of_rows) {
            keys.push(&row.rollout_group, commit);
            if let Some(digest) = completion {
                *digests.entry(*digest).or_default() += 1;
            }
        }
    }
    let finished: Result<(), StructureFault> = check.and_then(StructureCheck::finish);
    if let Err(fault) = finished {
        debug!(hotkey = expected.hotkey, %fault, "a file without the structure of one");
        return Ok(Opened::Banned(fault.reason()));
    }
    let chosen = keys.rows_to_check(expected.hotkey, randomness);
    let mut rows = Vec::with_capacity(chosen.len());
    let mut wanted = chosen.into_iter().peekable();
    for (at, row) in RowReader::open(bytes.clone(), &Limits::default())?.enumerate() {
        let Some(&next) = wanted.peek() else { break };
        if at == next {
            rows.push(row?);
            wanted.next();
        }
    }
    Ok(Opened::Rows(ChosenRows { rows, total, digests }))
}
