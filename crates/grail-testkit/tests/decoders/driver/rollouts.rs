//! Rollout files: as they come, and with header, root and signature renewed around damaged groups.

use grail_ports::signer::Signer;
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::ids::{Digest, Netuid, Window};
use grail_protocol::prover::sign_open;
use grail_protocol::rollout::{Body, EnvironmentFingerprint, FileHeader, RolloutFile};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::verifier::{ExpectedContext, ExpectedSeal, Rejection, check_structure};

use super::{SIGNER, hotkey};

/// What a verifier expects here: 100 tokens, of which 99 ends a completion of at most 3.
pub fn expected(numerics: &str, seal: ExpectedSeal) -> ExpectedContext {
    ExpectedContext {
        header: FileHeader {
            network: "local".to_owned(),
            netuid: Netuid(81),
            window: Window::from_start(9_000).expect("a multiple of 30"),
            hotkey: hotkey(),
            checkpoint: Digest([0xc0; 32]),
            environment: EnvironmentFingerprint::new("arithmetic", "{}"),
            sampler: SamplerParams { temperature: 0.7, max_new_tokens: 3 },
            tokenizer: Digest([0x70; 32]),
            numerics: numerics.to_owned(),
            rollouts_per_group: ROLLOUTS_PER_GROUP,
        },
        seal,
        vocab_size: 100,
        eos_token_ids: vec![99],
        sequence_tokens_max: 6,
        accepts_other_numerics: true,
    }
}

pub fn drive(data: &[u8]) -> bool {
    let untouched = check_structure(data, &expected("exact-1", ExpectedSeal::Open));
    let Ok(file) = RolloutFile::decode(data) else {
        assert!(untouched.is_err());
        return false;
    };
    let again = file.encode().expect("it was read, so it fits");
    assert!(again == data, "a rollout file has a second encoding");

    let (Body::Open(groups), numerics) = (file.body, file.header.numerics) else { return true };
    // The right header around these groups, and everything signed: only they can be at fault.
    let expected = expected(&numerics, ExpectedSeal::Open);
    let bytes = sign_open(expected.header.clone(), groups.clone(), &|message| SIGNER.sign(message))
        .expect("the groups were read under this numerics");
    match check_structure(&bytes, &expected) {
        Ok(structured) => assert!(structured.groups() == groups, "groups changed on the way"),
        Err(rejection) => assert!(is_about_groups(&rejection), "{rejection}"),
    }
    true
}

/// Whether the groups of a file can be to blame.
pub fn is_about_groups(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::GroupsNotContiguous { .. }
            | Rejection::WrongGroupSize { .. }
            | Rejection::UnknownToken { .. }
            | Rejection::BadTermination { .. }
            | Rejection::SequenceTooLong { .. }
    )
}
