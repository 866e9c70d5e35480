//! The rules, one by one, with good and bad calls.

use grail_ports::beacon::BeaconSchedule;
use grail_protocol::timelock::drand::seal_commit;
use grail_protocol::timelock::{BeaconPublicKey, SealTo};
use parity_scale_codec::Encode;
use proptest::prelude::*;

use super::*;
use crate::local::beacon::LocalBeacon;

const TRAINER: Hotkey = Hotkey([10; 32]);
const VALIDATOR: Hotkey = Hotkey([11; 32]);
const MINER: Hotkey = Hotkey([12; 32]);
const STRANGER: Hotkey = Hotkey([13; 32]);
const COLDKEY: Hotkey = Hotkey([14; 32]);
const NETUID: u16 = 81;

fn rules() -> ChainRules {
    ChainRules {
        weights_version: 6,
        weights_rate_limit: 10,
        tempo: 20,
        min_allowed_weights: 2,
        endowed: vec![(COLDKEY, 1_000_000_000)],
        ..ChainRules::local(0)
    }
}

/// uid 0 trainer, uid 1 validator with stake, uid 2 miner.
fn state(rules: &ChainRules) -> State {
    let mut state = State::new(rules);
    for (hotkey, stake) in [(TRAINER, 5), (VALIDATOR, 1000), (MINER, 0)] {
        register(&mut state, rules, hotkey, stake).unwrap();
    }
    state.take_events();
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

fn row(row: &[(u16, u16)], version_key: u64) -> Call {
    let (uids, weights) = row.iter().copied().unzip();
    Call::SetWeights { netuid: NETUID, mechanism: 0, uids, weights, version_key }
}

fn set(
    state: &mut State,
    rules: &ChainRules,
    block: u64,
    who: Hotkey,
    weights: &[(u16, u16)],
    version_key: u64,
) -> Result<(), Refusal> {
    let call = row(weights, version_key);
    state.dispatch(rules, BlockNumber(block), Origin::Signed(who), &call)
}

fn raw(length: usize) -> Vec<Data> {
    vec![Data::Raw { bytes: vec![7; length] }]
}

fn names(state: &mut State) -> Vec<&'static str> {
    state.take_events().iter().map(|event| event.name).collect()
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
        (VALIDATOR, &[], 6, Refusal::WeightVecLengthIsLow),
    ] {
        let mut state = state(&rules);
        let before = state.clone();
        assert_eq!(set(&mut state, &rules, 1, who, row, version_key), Err(expected));
        assert_eq!(state, before, "a refused call changes nothing");
    }
    let mut state = state(&rules);
    let mut refused = |call: Call| {
        state.dispatch(&rules, BlockNumber(1), Origin::Signed(VALIDATOR), &call).unwrap_err()
    };
    let weights = |netuid, mechanism, weights: Vec<u16>| Call::SetWeights {
        netuid,
        mechanism,
        uids: vec![0, 2],
        weights,
        version_key: 6,
    };
    assert_eq!(refused(weights(NETUID, 0, vec![1])), Refusal::WeightVecNotEqualSize);
    assert_eq!(refused(weights(NETUID, 1, vec![1, 1])), Refusal::MechanismDoesNotExist);
    assert_eq!(refused(weights(0, 0, vec![1, 1])), Refusal::CommitRevealEnabled, "a default");
    state.params.max_weights_limit = 40_000;
    let large = set(&mut state, &rules, 1, VALIDATOR, &[(0, 2), (2, 1)], 6);
    assert_eq!(large, Err(Refusal::MaxWeightExceeded));
    assert_eq!(set(&mut state, &rules, 1, VALIDATOR, &[(0, 0), (2, 0)], 6), Ok(()));
    assert_eq!(set(&mut state, &rules, 1, MINER, &[(2, 3)], 6), Ok(()), "only on itself");
    state.params.stake_threshold = 1001;
    assert_eq!(
        set(&mut state, &rules, 1, VALIDATOR, &good, 6),
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
fn incentives_change_when_an_epoch_begins() {
    let rules = rules();
    let mut state = state(&rules);
    set(&mut state, &rules, 1, VALIDATOR, &[(0, 3), (2, 1)], 6).unwrap();
    for block in 1..20 {
        state.begin_block(&rules, BlockNumber(block));
    }
    let miner = |state: &State| {
        let metagraph = state.metagraph(&rules, BlockNumber(20));
        metagraph.neuron(MINER).unwrap().clone()
    };
    assert_eq!(miner(&state).incentive, 0.0);
    state.begin_block(&rules, BlockNumber(20));
    // The chain scales (3, 1) up to (65535, 21845).
    assert_eq!(miner(&state).incentive, 16384.0 / 65535.0);
}

#[test]
fn permits_go_to_the_largest_stakes() {
    let rules = ChainRules { validators_max: 2, stake_threshold: 10, ..rules() };
    let mut state = State::new(&rules);
    for (hotkey, stake) in [(TRAINER, 10), (VALIDATOR, 10), (MINER, 9), (STRANGER, 50)] {
        register(&mut state, &rules, hotkey, stake).unwrap();
    }
    let permits: Vec<bool> = state.neurons.iter().map(|neuron| neuron.permit).collect();
    assert_eq!(permits, [true, false, false, true]);
}

#[test]
fn registration_by_the_owner_has_its_rules() {
    let rules = ChainRules { neurons_max: 4, ..rules() };
    let mut state = state(&rules);
    let again = register(&mut state, &rules, MINER, 0);
    assert_eq!(again, Err(Refusal::HotKeyAlreadyRegisteredInSubNet));
    let signed = |state: &mut State, hotkey, stake| {
        let call = Call::Register { hotkey, stake };
        state.dispatch(&rules, BlockNumber(3), Origin::Signed(STRANGER), &call)
    };
    state.params.registration_allowed = false;
    assert_eq!(signed(&mut state, STRANGER, 0), Err(Refusal::SubNetRegistrationDisabled));
    state.params.registration_allowed = true;
    assert_eq!(signed(&mut state, STRANGER, 1), Err(Refusal::RegistrationNotPermitted));
    let for_another = signed(&mut state, Hotkey([15; 32]), 0);
    assert_eq!(for_another, Err(Refusal::RegistrationNotPermitted));
    assert_eq!(signed(&mut state, STRANGER, 0), Ok(()));
    assert_eq!(state.uid(STRANGER), Some(Uid(3)));
    let full = register(&mut state, &rules, Hotkey([15; 32]), 0);
    assert_eq!(full, Err(Refusal::NoNeuronIdAvailable));
}

#[test]
fn a_paid_registration_costs_its_price_and_evicts_when_the_subnet_is_full() {
    let rules = ChainRules { neurons_max: 4, ..rules() };
    let mut state = state(&rules);
    let pay = |state: &mut State, block, netuid, hotkey, limit| {
        let call = Call::BurnedRegister { netuid, hotkey, limit };
        state.dispatch(&rules, BlockNumber(block), Origin::Signed(COLDKEY), &call)
    };
    for (netuid, hotkey, limit, expected) in [
        (0, STRANGER, None, Refusal::RegistrationNotPermittedOnRootSubnet),
        (7, STRANGER, None, Refusal::SubnetNotExists),
        (NETUID, MINER, None, Refusal::HotKeyAlreadyRegisteredInSubNet),
        (NETUID, STRANGER, Some(499_999), Refusal::RegistrationPriceLimitExceeded),
    ] {
        assert_eq!(pay(&mut state, 1, netuid, hotkey, limit), Err(expected));
    }
    assert_eq!(pay(&mut state, 1, NETUID, STRANGER, Some(500_000)), Ok(()));
    assert_eq!((state.balance(COLDKEY), state.burn), (999_500_000, 630_000));
    assert_eq!(names(&mut state), ["RAORecycledForRegistrationSet", "NeuronRegistered"]);
    let newcomer = Hotkey([20; 32]);
    let full = pay(&mut state, 4095, NETUID, newcomer, None);
    assert_eq!(full, Err(Refusal::NoNeuronIdAvailable), "everybody is immune");
    state.neurons[0].incentive = 5;
    state.commitments.insert(VALIDATOR, Commitment { block: 1, fields: raw(1) });
    assert_eq!(pay(&mut state, 4096, NETUID, newcomer, None), Ok(()));
    assert_eq!(state.uid(newcomer), Some(Uid(1)), "the oldest of the lowest incentives goes");
    assert!(state.uid(VALIDATOR).is_none() && !state.commitments.contains_key(&VALIDATOR));
    let back = pay(&mut state, 9000, NETUID, VALIDATOR, None);
    assert_eq!(back, Err(Refusal::NonAssociatedColdKey), "it belongs to its first coldkey");
    state.account_mut(COLDKEY).free = 1;
    let poor = pay(&mut state, 9000, NETUID, Hotkey([21; 32]), None);
    assert_eq!(poor, Err(Refusal::NotEnoughBalanceToStake));
    let high = state.burn;
    (0..360).for_each(|_| state.decay_burn());
    assert!(state.burn.abs_diff((high / 2).max(500_000)) < 1000, "{} of {high}", state.burn);
}

#[test]
fn commitments_are_bounded_in_length_and_number() {
    let rules = rules();
    let mut state = state(&rules);
    let commit = |state: &mut State, who, fields: Vec<Data>| {
        let call = Call::SetCommitment { netuid: NETUID, fields };
        state.dispatch(&rules, BlockNumber(1), Origin::Signed(who), &call)
    };
    assert_eq!(commit(&mut state, STRANGER, raw(5)), Err(Refusal::AccountNotAllowedCommit));
    let long = commit(&mut state, MINER, raw(129));
    assert_eq!(long, Err(Refusal::CommitmentLengthInvalid { bytes: 129 }));
    let many = commit(&mut state, MINER, vec![Data::None; 4]);
    assert_eq!(many, Err(Refusal::TooManyFieldsInCommitmentInfo));
    let failed = Data::RevealFailed { encrypted: vec![], round: 1 };
    let forged = commit(&mut state, MINER, vec![failed]);
    assert_eq!(forged, Err(Refusal::TimelockRevealFailedNotAllowed));
    for time in 0..24 {
        assert_eq!(commit(&mut state, MINER, raw(128)), Ok(()), "time {time}");
    }
    assert_eq!(commit(&mut state, MINER, raw(128)), Err(Refusal::SpaceLimitExceeded));
    assert_eq!(commit(&mut state, VALIDATOR, raw(128)), Ok(()), "each has its own space");
    assert_eq!(commit(&mut state, TRAINER, vec![]), Ok(()), "no field is a commitment too");
    for block in 2..=20 {
        state.begin_block(&rules, BlockNumber(block));
    }
    assert_eq!(commit(&mut state, MINER, raw(1)), Ok(()), "a new epoch, new space");
    assert_eq!(state.commitments()[&MINER], [7]);
}

#[test]
fn a_failed_extrinsic_counts_and_costs_and_changes_nothing_else() {
    let rules = rules();
    let mut state = state(&rules);
    let call = Call::BurnedRegister { netuid: 7, hotkey: STRANGER, limit: None };
    let before = state.clone();
    let outcome = state.apply_extrinsic(&rules, BlockNumber(1), COLDKEY, &call, 141);
    assert_eq!(outcome, Err(Refusal::SubnetNotExists));
    let fee = 2_097_626;
    assert_eq!((state.nonce(COLDKEY), state.balance(COLDKEY)), (1, 1_000_000_000 - fee));
    assert_eq!(names(&mut state), ["Withdraw", "TransactionFeePaid", "ExtrinsicFailed"]);
    assert_eq!(State { accounts: before.accounts.clone(), ..state }, before);
}

#[test]
fn the_pool_turns_down_what_cannot_be_paid_or_comes_too_soon() {
    let rules = ChainRules { stake_threshold: 100, ..rules() };
    let mut state = state(&rules);
    let refusal =
        |state: &State, who, call: &Call| state.pool_refusal(BlockNumber(12), who, call, 140);
    let good = row(&[(0, 1), (2, 1)], 6);
    assert_eq!(refusal(&state, VALIDATOR, &good), None);
    assert_eq!(refusal(&state, MINER, &good), Some(PoolRefusal::StakeTooLow));
    assert_eq!(refusal(&state, STRANGER, &good), Some(PoolRefusal::Payment), "nobody knows it");
    let register = Call::BurnedRegister { netuid: NETUID, hotkey: STRANGER, limit: None };
    assert_eq!(refusal(&state, VALIDATOR, &register), Some(PoolRefusal::Payment));
    assert_eq!(refusal(&state, COLDKEY, &register), None);
    state.neurons[1].last_update = BlockNumber(3);
    assert_eq!(refusal(&state, VALIDATOR, &good), Some(PoolRefusal::RateLimitExceeded));
    state.neurons[1].last_update = BlockNumber(2);
    assert_eq!(refusal(&state, VALIDATOR, &good), None);
    state.store_pulse(9, Pulse { randomness: vec![], signature: vec![] });
    for (reveal_round, expected) in [(8, Some(PoolRefusal::InvalidRevealRound)), (9, None)] {
        let call = Call::CommitTimelockedWeights {
            netuid: NETUID,
            mechanism: 0,
            commit: vec![],
            reveal_round,
            version: 4,
        };
        assert_eq!(refusal(&state, VALIDATOR, &call), expected);
    }
}

/// A chain with commit-reveal whose beacon signs whatever is asked.
fn timelocked() -> (ChainRules, LocalBeacon, BeaconPublicKey) {
    let schedule = BeaconSchedule { genesis_ms: 0, period_ms: 1000 };
    let clock: crate::clock::Clock = std::sync::Arc::new(|| u64::MAX / 2);
    let beacon = LocalBeacon::from_seed(&[5; 32], schedule, clock).unwrap();
    let key = grail_ports::beacon::Beacon::public_key(&beacon);
    let rules =
        ChainRules { commit_reveal: true, beacon_key: Some(key), weights_rate_limit: 1, ..rules() };
    (rules, beacon, key)
}

fn pulse(beacon: &LocalBeacon, round: u64) -> Pulse {
    let signed = beacon.sign(round).unwrap();
    let signature = hex::decode(signed.signature).unwrap();
    Pulse { randomness: signed.randomness.0.to_vec(), signature }
}

fn sealed_row(key: BeaconPublicKey, round: u64, who: Hotkey, row: &[(u16, u16)]) -> Vec<u8> {
    let (uids, weights): (Vec<u16>, Vec<u16>) = row.iter().copied().unzip();
    let payload = (who.0.to_vec(), uids, weights, 6_u64).encode();
    seal_commit(SealTo { key, round }, &payload, &[9; 32]).unwrap()
}

#[test]
fn committed_weights_appear_in_the_epoch_after_next_when_the_round_is_out() {
    let (rules, beacon, key) = timelocked();
    let mut state = state(&rules);
    let step = |state: &mut State, block| state.begin_block(&rules, BlockNumber(block));
    let commit = |state: &mut State, block, commit: Vec<u8>, reveal_round, version| {
        let netuid = NETUID;
        let call =
            Call::CommitTimelockedWeights { netuid, mechanism: 0, commit, reveal_round, version };
        state.dispatch(&rules, BlockNumber(block), Origin::Signed(VALIDATOR), &call)
    };
    let good = [(0, 1), (2, 3)];
    (1..=5).for_each(|block| step(&mut state, block));
    let plain = set(&mut state, &rules, 5, VALIDATOR, &good, 6);
    assert_eq!(plain, Err(Refusal::CommitRevealEnabled));
    let bytes = sealed_row(key, 30, VALIDATOR, &good);
    let old = commit(&mut state, 5, bytes.clone(), 30, 3);
    assert_eq!(old, Err(Refusal::IncorrectCommitRevealVersion));
    commit(&mut state, 5, bytes, 30, 4).unwrap();
    let again = commit(&mut state, 5, vec![], 30, 4);
    assert_eq!(again, Err(Refusal::CommittingWeightsTooFast { next: BlockNumber(6) }));
    commit(&mut state, 6, sealed_row(key, 30, MINER, &good), 30, 4).unwrap();
    commit(&mut state, 7, vec![1; 300], 30, 4).unwrap();
    assert_eq!(state.rounds_waited_for(), [30]);
    (8..=19).for_each(|block| step(&mut state, block));
    state.take_events();
    // Epoch 1 begins, which reveals epoch 0; but the round is not out before block 22.
    (20..=21).for_each(|block| step(&mut state, block));
    assert_eq!(names(&mut state), [""; 0]);
    state.store_pulse(30, pulse(&beacon, 30));
    step(&mut state, 22);
    // Of three commits, one names another hotkey and one is no ciphertext.
    assert_eq!(names(&mut state), ["WeightsSet", "TimelockedWeightsRevealed"]);
    assert_eq!(state.neurons[1].weights, [(0, 21845), (2, 65535)]);
    assert!(state.commits.is_empty());
    // A round that comes after the epoch is too late.
    commit(&mut state, 30, sealed_row(key, 31, VALIDATOR, &[(0, 1), (1, 1)]), 31, 4).unwrap();
    (23..=60).for_each(|block| step(&mut state, block));
    state.store_pulse(31, pulse(&beacon, 31));
    step(&mut state, 61);
    assert_eq!(state.neurons[1].weights, [(0, 21845), (2, 65535)]);
    for block in 62..72 {
        commit(&mut state, block, vec![0; 300], 99, 4).unwrap();
    }
    let many = commit(&mut state, 72, vec![0; 300], 99, 4);
    assert_eq!(many, Err(Refusal::TooManyUnrevealedCommits));
}

/// Rounds come faster than epochs where blocks are slow, and a commit may wait for an old one.
#[test]
fn a_round_that_a_commit_waits_for_is_kept() {
    let (rules, beacon, key) = timelocked();
    let mut state = state(&rules);
    let commit = sealed_row(key, 3, VALIDATOR, &[(0, 1), (2, 3)]);
    let call = Call::CommitTimelockedWeights {
        netuid: NETUID,
        mechanism: 0,
        commit,
        reveal_round: 3,
        version: 4,
    };
    state.dispatch(&rules, BlockNumber(1), Origin::Signed(VALIDATOR), &call).unwrap();
    for round in 1..=100 {
        state.store_pulse(round, pulse(&beacon, round));
    }
    assert_eq!((state.pulses.len(), state.last_stored_round()), (PULSES_MAX, 100));
    assert!(state.pulses.contains_key(&3) && !state.pulses.contains_key(&4));
    assert!(state.rounds_waited_for().is_empty(), "it need not be asked for again");
    (1..=20).for_each(|block| state.begin_block(&rules, BlockNumber(block)));
    assert_eq!(state.neurons[1].weights, [(0, 21845), (2, 65535)]);
    state.store_pulse(101, pulse(&beacon, 101));
    assert!(!state.pulses.contains_key(&3), "nothing waits for it any more");
}

#[test]
fn a_timelocked_commitment_is_revealed_by_its_round() {
    let (rules, beacon, key) = timelocked();
    let mut state = state(&rules);
    let encrypted = seal_commit(SealTo { key, round: 4 }, b"hello", &[1; 32]).unwrap();
    let fields = vec![
        Data::Timelocked { encrypted, round: 4 },
        Data::Timelocked { encrypted: vec![0; 300], round: 5 },
    ];
    let call = Call::SetCommitment { netuid: NETUID, fields };
    state.dispatch(&rules, BlockNumber(1), Origin::Signed(MINER), &call).unwrap();
    assert_eq!(names(&mut state), ["TimelockCommitment"]);
    state.store_pulse(4, pulse(&beacon, 4));
    state.begin_block(&rules, BlockNumber(2));
    assert_eq!(names(&mut state), ["CommitmentRevealed"]);
    assert_eq!(state.revealed[&MINER], [Revealed { content: b"hello".to_vec(), block: 2 }]);
    state.store_pulse(5, pulse(&beacon, 5));
    state.begin_block(&rules, BlockNumber(3));
    let left = &state.commitments[&MINER].fields;
    assert_eq!(*left, [Data::RevealFailed { encrypted: vec![0; 300], round: 5 }]);
}

fn any_call() -> impl Strategy<Value = Call> {
    let key = (10u8..24).prop_map(|byte| Hotkey([byte; 32]));
    let netuid = prop_oneof![Just(NETUID), Just(0), any::<u16>()];
    prop_oneof![
        (netuid.clone(), key.clone(), any::<Option<u64>>())
            .prop_map(|(netuid, hotkey, limit)| Call::BurnedRegister { netuid, hotkey, limit }),
        (key.clone(), any::<u64>()).prop_map(|(hotkey, stake)| Call::Register { hotkey, stake }),
        (key, netuid.clone(), any::<u64>()).prop_map(|(hotkey, netuid, amount)| Call::AddStake {
            hotkey,
            netuid,
            amount
        }),
        (netuid.clone(), 0usize..200)
            .prop_map(|(netuid, length)| Call::SetCommitment { netuid, fields: raw(length) }),
        (
            netuid,
            0u8..2,
            prop::collection::vec(0u16..6, 0..6),
            prop::collection::vec(any::<u16>(), 0..6),
            5u64..8
        )
            .prop_map(|(netuid, mechanism, uids, weights, version_key)| {
                Call::SetWeights { netuid, mechanism, uids, weights, version_key }
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is called, money is not made, uids stay dense, and a refusal changes nothing.
    #[test]
    fn the_books_balance(
        calls in prop::collection::vec((10u8..24, any::<bool>(), any_call()), 1..60)
    ) {
        let rules = ChainRules { neurons_max: 5, ..rules() };
        let mut state = state(&rules);
        let money = |state: &State| -> u128 {
            let free = state.accounts.values().map(|account| u128::from(account.free));
            free.sum()
        };
        for (block, (who, is_root, call)) in (1..).zip(calls) {
            let block = BlockNumber(block);
            state.begin_block(&rules, block);
            let origin =
                if is_root { Origin::Root } else { Origin::Signed(Hotkey([who; 32])) };
            let before = state.clone();
            let outcome = state.dispatch(&rules, block, origin, &call);
            if outcome.is_err() {
                prop_assert_eq!(&before, &state, "{:?}", outcome);
            }
            prop_assert!(money(&state) <= money(&before));
            prop_assert!(state.neurons.len() <= 5);
            for (uid, neuron) in (0..).zip(&state.neurons) {
                prop_assert_eq!(state.uid(neuron.hotkey), Some(Uid(uid)));
                prop_assert!(neuron.weights.iter().all(|(to, _)| usize::from(*to) < 5));
            }
            let text = serde_json::to_string(&state).unwrap();
            state.take_events();
            prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state.clone());
        }
    }
}
