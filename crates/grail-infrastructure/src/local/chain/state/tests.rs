//! The rules, one by one, with good and bad calls.

use grail_ports::signer::Signer;

use super::*;
use crate::wallet::Wallet;

const GENESIS: BlockHash = Digest([1; 32]);
const TRAINER: Hotkey = Hotkey([10; 32]);
const VALIDATOR: Hotkey = Hotkey([11; 32]);
const MINER: Hotkey = Hotkey([12; 32]);
const STRANGER: Hotkey = Hotkey([13; 32]);

fn rules() -> ChainRules {
    ChainRules {
        weights_version: 6,
        weights_rate_limit: 10,
        tempo: 20,
        min_allowed_weights: 2,
        ..ChainRules::local(0)
    }
}

/// uid 0 trainer, uid 1 validator with stake, uid 2 miner.
fn state(rules: &ChainRules) -> State {
    let mut state = State::default();
    for (hotkey, stake) in [(TRAINER, 5), (VALIDATOR, 1000), (MINER, 0)] {
        register(&mut state, rules, hotkey, stake).unwrap();
    }
    state
}

fn register(
    state: &mut State,
    rules: &ChainRules,
    hotkey: Hotkey,
    stake: u64,
) -> Result<(), Refusal> {
    state.dispatch(rules, BlockNumber(0), Origin::Root, &Call::Register { hotkey, stake })
}

fn set(
    state: &mut State,
    rules: &ChainRules,
    block: u64,
    who: Hotkey,
    row: &[(u16, u16)],
    version_key: u64,
) -> Result<(), Refusal> {
    let (uids, weights) = row.iter().copied().unzip();
    let call = Call::SetWeights { uids, weights, version_key };
    state.dispatch(rules, BlockNumber(block), Origin::Signed(who), &call)
}

#[test]
fn weights_are_refused_by_the_chains_rules_in_its_order() {
    let rules = rules();
    let good = [(0, 9), (2, 1)];
    for (who, row, version_key, expected) in [
        (STRANGER, &good[..], 0, Refusal::HotKeyNotRegisteredInSubNet),
        (VALIDATOR, &[(0, 1); 4], 6, Refusal::UidsLengthExceedUidsInSubNet),
        (MINER, &good, 0, Refusal::IncorrectWeightVersionKey { expected: 6 }),
        (MINER, &good, 6, Refusal::NeuronNoValidatorPermit),
        (VALIDATOR, &good, 5, Refusal::IncorrectWeightVersionKey { expected: 6 }),
        (VALIDATOR, &[(2, 1), (2, 1)], 6, Refusal::DuplicateUids),
        (VALIDATOR, &[(0, 1), (3, 1)], 6, Refusal::UidVecContainInvalidOne { uid: 3 }),
        (VALIDATOR, &[(0, 1)], 6, Refusal::WeightVecLengthIsLow),
        (VALIDATOR, &[(0, 0), (2, 0)], 6, Refusal::WeightVecLengthIsLow),
        (VALIDATOR, &[], 6, Refusal::WeightVecLengthIsLow),
    ] {
        let mut state = state(&rules);
        let before = state.clone();
        assert_eq!(set(&mut state, &rules, 1, who, row, version_key), Err(expected));
        assert_eq!(state, before, "a refused call changes nothing");
    }
    let unequal = Call::SetWeights { uids: vec![0], weights: vec![], version_key: 6 };
    let mut state = state(&rules);
    assert_eq!(
        state.dispatch(&rules, BlockNumber(1), Origin::Signed(VALIDATOR), &unequal),
        Err(Refusal::WeightVecNotEqualSize)
    );
    assert_eq!(set(&mut state, &rules, 1, MINER, &[(2, 3)], 6), Ok(()), "only on itself");
    let poor = ChainRules { stake_threshold: 1001, ..rules };
    assert_eq!(
        set(&mut state, &poor, 1, VALIDATOR, &good, 6),
        Err(Refusal::NotEnoughStakeToSetWeights { threshold: 1001 })
    );
}

#[test]
fn the_rate_limit_counts_blocks_since_the_last_update() {
    let rules = rules();
    let mut state = state(&rules);
    let row = [(0, 9), (2, 1)];
    set(&mut state, &rules, 5, VALIDATOR, &row, 6).unwrap();
    let too_fast = Err(Refusal::SettingWeightsTooFast { next: BlockNumber(15) });
    assert_eq!(set(&mut state, &rules, 14, VALIDATOR, &row, 6), too_fast);
    assert_eq!(set(&mut state, &rules, 15, VALIDATOR, &row, 6), Ok(()));
}

#[test]
fn incentives_change_at_the_end_of_an_epoch_only() {
    let rules = rules();
    let mut state = state(&rules);
    set(&mut state, &rules, 1, VALIDATOR, &[(0, 3), (2, 1)], 6).unwrap();
    for block in 1..20 {
        state.end_block(&rules, BlockNumber(block));
    }
    let miner = |state: &State| {
        let metagraph = state.metagraph(&rules, BlockNumber(20));
        metagraph.neuron(MINER).unwrap().clone()
    };
    assert_eq!(miner(&state).incentive, 0.0);
    state.end_block(&rules, BlockNumber(20));
    // The chain scales (3, 1) up to (65535, 21845).
    assert_eq!(miner(&state).incentive, 16384.0 / 65535.0);
}

#[test]
fn permits_go_to_the_largest_stakes() {
    let rules = ChainRules { validators_max: 2, stake_threshold: 10, ..rules() };
    let mut state = State::default();
    for (hotkey, stake) in [(TRAINER, 10), (VALIDATOR, 10), (MINER, 9), (STRANGER, 50)] {
        register(&mut state, &rules, hotkey, stake).unwrap();
    }
    assert_eq!(state.permits(&rules), [true, false, false, true]);
    assert_eq!(State::default().permits(&rules), [false; 0]);
}

#[test]
fn registration_has_its_rules() {
    let rules = ChainRules { neurons_max: 4, ..rules() };
    let mut state = state(&rules);
    let again = register(&mut state, &rules, MINER, 0);
    assert_eq!(again, Err(Refusal::HotKeyAlreadyRegisteredInSubNet));
    let signed = |state: &mut State, rules: &ChainRules, hotkey, stake| {
        let call = Call::Register { hotkey, stake };
        state.dispatch(rules, BlockNumber(3), Origin::Signed(STRANGER), &call)
    };
    let closed = ChainRules { open_registration: false, ..rules.clone() };
    let denied = signed(&mut state, &closed, STRANGER, 0);
    assert_eq!(denied, Err(Refusal::SubNetRegistrationDisabled));
    let minted = signed(&mut state, &rules, STRANGER, 1);
    assert_eq!(minted, Err(Refusal::RegistrationNotPermitted));
    let for_another = signed(&mut state, &rules, Hotkey([14; 32]), 0);
    assert_eq!(for_another, Err(Refusal::RegistrationNotPermitted));
    assert_eq!(signed(&mut state, &rules, STRANGER, 0), Ok(()));
    assert_eq!(state.uid(STRANGER), Some(Uid(3)));
    let full = register(&mut state, &rules, Hotkey([14; 32]), 0);
    assert_eq!(full, Err(Refusal::NoNeuronIdAvailable));
}

#[test]
fn commitments_are_bounded_in_length_and_number() {
    let rules = rules();
    let mut state = state(&rules);
    let commit = |state: &mut State, who, length: usize| {
        let call = Call::SetCommitment { data: vec![7; length] };
        state.dispatch(&rules, BlockNumber(1), Origin::Signed(who), &call)
    };
    assert_eq!(commit(&mut state, STRANGER, 5), Err(Refusal::AccountNotAllowedCommit));
    for length in [0, 129] {
        let bytes = u64::try_from(length).unwrap();
        let expected = Err(Refusal::CommitmentLengthInvalid { bytes });
        assert_eq!(commit(&mut state, MINER, length), expected);
    }
    for time in 0..24 {
        assert_eq!(commit(&mut state, MINER, 128), Ok(()), "time {time}");
    }
    assert_eq!(commit(&mut state, MINER, 128), Err(Refusal::SpaceLimitExceeded));
    assert_eq!(commit(&mut state, VALIDATOR, 128), Ok(()), "each has its own space");
    state.end_block(&rules, BlockNumber(20));
    assert_eq!(commit(&mut state, MINER, 1), Ok(()), "a new epoch, new space");
    assert_eq!(state.commitments()[&MINER], [7]);
}

#[test]
fn a_call_is_included_once() {
    let rules = rules();
    let wallet = Wallet::from_seed(&[3; 32]);
    let mut state = state(&rules);
    register(&mut state, &rules, wallet.hotkey(), 0).unwrap();
    let sign = |nonce, valid_until, byte| {
        let call = Call::SetCommitment { data: vec![byte] };
        SignedExtrinsic::sign(&wallet, GENESIS, nonce, BlockNumber(valid_until), call)
    };
    let at = BlockNumber(8);
    let first = sign(0, 10, 1);
    assert_eq!(state.include(&rules, GENESIS, at, &first), Ok(at));
    let later = BlockNumber(9);
    assert_eq!(state.include(&rules, GENESIS, later, &first), Ok(at), "same answer again");
    let second = sign(1, 10, 2);
    assert_eq!(state.include(&rules, GENESIS, later, &second), Ok(later));
    let replayed = state.include(&rules, GENESIS, later, &first);
    assert_eq!(replayed, Err(Refusal::BadNonce { expected: 2 }));
    assert_eq!(state.commitments()[&wallet.hotkey()], [2]);
    for valid_until in [8, 9 + VALIDITY_BLOCKS + 1] {
        let refused = state.include(&rules, GENESIS, later, &sign(2, valid_until, 3));
        assert_eq!(refused, Err(Refusal::Outdated { next: later }));
    }
    let forged = SignedExtrinsic { signer: MINER, ..sign(0, 10, 3) };
    assert_eq!(state.include(&rules, GENESIS, later, &forged), Err(Refusal::BadSignature));
}
