//! Single things that go wrong: each has the mildest consequence that is right.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use grail_neurons::neuron::{Neuron, NeuronError, Tick};
use grail_ports::events::Event;
use grail_ports::object_store::Buckets as _;
use grail_ports::signer::Signer as _;
use grail_protocol::checkpoint::{DELTA_FILE, WEIGHTS_FILE};
use grail_protocol::ids::BlockNumber;
use grail_protocol::keys;
use grail_protocol::rollout::{Body, RawRollouts, RolloutFile, SealedBody, commitment};
use grail_protocol::verdict::VerdictRecord;
use grail_services::checkpoint::CheckpointError;
use grail_services::context::opener_of;
use grail_services::mining::MiningError;
use grail_services::peers::AnnounceError;
use grail_testkit::{FakeChainConfig, FakeSigner};
use support::{
    MINER, OTHER_MINER, ROLLOUTS, STRANGER, TRAINER, VALIDATOR, World, hotkey, judgements, settle,
    window,
};

/// Publishes checkpoint 0 and lets the miner mine window 30.
async fn first_window(world: &World) -> (impl Neuron, impl Neuron, impl Neuron) {
    let (mut trainer, mut validator) = (world.trainer(), world.validator());
    let mut miner = world.miner(MINER);
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    settle(&mut trainer, world.chain.head()).await;
    let head = world.next_window();
    let log = settle(&mut miner, head).await;
    assert!(log.contains("uploaded 4 groups of window 30"), "{log}");
    (trainer, validator, miner)
}

#[tokio::test(start_paused = true)]
async fn a_validator_that_was_down_makes_up_for_what_it_can() {
    let world = World::new();
    let (_trainer, mut validator, mut miner) = first_window(&world).await;
    settle(&mut validator, world.chain.head()).await;
    let mut head = world.chain.head();
    for _ in 0..6 {
        head = world.next_window();
        settle(&mut miner, head).await;
    }
    let log = settle(&mut validator, head).await;
    // At the head of window 210 the windows 120, 150 and 180 are made up for; 30 to 90 are lost.
    assert!(log.contains("validated window 120, 150, 180"), "{log}");
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged.len(), 3);
    assert!(judged.values().all(|it| it.accepted == ROLLOUTS));
    assert!(!world.is_validated(window(90)) && world.is_validated(window(120)));
}

#[tokio::test(start_paused = true)]
async fn a_late_file_counts_as_absent() {
    let world = World::new();
    let (_trainer, mut validator, mut miner) = first_window(&world).await;
    let mut other = world.miner(OTHER_MINER);
    other.start().await.unwrap();
    settle(&mut other, world.chain.head()).await;
    // The same bytes again, but written after the deadline.
    let key = keys::rollout_file(hotkey(OTHER_MINER), window(30));
    let bytes = world.storage.peek(hotkey(OTHER_MINER), &key).unwrap();
    let head = world.next_window();
    world.storage.tamper(hotkey(OTHER_MINER), &key, bytes);
    settle(&mut validator, head).await;
    let events = world.take_events(VALIDATOR);
    let judged = judgements(&events);
    assert_eq!(judged.len(), 1, "only the file in time is judged: {judged:?}");
    assert_eq!(judged[&(window(30), hotkey(MINER))].accepted, ROLLOUTS);
    let active = |it: &Event| matches!(it, Event::WindowValidated { active: 1, judged: 1, .. });
    assert!(events.iter().any(active), "{events:?}");

    // Being late is no fault: the next file of the same miner counts.
    settle(&mut other, head).await;
    settle(&mut miner, head).await;
    let head = world.next_window();
    settle(&mut validator, head).await;
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged[&(window(60), hotkey(OTHER_MINER))].accepted, ROLLOUTS);
    assert!(world.weight(OTHER_MINER) > 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_miner_that_is_too_late_uploads_nothing() {
    let world = World::new();
    let (_trainer, _validator, mut miner) = first_window(&world).await;
    world.next_window();
    // 6 + 1 + 3 blocks are assumed to be needed; the average has since seen that a window takes
    // no time at all, so only the safety margin counts.
    let head = world.chain.advance_to(BlockNumber(88));
    let ticked = miner.tick(head).await.unwrap();
    assert_eq!(ticked, Tick::Done("skipped window 60: too late for a group".to_owned()));
    assert_eq!(miner.tick(head).await.unwrap(), Tick::Idle);
    let key = keys::rollout_file(hotkey(MINER), window(60));
    assert_eq!(world.storage.peek(hotkey(MINER), &key), None);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_checkpoint_is_refused_until_it_is_whole_again() {
    let world = World::new();
    let (mut trainer, mut validator, mut miner) = first_window(&world).await;
    let head = world.next_window();
    settle(&mut validator, head).await;
    let log = settle(&mut trainer, head).await;
    assert!(log.contains("published checkpoint 60"), "{log}");

    let key = keys::delta_file(window(60), DELTA_FILE);
    let whole = world.storage.peek(hotkey(TRAINER), &key).unwrap();
    let mut damaged = whole.to_vec();
    damaged[100] ^= 1;
    world.storage.tamper(hotkey(TRAINER), &key, damaged);
    let head = world.next_window();
    // Window 90 must use checkpoint 60; mining with the old one would be work for nothing.
    let error = miner.tick(head).await.unwrap_err();
    let expected = |error: &NeuronError| {
        matches!(
            error,
            NeuronError::Mining(MiningError::Checkpoint(CheckpointError::Damaged { .. }))
        )
    };
    assert!(expected(&error), "{error}");
    // Window 60 still uses checkpoint 0, which is in the cache and stays there.
    settle(&mut validator, head).await;
    assert!(world.is_validated(window(60)));

    world.storage.tamper(hotkey(TRAINER), &key, whole);
    let log = settle(&mut miner, head).await;
    assert!(log.contains("uploaded 4 groups of window 90"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_follows_the_chain_and_waits_for_a_missing_link() {
    let world = World::new();
    let (mut trainer, mut validator, mut miner) = first_window(&world).await;
    for _ in 0..3 {
        let head = world.next_window();
        settle(&mut miner, head).await;
        settle(&mut validator, head).await;
        settle(&mut trainer, head).await;
    }
    // Checkpoints 60, 90 and 120 are deltas; the one in the middle is lost.
    let bucket = world.storage.buckets(hotkey(TRAINER)).own();
    let key = keys::delta_file(window(90), DELTA_FILE);
    let whole = world.storage.peek(hotkey(TRAINER), &key).unwrap();
    bucket.delete(&key).await.unwrap();
    let head = world.next_window();
    let mut newcomer = world.miner(OTHER_MINER);
    newcomer.start().await.unwrap();
    let error = newcomer.tick(head).await.unwrap_err();
    let is_link = |error: &NeuronError| {
        matches!(
            error,
            NeuronError::Mining(MiningError::Checkpoint(CheckpointError::Missing { checkpoint, .. }))
                if *checkpoint == window(90)
        )
    };
    assert!(is_link(&error), "{error}");
    // Who was there all along needs the newest delta alone.
    let log = settle(&mut miner, head).await;
    assert!(log.contains("uploaded 4 groups of window 150"), "{log}");

    world.storage.tamper(hotkey(TRAINER), &key, whole);
    let log = settle(&mut newcomer, head).await;
    assert!(log.contains("uploaded 4 groups of window 150"), "{log}");
    let weights = |seed: u64| {
        let dir = world.context(seed).state_dir.join("checkpoints/checkpoint-120");
        std::fs::read(dir.join("model.safetensors")).unwrap()
    };
    assert!(weights(OTHER_MINER) == weights(MINER), "both ways lead to the same bytes");
    let published = world.context(TRAINER).state_dir.join("training/exports/checkpoint-120");
    assert!(std::fs::read(published.join("model.safetensors")).unwrap() == weights(MINER));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_somebody_else_signed_is_refused() {
    let world = World::new();
    let (_trainer, _validator, _miner) = first_window(&world).await;
    let key = keys::checkpoint_file(window(0), keys::MANIFEST_SIGNATURE_FILE);
    world.storage.tamper(hotkey(TRAINER), &key, Bytes::from("00".repeat(64)));
    let mut newcomer = world.miner(OTHER_MINER);
    newcomer.start().await.unwrap();
    let error = newcomer.tick(world.chain.head()).await.unwrap_err();
    assert!(error.to_string().contains("not the trainer's"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_trainer_that_changes_its_read_key_is_followed_by_the_next_window() {
    let world = World::new();
    let (_trainer, mut validator, mut miner) = first_window(&world).await;
    world.storage.rotate_key(hotkey(TRAINER));
    let mut trainer = world.trainer();
    trainer.start().await.unwrap();
    let head = world.next_window();
    let log = settle(&mut miner, head).await;
    assert!(log.contains("uploaded 4 groups of window 60"), "{log}");
    let log = settle(&mut validator, head).await;
    assert!(log.contains("validated window 30"), "{log}");
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged[&(window(30), hotkey(MINER))].accepted, ROLLOUTS);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_is_down_costs_time_and_nothing_else() {
    let world = World::new();
    let (mut trainer, mut validator, mut miner) = first_window(&world).await;
    let head = world.next_window();
    world.chain.set_down(true);
    assert!(matches!(miner.tick(head).await, Err(NeuronError::Mining(_))));
    assert!(matches!(validator.tick(head).await, Err(NeuronError::Validation(_))));
    assert!(matches!(trainer.tick(head).await, Err(NeuronError::Training(_))));
    world.chain.set_down(false);
    settle(&mut miner, head).await;
    settle(&mut validator, head).await;
    settle(&mut trainer, head).await;
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged[&(window(30), hotkey(MINER))].accepted, ROLLOUTS);
    assert_eq!(world.ready_markers().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn refused_weights_are_set_again_in_the_same_interval() {
    let world = World::new();
    let (_trainer, mut validator, mut miner) = first_window(&world).await;
    for _ in 0..2 {
        world.chain.refuse_next_weights("SettingWeightsTooFast");
    }
    let head = world.next_window();
    settle(&mut miner, head).await;
    settle(&mut validator, head).await;
    assert_eq!(world.chain.submissions(), [], "one window is still warm-up");
    let head = world.next_window();
    validator.tick(head).await.unwrap();
    validator.tick(world.chain.advance(1)).await.unwrap();
    let failed = |it: &Event| matches!(it, Event::WeightsFailed { .. });
    assert_eq!(world.take_events(VALIDATOR).iter().filter(|it| failed(it)).count(), 2);
    assert!(validator.alarm().is_some_and(|it| it.contains("SettingWeightsTooFast")));
    for _ in 0..3 {
        validator.tick(world.chain.advance(1)).await.unwrap();
    }
    // After a pause of one block and one of two.
    assert_eq!(world.chain.submissions().len(), 1);
    assert_eq!(world.chain.submissions()[0].block, BlockNumber(94));
    assert_eq!(validator.alarm(), None);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_fails_blames_nobody() {
    let world = World::new();
    let (_trainer, mut validator, mut miner) = first_window(&world).await;
    let head = world.next_window();
    settle(&mut miner, head).await;
    // Nothing of window 30 can be evaluated; the validator tries three times, then goes on.
    world.environment.break_everything(true);
    for _ in 0..2 {
        let ticked = validator.tick(world.chain.advance(1)).await.unwrap();
        assert!(matches!(ticked, Tick::Waiting(_)), "{ticked:?}");
    }
    let ticked = validator.tick(world.chain.advance(1)).await.unwrap();
    assert_eq!(ticked, Tick::Done("validated window 30".to_owned()));
    assert!(judgements(&world.take_events(VALIDATOR)).is_empty());

    world.environment.break_everything(false);
    settle(&mut validator, world.next_window()).await;
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged[&(window(60), hotkey(MINER))].accepted, ROLLOUTS);
    // It was there in both windows, so the window that nobody could judge counts like the other.
    let share = f64::from(2 * ROLLOUTS) / 60_000.0;
    assert!((world.weight(MINER) / (0.1 * share.powi(4)) - 1.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn a_beacon_that_is_late_is_waited_for() {
    let world = World::new();
    let (_trainer, _validator, mut miner) = first_window(&world).await;
    // The window's first block is there, the round after it is not.
    let head = world.chain.advance_to(BlockNumber(60));
    let ticked = miner.tick(head).await.unwrap();
    assert!(matches!(&ticked, Tick::Waiting(reason) if reason.contains("beacon")), "{ticked:?}");
    world.chain.pass_ms(4000);
    assert!(matches!(miner.tick(head).await.unwrap(), Tick::Done(_)));
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_a_file_before_its_round_and_a_validator_waits_for_it() {
    // Blocks come every 12 s although the chain aims at 13: window 30 ends 30 s before its seal.
    let aimed_block_time_ms = Some(13_000);
    let world = World::on(FakeChainConfig { aimed_block_time_ms, ..FakeChainConfig::default() });
    let (_trainer, mut validator, mut other) = first_window(&world).await;
    let key = keys::rollout_file(hotkey(MINER), window(30));
    let bytes = world.storage.peek(hotkey(MINER), &key).unwrap();
    let file = RolloutFile::decode(&bytes).unwrap();
    assert!(matches!(file.body, Body::Sealed(_)), "{file:?}");
    let (chain, beacon) = (world.chain.handle(hotkey(VALIDATOR)), &*world.beacon);
    assert_eq!(opener_of(&*chain, beacon, window(30)).await, Ok(None));

    let head = world.next_window();
    settle(&mut other, head).await;
    for _ in 0..5 {
        // More often than a validator tries miners that it cannot judge: nothing was tried.
        let ticked = validator.tick(head).await.unwrap();
        assert!(
            matches!(&ticked, Tick::Waiting(reason) if reason.contains("opens the window's files")),
            "{ticked:?}"
        );
    }
    assert_eq!(judgements(&world.take_events(VALIDATOR)).len(), 0);
    settle(&mut validator, world.chain.advance(2)).await;
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged[&(window(30), hotkey(MINER))].accepted, ROLLOUTS);
    let opener = opener_of(&*chain, beacon, window(30)).await.unwrap().unwrap();
    let opened = RawRollouts::new(&bytes).unwrap().decode().unwrap().verify_signature().unwrap();
    assert_eq!(opened.open(Some(&opener)).unwrap().groups().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn strangers_are_told_what_to_do() {
    let world = World::new();
    let mut stranger = world.miner(STRANGER);
    let error = stranger.start().await.unwrap_err();
    assert!(error.is_final());
    assert!(matches!(error, NeuronError::Announce(AnnounceError::NotRegistered { .. })));

    // A second trainer, whose uid is not 0.
    let mut usurper = world.trainer_as(MINER);
    usurper.start().await.unwrap();
    let error = usurper.tick(world.chain.head()).await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("uid 0"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn work_that_is_asked_to_stop_stops() {
    let world = World::new();
    let (_trainer, mut validator, mut miner) = first_window(&world).await;
    let head = world.next_window();
    for neuron in [&mut miner as &mut dyn Neuron, &mut validator] {
        neuron.context().stop.stop();
        let error = neuron.tick(head).await.unwrap_err();
        assert!(error.is_stop(), "{error}");
    }
    // A new life mines and judges what the old one did not.
    let (mut miner, mut validator) = (world.miner(MINER), world.validator());
    assert!(settle(&mut miner, head).await.contains("uploaded 4 groups of window 60"));
    assert!(settle(&mut validator, head).await.contains("validated window 30"));
}

/// Judges a file that lies in the bucket of the other miner; returns the reason of the rejection.
async fn rejection_of(forge: impl FnOnce(&World) -> Vec<u8>) -> Option<String> {
    let world = World::new();
    let (_trainer, mut validator, _miner) = first_window(&world).await;
    let mut hostile = world.miner(OTHER_MINER);
    hostile.start().await.unwrap();
    let key = keys::rollout_file(hotkey(OTHER_MINER), window(30));
    world.storage.tamper(hotkey(OTHER_MINER), &key, forge(&world));
    settle(&mut validator, world.next_window()).await;
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged[&(window(30), hotkey(MINER))].accepted, ROLLOUTS);
    let hostile = &judged[&(window(30), hotkey(OTHER_MINER))];
    assert_eq!(hostile.accepted, 0);
    let key = keys::verdict(window(30), hotkey(OTHER_MINER));
    let verdict = world.storage.peek(hotkey(VALIDATOR), &key).unwrap();
    let verdict = VerdictRecord::from_json(&verdict).unwrap();
    assert_eq!(verdict.rejected.keys().next(), hostile.rejection.as_ref());
    assert!(verdict.evidence.is_some());
    hostile.rejection.clone()
}

#[tokio::test(start_paused = true)]
async fn hostile_files_are_rejected_for_what_they_are() {
    let honest = |world: &World| {
        let key = keys::rollout_file(hotkey(MINER), window(30));
        world.storage.peek(hotkey(MINER), &key).unwrap().to_vec()
    };
    let check =
        |found: Option<String>, expected: &str| assert_eq!(found.as_deref(), Some(expected));
    check(rejection_of(|_| Vec::new()).await, "malformed");
    check(rejection_of(|_| vec![0xff; 5000]).await, "malformed");
    check(rejection_of(honest).await, "hotkey_mismatch");
    let truncated = |world: &World| {
        let mut bytes = honest(world);
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    check(rejection_of(truncated).await, "malformed");
    // Another miner's work under the own name, without a signature of its own.
    let renamed = |world: &World| {
        let mut file = RolloutFile::decode(&honest(world)).unwrap();
        file.header.hotkey = hotkey(OTHER_MINER);
        file.encode().unwrap()
    };
    check(rejection_of(renamed).await, "bad_signature");
    // Signed groups in the clear, and a body that no round opens.
    let body = |body: fn() -> Body| {
        move |world: &World| {
            let mut file = RolloutFile::decode(&honest(world)).unwrap();
            file.header.hotkey = hotkey(OTHER_MINER);
            file.signature =
                FakeSigner::new(OTHER_MINER).sign(&commitment::signed_message(&file.root));
            if let (Body::Sealed(theirs), Body::Sealed(ours)) = (&file.body, &mut body()) {
                ours.round = theirs.round;
                file.body = Body::Sealed(ours.clone());
            } else {
                file.body = body();
            }
            file.encode().unwrap()
        }
    };
    check(rejection_of(body(|| Body::Open(Vec::new()))).await, "wrong_seal");
    let noise = || Body::Sealed(SealedBody { round: 0, ciphertext: vec![7; 300] });
    check(rejection_of(body(noise)).await, "seal_broken");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_not_marked_ready_at_the_very_end_of_a_window() {
    let world = World::new();
    let mut trainer = world.trainer();
    trainer.start().await.unwrap();
    let ticked = trainer.tick(world.chain.advance_to(BlockNumber(28))).await.unwrap();
    assert!(matches!(&ticked, Tick::Waiting(_)), "{ticked:?}");
    assert!(world.ready_markers().is_empty());
    let ticked = trainer.tick(world.chain.advance_to(BlockNumber(30))).await.unwrap();
    assert_eq!(ticked, Tick::Done("published checkpoint 0".to_owned()));
    let marker = keys::ReadyMarker { checkpoint: window(0), ready: window(30) };
    assert_eq!(world.ready_markers(), [marker]);
}

#[tokio::test(start_paused = true)]
async fn a_trainer_that_lost_its_folder_goes_on_from_its_bucket() {
    let world = World::new();
    let (mut trainer, mut validator, mut miner) = first_window(&world).await;
    let head = world.next_window();
    settle(&mut validator, head).await;
    settle(&mut trainer, head).await;
    settle(&mut miner, head).await;
    let before = world.storage.keys(hotkey(TRAINER));
    drop(trainer);
    std::fs::remove_dir_all(world.context(TRAINER).state_dir).unwrap();

    let mut trainer = world.trainer();
    trainer.start().await.unwrap();
    settle(&mut trainer, head).await;
    assert_eq!(world.storage.keys(hotkey(TRAINER)), before, "nothing is published twice");
    let head = world.next_window();
    settle(&mut validator, head).await;
    let log = settle(&mut trainer, head).await;
    assert!(log.contains("published checkpoint 90"), "{log}");
    let ratios: Vec<f64> = world
        .take_events(TRAINER)
        .iter()
        .filter_map(|event| match event {
            Event::WindowTrained { first_log_ratio_max, .. } => Some(*first_log_ratio_max),
            _ => None,
        })
        .collect();
    assert!(ratios.len() == 2 && ratios[1] > 0.0, "trained on from checkpoint 60: {ratios:?}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_base_costs_the_delta_and_nothing_else() {
    let world = World::new();
    let (mut trainer, mut validator, _) = first_window(&world).await;
    let base = world.context(TRAINER).state_dir.join("training/exports/checkpoint-0");
    std::fs::write(base.join(WEIGHTS_FILE), b"damaged").unwrap();
    let head = world.next_window();
    settle(&mut validator, head).await;
    let log = settle(&mut trainer, head).await;
    assert!(log.contains("published checkpoint 60"), "{log}");
    let keys = world.storage.keys(hotkey(TRAINER));
    assert!(keys.contains(&keys::checkpoint_file(window(60), WEIGHTS_FILE)), "{keys:?}");
    assert!(!keys.contains(&keys::delta_file(window(60), DELTA_FILE)), "{keys:?}");
}
