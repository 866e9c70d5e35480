//! Block 0.

use grail_protocol::ids::{BlockNumber, Digest, Hotkey};
use sha2::{Digest as _, Sha256};

use super::LocalChainError;
use super::call::Call;
use super::ledger::{BlockRow, Loaded};
use super::state::{ChainRules, Origin, State};

/// Returns block 0 of a chain of `rules`, and its state; `neurons` (hotkey, stake) get uids 0, 1, …
pub(super) fn genesis(
    rules: &ChainRules,
    seed: &[u8; 32],
    neurons: &[(Hotkey, u64)],
) -> Result<(BlockRow, State), LocalChainError> {
    rules.validate().map_err(LocalChainError::Rules)?;
    let mut state = State::new(rules);
    for (hotkey, stake) in neurons {
        let call = Call::Register { hotkey: *hotkey, stake: *stake };
        state.dispatch(rules, BlockNumber(0), Origin::Root, &call)?;
    }
    state.take_events();
    let state_root = Sha256::new()
        .chain_update(b"grail/v6/local-genesis\0")
        .chain_update(seed)
        .chain_update(rules.netuid.0.to_le_bytes())
        .chain_update(rules.genesis_ms.to_le_bytes())
        .finalize();
    let mut row = BlockRow {
        hash: Digest([0; 32]),
        parent: Digest([0; 32]),
        timestamp_ms: rules.genesis_ms,
        state_root: Digest(state_root.into()),
        fork: 0,
        extrinsics: Vec::new(),
    };
    row.hash = row.header(BlockNumber(0), rules.block_time_ms).hash();
    Ok((row, state))
}

/// Returns a chain that stands at its block 0.
pub(super) fn first(rules: ChainRules, genesis: BlockRow, state: State) -> Loaded {
    Loaded {
        rules,
        genesis: genesis.hash,
        head: BlockNumber(0),
        head_row: genesis,
        state,
        pending: Vec::new(),
    }
}
