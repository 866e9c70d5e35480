//! What the chain is asked to do: calls of its owner, and extrinsics of anybody.

use grail_protocol::ids::{BlockNumber, Hotkey};

use super::extrinsic::{Call, Transaction};
use super::ledger::Submission;
use super::refusal::Refusal;
use super::state::PoolRefusal;
use super::{LocalChain, LocalChainError, Writer};

/// Most calls in one block.
const BLOCK_EXTRINSICS_MAX: usize = 1024;

/// Most extrinsics that wait for an earlier one of their signer.
const FUTURE_EXTRINSICS_MAX: usize = 1024;

impl LocalChain {
    /// Registers `hotkey` with `stake`, as only the network's owner may, and returns the block that
    /// will include it.
    ///
    /// # Errors
    /// When the hotkey is registered or no uid is free, or the file fails.
    pub fn register(&self, hotkey: Hotkey, stake: u64) -> Result<BlockNumber, LocalChainError> {
        self.control(Call::Register { hotkey, stake })
    }

    /// Makes a call as the network's owner, which only the process that holds the network can, and
    /// returns the block that will include it.
    ///
    /// # Errors
    /// When a rule is broken, or the file fails.
    pub fn control(&self, call: Call) -> Result<BlockNumber, LocalChainError> {
        let mut writer = self.writer();
        self.accept(&mut writer, &Submission::Root(call))
    }

    /// Takes an extrinsic into the pool, as a node does: the next block includes it, whether its
    /// call then succeeds or not. One whose nonce is too high waits silently.
    ///
    /// # Errors
    /// When the pool turns it down, or the file fails.
    pub fn submit_transaction(&self, transaction: Transaction) -> Result<(), LocalChainError> {
        let mut writer = self.writer();
        let known = |other: &Transaction| other.hash == transaction.hash;
        if writer.draft.transactions().any(known) || writer.future.values().any(known) {
            return Err(LocalChainError::Pool(PoolRefusal::AlreadyImported));
        }
        let due = writer.draft.state().nonce(transaction.signer);
        if transaction.nonce < due {
            return Err(LocalChainError::Pool(PoolRefusal::Stale));
        }
        let (signer, bytes) = (transaction.signer, transaction.bytes.len());
        let refusal =
            writer.settled.pool_refusal(writer.draft.number(), signer, &transaction.call, bytes);
        if let Some(refusal) = refusal {
            return Err(LocalChainError::Pool(refusal));
        }
        if transaction.nonce > due {
            if writer.future.len() >= FUTURE_EXTRINSICS_MAX {
                return Err(LocalChainError::Pool(PoolRefusal::Full));
            }
            writer.future.insert((signer, transaction.nonce), transaction);
            return Ok(());
        }
        let mut next = due.saturating_add(1);
        self.accept(&mut writer, &Submission::Transaction(transaction))?;
        while let Some(waiting) = writer.future.remove(&(signer, next)) {
            self.accept(&mut writer, &Submission::Transaction(waiting))?;
            next = next.saturating_add(1);
        }
        Ok(())
    }

    /// Returns the nonce after all that the pool has of `account` without a gap.
    pub fn next_nonce(&self, account: Hotkey) -> u64 {
        let writer = self.writer();
        let mut nonce = writer.draft.state().nonce(account);
        while writer.future.contains_key(&(account, nonce)) {
            nonce = nonce.saturating_add(1);
        }
        nonce
    }

    /// Returns the extrinsics of the block being built, in order.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        self.writer().draft.transactions().map(|transaction| transaction.bytes.clone()).collect()
    }

    /// Does what `submission` asks in the block being built and keeps it.
    fn accept(
        &self,
        writer: &mut Writer,
        submission: &Submission,
    ) -> Result<BlockNumber, LocalChainError> {
        if writer.draft.len() >= BLOCK_EXTRINSICS_MAX {
            return Err(Refusal::ExhaustsResources.into());
        }
        let mut draft = writer.draft.clone();
        draft.apply(&self.rules, submission.clone())?;
        self.ledger.append_pending(writer.draft.len(), submission)?;
        writer.draft = draft;
        self.publish(writer);
        Ok(writer.draft.number())
    }
}
