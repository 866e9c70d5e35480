//! An honest file passes; each way of cheating is named for what it is.

mod fixtures;

use std::collections::BTreeSet;

use fixtures::{
    EOS, Wallet, context, facts, groups, header, open_context, opener, quicknet, sealed, unsealed,
};
use grail_protocol::ids::{Digest, Hotkey, Netuid};
use grail_protocol::rollout::{
    Body, FileHeader, Group, Proof, RolloutFile, SealedBody, commitment,
};
use grail_protocol::sketch::{Sketch, sketches_of};
use grail_protocol::timelock::{self, RoundOpener, SealTo};
use grail_protocol::verifier::{
    GroupFacts, Rejection, TerminationFault, UnusableFacts, Verdict, check_group, check_prompt,
    check_structure,
};

/// Something done to a value before it is checked.
type Change<'a, T> = &'a dyn Fn(&mut T);

/// Seals changed content with the miner's own key and returns why the verifier refuses it.
fn refused(change: impl FnOnce(&mut FileHeader, &mut Vec<Group>)) -> Rejection {
    let wallet = Wallet::new(1);
    let (mut header, mut groups) = (header(wallet.hotkey()), groups(2));
    change(&mut header, &mut groups);
    let bytes = sealed(&wallet, header, groups);
    check_structure(&bytes, &context(wallet.hotkey())).expect_err("the change breaks a rule")
}

/// Returns the verdict on the second group when the verifier computed something else.
fn judged(change: impl FnOnce(&mut GroupFacts)) -> Rejection {
    let group = &groups(2)[1];
    let mut facts = facts(group);
    change(&mut facts);
    check_group(group, &facts).expect("the facts fit").rejection().expect("a rule is broken")
}

#[test]
fn honest_work_is_accepted() {
    let wallet = Wallet::new(1);
    let bytes = sealed(&wallet, header(wallet.hotkey()), groups(3));
    let file = check_structure(&bytes, &context(wallet.hotkey())).unwrap();
    for group in file.groups() {
        assert_eq!(check_group(group, &facts(group)), Ok(Verdict::Accepted));
    }
}

#[test]
fn a_header_of_another_place_is_refused_by_its_field() {
    let cases: [(&str, Change<FileHeader>); 8] = [
        ("network_mismatch", &|header| header.network = "finney".to_owned()),
        ("netuid_mismatch", &|header| header.netuid = Netuid(1)),
        ("window_mismatch", &|header| header.window = header.window.next()),
        ("checkpoint_mismatch", &|header| header.checkpoint = Digest([0; 32])),
        ("environment_mismatch", &|header| header.environment.params = Digest([0; 32])),
        ("sampler_mismatch", &|header| header.sampler.temperature = 0.700_000_05),
        ("tokenizer_mismatch", &|header| header.tokenizer = Digest([0; 32])),
        ("group_size_mismatch", &|header| header.rollouts_per_group = 8),
    ];
    for (code, change) in cases {
        let rejection = refused(|header, _| change(header));
        assert_eq!(rejection.code(), code, "{rejection}");
    }
    // Another engine has another kind of proof.
    let rejection = refused(|header, groups| {
        header.numerics = "vllm-0.9".to_owned();
        for rollout in groups.iter_mut().flat_map(|group| &mut group.rollouts) {
            rollout.proof = Proof::Tolerant(vec![Sketch(7); sketches_of(rollout.tokens.len())]);
        }
    });
    assert_eq!(rejection.code(), "numerics_mismatch", "{rejection}");
}

#[test]
fn a_copied_file_is_refused_by_its_hotkey_and_a_resigned_one_by_its_prompt() {
    let (victim, thief) = (Wallet::new(1), Wallet::new(2));
    let verbatim = sealed(&victim, header(victim.hotkey()), groups(2));
    let rejection = check_structure(&verbatim, &context(thief.hotkey())).unwrap_err();
    assert_eq!(rejection.code(), "hotkey_mismatch");
    assert_eq!(
        rejection.to_string(),
        format!("made for hotkey {}, expected {}", victim.hotkey(), thief.hotkey())
    );

    let resigned = sealed(&thief, header(thief.hotkey()), groups(2));
    let file = check_structure(&resigned, &context(thief.hotkey())).unwrap();
    let verdict = check_prompt(&file.groups()[0], &[10, 11, 42]);
    let Verdict::Rejected(rejection) = verdict else { panic!("the prompt is another one") };
    assert_eq!(rejection.code(), "prompt_mismatch");
    assert_eq!(
        rejection,
        Rejection::PromptMismatch { group: 0, position: 2, expected: Some(42), found: Some(0) }
    );
}

#[test]
fn content_that_its_miner_did_not_sign_is_refused() {
    let (miner, other) = (Wallet::new(1), Wallet::new(2));
    let context = context(miner.hotkey());

    let forged = sealed(&other, header(miner.hotkey()), groups(1));
    assert_eq!(check_structure(&forged, &context).unwrap_err().code(), "bad_signature");

    let mut file =
        RolloutFile::decode(&unsealed(&miner, header(miner.hotkey()), groups(1))).unwrap();
    let Body::Open(groups) = &mut file.body else { panic!("it is open") };
    groups[0].rollouts[0].reward = 1.0;
    let (changed, open) = (file.encode().unwrap(), open_context(miner.hotkey()));
    assert_eq!(check_structure(&changed, &open).unwrap_err().code(), "root_mismatch");

    // A key that is no point of the curve.
    let nobody = Hotkey([0xff; 32]);
    let bytes = sealed(&other, header(nobody), fixtures::groups(1));
    let rejection = check_structure(&bytes, &fixtures::context(nobody)).unwrap_err();
    assert_eq!(rejection.code(), "bad_signature");
}

#[test]
fn a_seal_must_be_there_be_of_the_round_and_open() {
    let miner = Wallet::new(1);
    let (context, open) = (context(miner.hotkey()), open_context(miner.hotkey()));
    let clear = unsealed(&miner, header(miner.hotkey()), groups(1));
    let shut = sealed(&miner, header(miner.hotkey()), groups(1));
    let rejection = check_structure(&clear, &context).unwrap_err();
    assert_eq!(rejection.code(), "wrong_seal");
    assert_eq!(rejection.to_string(), "not sealed, expected sealed to beacon round 1000");
    let rejection = check_structure(&shut, &open).unwrap_err();
    assert_eq!(rejection, Rejection::WrongSeal { expected: None, found: Some(1_000) });
    check_structure(&clear, &open).unwrap();

    // Sealed to a later round under the right number: nothing that the round's signature opens.
    let mut file = RolloutFile::decode(&shut).unwrap();
    let content = grail_protocol::rollout::encoding::encode_groups("exact-1", &groups(1)).unwrap();
    let later = SealTo { round: 1_001, ..quicknet() };
    let ciphertext = timelock::seal(later, content, &[1; 32]).unwrap();
    file.body = Body::Sealed(SealedBody { round: 1_000, ciphertext });
    let rejection = check_structure(&file.encode().unwrap(), &context).unwrap_err();
    assert_eq!(rejection.code(), "seal_broken");
    assert!(rejection.to_string().contains("sealed to another round"), "{rejection}");
}

/// Nobody can read a rival's body in time, but anybody can carry it away.
#[test]
fn a_rivals_sealed_body_under_the_own_name_has_another_root() {
    let (victim, thief) = (Wallet::new(1), Wallet::new(2));
    let mut file =
        RolloutFile::decode(&sealed(&victim, header(victim.hotkey()), groups(2))).unwrap();
    file.header = header(thief.hotkey());
    file.signature = thief.sign(&commitment::signed_message(&file.root));
    let rejection = check_structure(&file.encode().unwrap(), &context(thief.hotkey())).unwrap_err();
    assert_eq!(rejection.code(), "root_mismatch");
}

/// A file of somebody else, or of another window, costs its verifier no opening.
#[test]
fn nothing_is_opened_before_the_signature_holds() {
    let (miner, other) = (Wallet::new(1), Wallet::new(2));
    let mut file = RolloutFile::decode(&sealed(&miner, header(miner.hotkey()), groups(1))).unwrap();
    // Opening this would be `seal_broken`.
    file.body = Body::Sealed(SealedBody { round: 1_000, ciphertext: vec![7; 200] });
    file.signature = other.sign(b"something");
    let bytes = file.encode().unwrap();
    let context = context(miner.hotkey());
    assert_eq!(check_structure(&bytes, &context).unwrap_err().code(), "bad_signature");
    let mut elsewhere = context.clone();
    elsewhere.header.window = elsewhere.header.window.next();
    assert_eq!(check_structure(&bytes, &elsewhere).unwrap_err().code(), "window_mismatch");
    let Ok(later) = RoundOpener::new(quicknet().key, 1_001, fixtures::signature_1000()) else {
        assert_eq!(opener().round(), 1_000, "the signature fits its own round alone");
        return;
    };
    panic!("{later:?} opens a round that it does not belong to");
}

#[test]
fn a_malformed_file_is_refused_with_its_error() {
    let wallet = Wallet::new(1);
    let rejection = check_structure(b"not a file", &context(wallet.hotkey())).unwrap_err();
    assert_eq!(rejection.code(), "malformed");
    assert!(rejection.to_string().starts_with("not a rollout file: "), "{rejection}");
}

#[test]
fn skipped_groups_and_rollouts_are_refused() {
    let skipped = refused(|_, groups| groups[1].index = 2);
    assert_eq!(skipped, Rejection::GroupsNotContiguous { position: 1, found: 2 });
    let doubled = refused(|_, groups| groups[1].index = 0);
    assert_eq!(doubled, Rejection::GroupsNotContiguous { position: 1, found: 0 });
    let short = refused(|_, groups| groups[1].rollouts.truncate(15));
    assert_eq!(short, Rejection::WrongGroupSize { group: 1, expected: 16, found: 15 });
}

#[test]
fn tokens_and_lengths_beyond_the_model_are_refused() {
    let unknown = refused(|_, groups| groups[1].rollouts[2].tokens[0] = 100);
    assert_eq!(unknown.code(), "unknown_token");
    let unknown = refused(|_, groups| groups[1].prompt[1] = u32::MAX);
    assert!(matches!(unknown, Rejection::UnknownToken { rollout: None, position: 1, .. }));
    let long = refused(|_, groups| groups[1].prompt.push(1));
    assert_eq!(long, Rejection::SequenceTooLong { group: 1, rollout: 1, tokens: 7, max: 6 });
}

#[test]
fn completions_must_end_where_the_race_ends_them() {
    // The limit is 3 tokens; `EOS` ends.
    for (tokens, fault) in [
        (vec![], TerminationFault::StopsEarly),
        (vec![1], TerminationFault::StopsEarly),
        (vec![1, 2], TerminationFault::StopsEarly),
        (vec![EOS, EOS], TerminationFault::GoesOn { end: 0 }),
        (vec![1, EOS, 2], TerminationFault::GoesOn { end: 1 }),
        (vec![1, 2, 3, EOS], TerminationFault::TooLong),
        (vec![1, 2, 3, 4], TerminationFault::TooLong),
    ] {
        let rejection = refused(|_, groups| groups[1].rollouts[5].tokens = tokens.clone());
        let Rejection::BadTermination { group: 1, rollout: 5, fault: found, .. } = rejection else {
            panic!("{tokens:?}: {rejection}");
        };
        assert_eq!(found, fault, "{tokens:?}");
        assert_eq!(rejection.code(), "bad_termination");
    }
    let wallet = Wallet::new(1);
    for tokens in [vec![EOS], vec![1, 2, EOS], vec![1, 2, 3]] {
        let mut groups = groups(1);
        groups[0].rollouts[5].tokens = tokens;
        let bytes = sealed(&wallet, header(wallet.hotkey()), groups);
        check_structure(&bytes, &context(wallet.hotkey())).unwrap();
    }
}

#[test]
fn other_prompts_are_refused_at_the_first_difference() {
    let group = &groups(1)[0];
    for (expected, position) in
        [(vec![10, 11, 1], 2), (vec![10, 11], 2), (vec![10, 11, 0, 5], 3), (vec![], 0)]
    {
        let rejection = check_prompt(group, &expected).rejection().unwrap();
        let Rejection::PromptMismatch { position: found, .. } = rejection else {
            panic!("{rejection}");
        };
        assert_eq!(found, position, "{expected:?}");
    }
}

#[test]
fn noisy_weights_free_sampling_and_forged_rewards_have_their_own_names() {
    let noisy = judged(|facts| {
        // Other weights change everything that follows; the hidden states are named.
        facts.rollouts[9].score.hidden_digest = Digest([0; 32]);
        facts.rollouts[0].score.winners[0] = 50;
        facts.rollouts[0].evaluation.reward = 0.25;
    });
    assert_eq!(noisy.code(), "hidden_state_mismatch");

    let free = judged(|facts| {
        facts.rollouts[4].score.winners[1] = 50;
        facts.rollouts[4].score.margins[1] = 0.75;
        facts.rollouts[0].evaluation.reward = 0.25;
    });
    assert_eq!(
        free,
        Rejection::RaceLost {
            group: 1,
            rollout: 4,
            position: 1,
            claimed: EOS,
            winner: 50,
            margin: 0.75
        }
    );
    assert_eq!(
        free.to_string(),
        "group 1, rollout 4: token 99 at position 1 was not sampled: token 50 wins by 0.75 nats"
    );

    let forged = judged(|facts| facts.rollouts[2].evaluation.reward = 0.1);
    assert_eq!(forged.code(), "reward_mismatch");
    let forged = judged(|facts| facts.rollouts[3].evaluation.success = true);
    assert!(matches!(forged, Rejection::RewardMismatch { rollout: 3, success: true, .. }));

    let wrong_prompt = judged(|facts| facts.prompt[0] = 9);
    assert_eq!(wrong_prompt.code(), "prompt_mismatch");
}

#[test]
fn our_own_mistakes_never_become_verdicts() {
    let group = &groups(1)[0];
    let changes: [Change<GroupFacts>; 4] = [
        &|facts| facts.rollouts.truncate(15),
        &|facts| facts.rollouts[0].score.winners.push(1),
        &|facts| facts.rollouts[0].score.margins.clear(),
        &|facts| facts.rollouts[0].evaluation.reward = f32::NAN,
    ];
    for change in changes {
        let mut facts = facts(group);
        change(&mut facts);
        let error: UnusableFacts = check_group(group, &facts).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn codes_are_distinct_and_explanations_complete() {
    let rejections = [
        refused(|header, _| header.netuid = Netuid(1)),
        refused(|_, groups| groups[1].index = 2),
        refused(|_, groups| groups[1].rollouts.truncate(15)),
        refused(|_, groups| groups[1].rollouts[2].tokens[0] = 100),
        refused(|_, groups| groups[1].prompt.push(1)),
        refused(|_, groups| groups[1].rollouts[5].tokens.truncate(1)),
        judged(|facts| facts.prompt.push(1)),
        judged(|facts| facts.rollouts[0].score.hidden_digest = Digest([0; 32])),
        judged(|facts| facts.rollouts[0].score.winners[0] = 1),
        judged(|facts| facts.rollouts[0].evaluation.reward = 9.0),
    ];
    let codes: BTreeSet<&str> = rejections.iter().map(Rejection::code).collect();
    assert_eq!(codes.len(), rejections.len());
    for rejection in &rejections {
        let text = rejection.to_string();
        assert!(text.chars().next().is_some_and(char::is_lowercase), "{text}");
        assert!(!text.ends_with('.'), "{text}");
    }
}
