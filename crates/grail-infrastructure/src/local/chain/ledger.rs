//! Keeps the chain in a redb file: what was committed before a crash is there after it.

use std::path::{Path, PathBuf};

use grail_protocol::ids::{BlockHash, BlockNumber, Digest};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::extrinsic::{Call, Included, Transaction};
use super::state::{ChainRules, State};
use crate::local::database::{self, DatabaseFault, bad_row, failed};

/// Version of the tables below.
const FORMAT: u32 = 3;

/// `format`, `rules` and `state`, as JSON.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Blocks by number, as JSON of [`BlockRow`].
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// Numbers of blocks by their hash.
const HASHES: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("hashes");
/// Calls of the block being built, in order, as JSON of [`Submission`].
const PENDING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pending");

/// A block as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Hash of the block.
    pub hash: BlockHash,
    /// Hash of the block before, zeros for block 0.
    pub parent: BlockHash,
    /// Time of the block, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// What stands for the state, see [`super::header::Header`].
    pub state_root: Digest,
    /// Tells this block from another at its height; 0 unless the chain was told to fork.
    #[serde(default)]
    pub fork: u64,
    /// Calls in the order of their inclusion.
    pub extrinsics: Vec<Included>,
}

/// A call that waits for its block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Submission {
    /// From the network's owner.
    Root(Call),
    /// From anybody, in the encoding of the real chain.
    Transaction(Transaction),
}

/// All that is needed to go on.
pub(super) struct Loaded {
    pub(super) rules: ChainRules,
    pub(super) genesis: BlockHash,
    pub(super) head: BlockNumber,
    pub(super) head_row: BlockRow,
    pub(super) state: State,
    pub(super) pending: Vec<Submission>,
}

pub(super) struct Ledger {
    database: Database,
    path: PathBuf,
}

impl Ledger {
    /// Creates the file at `path` with block 0.
    pub(super) fn create(
        path: &Path,
        rules: &ChainRules,
        genesis: &BlockRow,
        state: &State,
    ) -> Result<Self, DatabaseFault> {
        let ledger = Self { database: database::create(path)?, path: path.to_owned() };
        ledger.initialise(rules, genesis, state)?;
        Ok(ledger)
    }

    /// Creates a ledger in memory with block 0.
    pub(super) fn in_memory(
        rules: &ChainRules,
        genesis: &BlockRow,
        state: &State,
    ) -> Result<Self, DatabaseFault> {
        let path = PathBuf::from("the chain in memory");
        let database = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(failed(&path))?;
        let ledger = Self { database, path };
        ledger.initialise(rules, genesis, state)?;
        Ok(ledger)
    }

    /// Opens the file at `path` and reads where the chain stands.
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), DatabaseFault> {
        let ledger = Self { database: database::open(path)?, path: path.to_owned() };
        let loaded = ledger.load()?;
        Ok((ledger, loaded))
    }

    /// Keeps a call of the block being built; `index` is its place.
    pub(super) fn append_pending(
        &self,
        index: usize,
        submission: &Submission,
    ) -> Result<(), DatabaseFault> {
        let transaction = self.database.begin_write().map_err(self.failed())?;
        {
            let mut pending = transaction.open_table(PENDING).map_err(self.failed())?;
            let index = u64::try_from(index).expect("a block holds a bounded number of calls");
            pending.insert(index, json(submission).as_slice()).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }

    /// Keeps finished blocks in one transaction; none of their calls is pending any more.
    pub(super) fn append_blocks(
        &self,
        blocks: &[(BlockNumber, BlockRow)],
        changed_state: Option<&State>,
    ) -> Result<(), DatabaseFault> {
        let transaction = self.database.begin_write().map_err(self.failed())?;
        {
            let mut table = transaction.open_table(BLOCKS).map_err(self.failed())?;
            let mut hashes = transaction.open_table(HASHES).map_err(self.failed())?;
            for (number, row) in blocks {
                table.insert(number.0, json(row).as_slice()).map_err(self.failed())?;
                hashes.insert(&row.hash.0, number.0).map_err(self.failed())?;
            }
            if let Some(state) = changed_state {
                let mut meta = transaction.open_table(META).map_err(self.failed())?;
                meta.insert("state", json(state).as_slice()).map_err(self.failed())?;
            }
            let mut pending = transaction.open_table(PENDING).map_err(self.failed())?;
            pending.retain(|_, _| false).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }

    /// Returns the block `number`.
    pub(super) fn block(&self, number: BlockNumber) -> Result<Option<BlockRow>, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let blocks = transaction.open_table(BLOCKS).map_err(self.failed())?;
        let row = blocks.get(number.0).map_err(self.failed())?;
        row.map(|row| self.parse("block", row.value())).transpose()
    }

    /// Returns the number of the block with `hash`, be it on the chain or on a fork that was left.
    pub(super) fn number_of(&self, hash: BlockHash) -> Result<Option<BlockNumber>, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let hashes = transaction.open_table(HASHES).map_err(self.failed())?;
        let number = hashes.get(&hash.0).map_err(self.failed())?;
        Ok(number.map(|number| BlockNumber(number.value())))
    }

    fn initialise(
        &self,
        rules: &ChainRules,
        genesis: &BlockRow,
        state: &State,
    ) -> Result<(), DatabaseFault> {
        let transaction = self.database.begin_write().map_err(self.failed())?;
        {
            let mut meta = transaction.open_table(META).map_err(self.failed())?;
            for (key, value) in
                [("format", json(&FORMAT)), ("rules", json(rules)), ("state", json(state))]
            {
                meta.insert(key, value.as_slice()).map_err(self.failed())?;
            }
            let mut blocks = transaction.open_table(BLOCKS).map_err(self.failed())?;
            blocks.insert(0, json(genesis).as_slice()).map_err(self.failed())?;
            let mut hashes = transaction.open_table(HASHES).map_err(self.failed())?;
            hashes.insert(&genesis.hash.0, 0).map_err(self.failed())?;
            transaction.open_table(PENDING).map_err(self.failed())?;
        }
        transaction.commit().map_err(self.failed())
    }

    fn load(&self) -> Result<Loaded, DatabaseFault> {
        let transaction = self.database.begin_read().map_err(self.failed())?;
        let meta = transaction.open_table(META).map_err(self.failed())?;
        let format: u32 = self.meta(&meta, "format")?;
        if format != FORMAT {
            let reason = format!("version {format}, this program knows {FORMAT}");
            return Err(bad_row(&self.path, "format", &reason));
        }
        let blocks = transaction.open_table(BLOCKS).map_err(self.failed())?;
        let (head, head_row) = match blocks.last().map_err(self.failed())? {
            Some((number, row)) => (number.value(), self.parse::<BlockRow>("head", row.value())?),
            None => return Err(bad_row(&self.path, "blocks", &"none")),
        };
        let genesis = match blocks.get(0).map_err(self.failed())? {
            Some(row) => self.parse::<BlockRow>("block 0", row.value())?.hash,
            None => return Err(bad_row(&self.path, "block 0", &"absent")),
        };
        let pending = transaction.open_table(PENDING).map_err(self.failed())?;
        let mut submissions = Vec::new();
        for entry in pending.iter().map_err(self.failed())? {
            let (_, row) = entry.map_err(self.failed())?;
            submissions.push(self.parse("pending", row.value())?);
        }
        Ok(Loaded {
            rules: self.meta(&meta, "rules")?,
            genesis,
            head: BlockNumber(head),
            head_row,
            state: self.meta(&meta, "state")?,
            pending: submissions,
        })
    }

    fn meta<T: DeserializeOwned>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
        key: &str,
    ) -> Result<T, DatabaseFault> {
        match table.get(key).map_err(self.failed())? {
            Some(row) => self.parse(key, row.value()),
            None => Err(bad_row(&self.path, key, &"absent")),
        }
    }

    fn parse<T: DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, DatabaseFault> {
        serde_json::from_slice(bytes).map_err(|error| bad_row(&self.path, what, &error))
    }

    fn failed<E: Into<redb::Error>>(&self) -> impl Fn(E) -> DatabaseFault {
        failed(&self.path)
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our rows have string keys and finite numbers only")
}
