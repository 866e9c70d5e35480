//! What each reason means for the miner, and what to do about it.

/// A reason in plain words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What was found, and what can have caused it.
    pub meaning: &'static str,
    /// What the miner should do.
    pub next_step: &'static str,
}

const OTHER_RULES: &str = "load the newest checkpoint that was READY before the window, with its metadata.json, and mine \
     with exactly what it says";

/// Returns what the reason `code` means; nothing for a code of another version.
pub fn on(code: &str) -> Option<Advice> {
    let (meaning, next_step) = match code {
        "malformed" => (
            "the bytes are not a whole rollout file: they were cut or changed on the way, or another \
             version wrote them",
            "upload exactly the bytes that were sealed, read the object back after the upload, and run \
             the version of the subnet",
        ),
        "network_mismatch" | "netuid_mismatch" => (
            "the file was made for another network or subnet",
            "check network and netuid in the miner's configuration",
        ),
        "window_mismatch" => (
            "the file was made for another window than the one that its name says",
            "mine the running window and upload under its key; an earlier file cannot be used again",
        ),
        "hotkey_mismatch" => (
            "the file names another hotkey than the owner of the bucket",
            "upload to the bucket that the file's own hotkey committed to the chain; a copied file is \
             worth nothing to anybody else",
        ),
        "checkpoint_mismatch" => (
            "the rollouts were made with another checkpoint than the one for this window",
            OTHER_RULES,
        ),
        "environment_mismatch" | "sampler_mismatch" => {
            ("the problems or the sampling are not those of the checkpoint's metadata", OTHER_RULES)
        }
        "tokenizer_mismatch" => {
            ("the tokenizer is not the checkpoint's; token ids mean something else", OTHER_RULES)
        }
        "numerics_mismatch" => (
            "the engine's numeric contract is one that the validator does not accept here",
            "mine with an engine under `exact-1`, or ask the validator for a calibration of yours",
        ),
        "group_size_mismatch" | "wrong_group_size" => (
            "a group does not have the number of rollouts that the protocol asks for",
            "finish whole groups; leave an unfinished last group out",
        ),
        "wrong_seal" => (
            "the body is not sealed to the beacon round of this window's deadline",
            "seal to the first round after 30 block times from the timestamp of the window's first \
             block, and check the block time and beacon that the miner uses",
        ),
        "seal_broken" => (
            "the sealed body does not open with its round's signature: the ciphertext is damaged, or \
             was made for another beacon",
            "open your own file with `grail verify` after the round is out; if it opens there, the \
             upload changed it",
        ),
        "root_mismatch" => (
            "the content is not the one whose root was signed: it was changed, or taken from somebody \
             else's file",
            "sign after the last change, and upload what was signed",
        ),
        "bad_signature" => (
            "the hotkey named in the header did not sign the root",
            "sign with the hotkey that the header names; check which wallet the miner uses",
        ),
        "groups_not_contiguous" => (
            "group indices must be 0, 1, 2 and so on: leaving out a group would let a miner pick its \
             best ones",
            "keep every group that was started before the deadline, in order, and leave out only \
             the end",
        ),
        "unknown_token" => (
            "a token id is outside of the model's vocabulary, so the model cannot have drawn it",
            "check that tokens were written as ids of the checkpoint's tokenizer",
        ),
        "sequence_too_long" => (
            "prompt and completion together exceed what the model can attend to",
            "stop at the token limit of the checkpoint's metadata",
        ),
        "bad_termination" => (
            "a completion goes on after its end token, or stops before one without having the full \
             length",
            "end at the first end token of the model, else at exactly max_new_tokens",
        ),
        "prompt_mismatch" => (
            "the prompt is not the one of this miner's problem in this window; that is how a copied \
             rollout looks",
            "derive the problem from the window's randomness, your hotkey and the group index, and \
             render it with the checkpoint's chat template",
        ),
        "hidden_state_mismatch" => (
            "the same tokens give other hidden states: other weights, another precision, a stale \
             checkpoint or an engine that is not bit-exact",
            "compare `grail model show` with the checkpoint digest of the file; if they agree, run \
             `grail verify` on another machine to find out which of the two computes wrongly",
        ),
        "race_lost" => (
            "a token is not the one that the published race draws: it was sampled with another \
             temperature, key or mask, or edited afterwards",
            "draw every token by the race under the key of its rollout, over the whole vocabulary",
        ),
        "margin_veto" => (
            "a token lost its race by more than any honest difference between engines explains",
            "draw every token by the race under the key of its rollout; if you do, measure your engine \
             against the reference with `grail lab calibrate`",
        ),
        "soft_hits_exceeded" => (
            "more tokens lost their races by a noticeable margin than honest engines of this kind \
             lose",
            "check temperature, weights and precision of your engine, and measure it against the \
             reference with `grail lab calibrate`",
        ),
        "margin_sum_exceeded" => (
            "the margins of this rollout add up to more than those of any honest one of this engine",
            "check temperature, weights and precision of your engine, and measure it against the \
             reference with `grail lab calibrate`",
        ),
        "sketch_sum_exceeded" => (
            "the sketches of the hidden states are further from the checkpoint's than those of any \
             honest rollout of this engine: other weights, or proof values that were not captured",
            "check that the engine runs the published checkpoint at the calibrated precision",
        ),
        "reward_mismatch" => (
            "the claimed reward or success is not what the environment gives for this text",
            "claim what the checkpoint's environment says of the decoded completion; check its \
             version and parameters",
        ),
        _ => return None,
    };
    Some(Advice { meaning, next_step })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes as the verifier's source spells them: a new one without advice fails here.
    fn codes() -> Vec<&'static str> {
        let source = include_str!("../../../grail-protocol/src/verifier/rejection.rs");
        let source = source.split("impl fmt::Display").next().unwrap();
        let is_code = |text: &&str| {
            text.contains('_') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                || *text == "malformed"
        };
        source.split('"').skip(1).step_by(2).filter(is_code).collect()
    }

    #[test]
    fn every_code_of_a_rejection_has_advice() {
        let codes = codes();
        assert!(codes.len() >= 20 && codes.contains(&"race_lost"), "{codes:?}");
        for code in codes {
            let advice = on(code).unwrap_or_else(|| panic!("no advice on {code}"));
            for text in [advice.meaning, advice.next_step] {
                assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{text}");
            }
        }
        assert_eq!(on("from_the_future"), None);
    }
}
