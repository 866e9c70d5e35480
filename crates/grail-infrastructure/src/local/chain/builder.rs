//! The block being built: what it starts from, what was asked of it, what happened in it.

use grail_protocol::ids::{BlockHash, BlockNumber, Digest};

use super::call::Pulse;
use super::event::{Event, EventRecord};
use super::extrinsic::{Included, Transaction};
use super::header::{Header, blake2_256, other, slot};
use super::ledger::{BlockRow, Submission};
use super::refusal::Refusal;
use super::state::{ChainRules, Origin, State};

/// Extrinsics that the chain itself puts before all others: the block's time.
pub const INHERENTS: u32 = 1;

/// A block being built.
#[derive(Clone)]
pub(super) struct Draft {
    number: BlockNumber,
    block_time_ms: u64,
    state: State,
    submissions: Vec<Submission>,
    events: Vec<EventRecord>,
    transactions: u32,
}

impl Draft {
    /// Begins the block `number` after the state `settled`, with `pulses` that the chain stores
    /// before anything else.
    pub(super) fn begin(
        rules: &ChainRules,
        settled: &State,
        number: BlockNumber,
        pulses: &[(u64, Pulse)],
    ) -> Self {
        let mut state = settled.clone();
        for (round, pulse) in pulses {
            state.store_pulse(*round, pulse.clone());
        }
        state.begin_block(rules, number);
        let mut draft = Self {
            number,
            block_time_ms: rules.block_time_ms,
            state,
            submissions: Vec::new(),
            events: Vec::new(),
            transactions: 0,
        };
        draft.record(None);
        draft
    }

    /// Does what `submission` asks. What an extrinsic asks may fail, and is included all the same.
    pub(super) fn apply(
        &mut self,
        rules: &ChainRules,
        submission: Submission,
    ) -> Result<(), Refusal> {
        let index = match &submission {
            Submission::Root(call) => {
                self.state.dispatch(rules, self.number, Origin::Root, call)?;
                None
            }
            Submission::Transaction(transaction) => {
                let index = INHERENTS + self.transactions;
                self.apply_transaction(rules, transaction);
                Some(index)
            }
        };
        self.record(index);
        self.submissions.push(submission);
        Ok(())
    }

    /// Does again what another block included. What no longer fits is left out, as on the real
    /// chain.
    pub(super) fn repeat(&mut self, rules: &ChainRules, included: &Included) {
        let Included { signer, nonce, call, bytes } = included.clone();
        let submission = match (signer, bytes) {
            (Some(signer), Some(_)) if self.state.nonce(signer) != nonce => return,
            (Some(signer), Some(bytes)) => {
                let hash = blake2_256(&bytes);
                Submission::Transaction(Transaction { bytes, hash, signer, nonce, call })
            }
            _ => Submission::Root(call),
        };
        // A call of the owner's that fails now is as one that was never made.
        drop(self.apply(rules, submission));
    }

    fn apply_transaction(&mut self, rules: &ChainRules, transaction: &Transaction) {
        self.transactions += 1;
        let Transaction { signer, call, bytes, .. } = transaction;
        // A failed call is told by its event; it is included all the same.
        drop(self.state.apply_extrinsic(rules, self.number, *signer, call, bytes.len()));
    }

    fn record(&mut self, extrinsic: Option<u32>) {
        let events = self.state.take_events();
        self.events.extend(events.into_iter().map(|event| EventRecord { extrinsic, event }));
    }

    /// Returns the block's row as the child of `parent`, whose state root was `state_root`.
    pub(super) fn row(
        &self,
        parent: BlockHash,
        state_root: Digest,
        timestamp_ms: u64,
        fork: u64,
    ) -> BlockRow {
        let mut row = BlockRow {
            hash: Digest([0; 32]),
            parent,
            timestamp_ms,
            state_root,
            fork,
            extrinsics: self.submissions.iter().map(Included::from).collect(),
        };
        // Stands for the state by standing for all that it follows from.
        let root = row.extrinsics_root();
        row.state_root = blake2_256(&[&state_root.0[..], &root.0].concat());
        row.hash = row.header(self.number, self.block_time_ms).hash();
        row
    }

    /// Returns the state after the block, and its events.
    pub(super) fn finish(mut self) -> (State, Vec<EventRecord>) {
        let info = super::call::DispatchInfo { ref_time: 0, pays_fee: true };
        let inherent = Event::new("System", "ExtrinsicSuccess", [super::event::Field::Info(info)]);
        let position =
            self.events.iter().position(|record| record.extrinsic.is_some_and(|index| index > 0));
        let position = position.unwrap_or(self.events.len());
        self.events.insert(position, EventRecord { extrinsic: Some(0), event: inherent });
        (self.state, self.events)
    }

    pub(super) fn number(&self) -> BlockNumber {
        self.number
    }

    /// Returns the state with all that was asked so far.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Returns the number of calls so far.
    pub(super) fn len(&self) -> usize {
        self.submissions.len()
    }

    pub(super) fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.submissions.iter().filter_map(|submission| match submission {
            Submission::Transaction(transaction) => Some(transaction),
            _ => None,
        })
    }
}

impl From<&Submission> for Included {
    fn from(submission: &Submission) -> Self {
        match submission {
            Submission::Root(call) => {
                Self { signer: None, nonce: 0, call: call.clone(), bytes: None }
            }
            Submission::Transaction(transaction) => Self {
                signer: Some(transaction.signer),
                nonce: transaction.nonce,
                call: transaction.call.clone(),
                bytes: Some(transaction.bytes.clone()),
            },
        }
    }
}

impl BlockRow {
    /// Returns the header of the block, which is `number` on a chain of this block time.
    pub fn header(&self, number: BlockNumber, block_time_ms: u64) -> Header {
        let mut logs = vec![slot(self.timestamp_ms / block_time_ms.max(1))];
        if self.fork > 0 {
            logs.push(other(&self.fork.to_le_bytes()));
        }
        Header {
            parent: self.parent,
            number,
            state_root: self.state_root,
            extrinsics_root: self.extrinsics_root(),
            logs,
        }
    }

    /// Returns what stands for the calls in the header.
    fn extrinsics_root(&self) -> Digest {
        let calls: Vec<u8> =
            self.extrinsics.iter().flat_map(|included| blake2_256(&included.encode()).0).collect();
        blake2_256(&calls)
    }
}

/// Returns the hashes of the extrinsics in `row`, in order.
pub(super) fn hashes(row: &BlockRow) -> Vec<Digest> {
    let bytes = row.extrinsics.iter().filter_map(|included| included.bytes.as_deref());
    bytes.map(blake2_256).collect()
}
