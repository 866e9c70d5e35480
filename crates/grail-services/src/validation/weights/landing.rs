//! Finds out what became of weights that were handed in.

use grail_ports::chain::{Chain, ChainError, Metagraph, WeightsStatus};
use grail_protocol::ids::{BlockNumber, Hotkey};
use tracing::debug;

use super::memory::Flight;
use super::trouble::Trouble;
use crate::context::RunContext;

/// Blocks after the end of the time in which weights must have landed, for everybody to see it.
pub(super) const SETTLING_BLOCKS: u64 = 64;

/// What is known of the weights on their way.
pub(super) enum News {
    /// Nothing new.
    None,
    /// A block includes them.
    Included(BlockNumber),
    /// No block includes them, nor will one.
    Missed,
    /// The chain counts them, since this block for all that is known, or does not any more.
    SeenAt(Option<BlockNumber>),
    /// They count, and no re-organisation can change that.
    Landed(BlockNumber),
    /// They do not count.
    Lost(Trouble),
}

/// Looks whether weights that were handed in, without an answer, are in a block.
pub(super) async fn look_for_inclusion(
    ctx: &RunContext,
    flight: &Flight,
    head: BlockNumber,
) -> News {
    let metagraph = match ctx.chain.metagraph().await {
        Ok(metagraph) => metagraph,
        Err(error) => {
            debug!(%error, "nobody tells whether a block includes the weights");
            return News::None;
        }
    };
    match last_update(&metagraph, ctx.hotkey()) {
        Some(block) if block > flight.updated_before => News::Included(block),
        _ if head < flight.given_up_at => News::None,
        _ => News::Missed,
    }
}

/// Looks whether the chain counts the weights that `block` includes.
pub(super) async fn look_for_landing(
    ctx: &RunContext,
    flight: &Flight,
    block: BlockNumber,
    head: BlockNumber,
) -> News {
    let chain = &*ctx.chain;
    match status(chain, flight, block).await {
        Ok(WeightsStatus::Landed) => match flight.landed_at {
            None => News::SeenAt(Some(head.max(block))),
            Some(landed_at) => settle(chain, block, landed_at, head).await,
        },
        Ok(WeightsStatus::Sealed { .. }) if flight.landed_at.is_some() => News::SeenAt(None),
        Ok(WeightsStatus::Sealed { opens }) => match chain.hyperparameters().await {
            Ok(rules) if head.0 > latest(opens, rules.tempo) => {
                News::Lost(Trouble::NotOpened { block, opens })
            }
            _ => News::None,
        },
        Ok(WeightsStatus::Lost { reason }) => News::Lost(Trouble::Lost { block, reason }),
        Ok(WeightsStatus::Unknown) => untold(chain, block, head, String::new()).await,
        Err(ChainError::Refused { name, advice, .. }) => {
            News::Lost(Trouble::Lost { block, reason: format!("{name} ({advice})") })
        }
        Err(error) => {
            debug!(%error, "nobody tells whether weights have landed");
            untold(chain, block, head, format!(": {error}")).await
        }
    }
}

/// Waits until the block at which weights were seen to count is final. Where finality stands still
/// for long, it is enough that they still count.
async fn settle(
    chain: &dyn Chain,
    block: BlockNumber,
    landed_at: BlockNumber,
    head: BlockNumber,
) -> News {
    let is_final = match chain.finalized().await {
        Ok(last) => last >= landed_at,
        Err(error) => {
            debug!(%error, "nobody tells which block is final");
            false
        }
    };
    if is_final || head.0 > latest(landed_at, 0) { News::Landed(block) } else { News::None }
}

/// Returns the last block at which something may show that should within `blocks` of `from`.
fn latest(from: BlockNumber, blocks: u64) -> u64 {
    from.0.saturating_add(blocks).saturating_add(SETTLING_BLOCKS)
}

fn last_update(metagraph: &Metagraph, hotkey: Hotkey) -> Option<BlockNumber> {
    metagraph.neuron(hotkey).map(|neuron| neuron.last_update)
}

/// Asks what became of weights, also those of an earlier life of this validator.
async fn status(
    chain: &dyn Chain,
    flight: &Flight,
    block: BlockNumber,
) -> Result<WeightsStatus, ChainError> {
    match chain.weights_status().await? {
        WeightsStatus::Unknown => {
            chain.watch_weights(&flight.sent(block)).await?;
            chain.weights_status().await
        }
        status => Ok(status),
    }
}

/// Bounds the time for which nobody can tell what became of the weights of `block`.
async fn untold(chain: &dyn Chain, block: BlockNumber, head: BlockNumber, why: String) -> News {
    let Ok(rules) = chain.hyperparameters().await else { return News::None };
    let epochs = rules.reveal_epochs.unwrap_or(0).saturating_add(1);
    if head.0 > latest(block, rules.tempo.saturating_mul(epochs)) {
        return News::Lost(Trouble::Untold { block, why });
    }
    News::None
}
