//! Fetches the rollouts that a validator vouches for; nothing else is ever trained on.
//!
//! Miners' files are sealed until their deadline. The validator opened them to judge them, so a trainer
//! needs no beacon; one that wants the raw files opens them with
//! [`opener_of`](crate::context::opener_of) and
//! [`open_file`](grail_protocol::verifier::open_file).

use grail_ports::chain::{Metagraph, Neuron};
use grail_protocol::constants::VALIDATED_FILE_BYTES_MAX;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_protocol::validated::ValidatedFile;
use tracing::warn;

use super::TrainingError;
use crate::blocking::blocking;
use crate::context::RunContext;
use crate::peers::PeerDirectory;

/// Returns the validators that are trusted, best first: those with a permit and the most stake.
///
/// Source: `spec/trainer.md`, trusted miners.
pub fn trusted_validators(metagraph: &Metagraph, ours: Hotkey, at_most: u32) -> Vec<Hotkey> {
    let may_judge = |it: &&Neuron| it.validator_permit && it.stake > 0 && it.hotkey != ours;
    let mut validators: Vec<&Neuron> = metagraph.neurons.iter().filter(may_judge).collect();
    validators.sort_by_key(|neuron| (std::cmp::Reverse(neuron.stake), neuron.uid));
    let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
    validators.into_iter().take(at_most).map(|neuron| neuron.hotkey).collect()
}

/// Returns the validated rollouts of `window` from the best of `validators` that has them.
///
/// # Errors
/// When a bucket fails. A file that its validator did not sign counts as absent.
pub async fn fetch(
    ctx: &RunContext,
    peers: &PeerDirectory,
    validators: &[Hotkey],
    window: Window,
) -> Result<Option<ValidatedFile>, TrainingError> {
    for &validator in validators {
        let Some(bucket) = peers.bucket(&*ctx.buckets, validator) else {
            continue;
        };
        let key = keys::validated_file(window);
        let Some(bytes) = bucket.get(&key, VALIDATED_FILE_BYTES_MAX).await? else {
            continue;
        };
        let file = match blocking(move || ValidatedFile::open(&bytes, validator)).await {
            Ok(file) => file,
            Err(error) => {
                warn!(%validator, %window, %error, "left out a validator's rollouts");
                continue;
            }
        };
        let place = (file.network.as_str(), file.netuid, file.window);
        if place == (ctx.chain.network(), ctx.chain.netuid(), window) {
            return Ok(Some(file));
        }
        warn!(%validator, %window, found = %file.window, "left out rollouts of another place");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::{BlockNumber, Netuid, Uid};

    use super::*;

    fn neuron(uid: u16, stake: u64, validator_permit: bool) -> Neuron {
        let hotkey = Hotkey([u8::try_from(uid).unwrap(); 32]);
        let (uid, last_update) = (Uid(uid), BlockNumber(0));
        Neuron { uid, hotkey, stake, validator_permit, incentive: 0.0, last_update }
    }

    #[test]
    fn stake_with_a_permit_is_trusted() {
        let metagraph = Metagraph {
            netuid: Netuid(1),
            block: BlockNumber(0),
            neurons: vec![
                neuron(0, 900, true),
                neuron(1, 5, true),
                neuron(2, 700, false),
                neuron(3, 0, true),
                neuron(4, 50, true),
                neuron(5, 50, true),
            ],
        };
        let trusted = |at_most| {
            let ours = Hotkey([0; 32]);
            trusted_validators(&metagraph, ours, at_most)
                .iter()
                .map(|it| it.0[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(trusted(9), [4, 5, 1]);
        assert_eq!(trusted(1), [4]);
        assert_eq!(trusted(0), [0; 0]);
    }
}
