//! The models that come with the command: small enough to ship, imperfect enough to learn. One for each
//! profile; they differ in what they were taught.
//!
//! `assets/default-model/README.md` and `assets/worked-model/README.md` have the commands that make the
//! same bytes again.

use std::io;
use std::path::Path;

use grail_protocol::checkpoint::{Protocol, WEIGHTS_FILE};

use crate::files::write_atomically;

/// The files that both models have in common.
const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../assets/default-model/config.json")),
    ("tokenizer.json", include_bytes!("../assets/default-model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/default-model/tokenizer_config.json")),
];

/// Returns the weights that networks of a profile start from.
fn weights(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::V6 => include_bytes!("../assets/default-model/model.safetensors"),
        Protocol::V5 => include_bytes!("../assets/worked-model/model.safetensors"),
    }
}

/// Writes the model of a profile into the folder `dir`, which is made if it is not there.
pub fn unpack(dir: &Path, protocol: Protocol) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    write_atomically(&dir.join(WEIGHTS_FILE), weights(protocol))?;
    FILES.iter().try_for_each(|(name, bytes)| write_atomically(&dir.join(name), bytes))
}

#[cfg(test)]
mod tests {
    use grail_model::{Provider, ProviderConfig};
    use grail_ports::model::ModelProvider;

    use super::*;
    use crate::config::Config;

    /// As the READMEs of the assets tell them.
    const DIGESTS: [(Protocol, &str); 2] = [
        (Protocol::V6, "5513bf8476e8a2ad6ff786553b6b5ce46a97819961f3668795edb8bcac1b65a5"),
        (Protocol::V5, "a3408b3cd26ff25fd53ed88e7cd7d78ccaa25139dfa04d5890b3d5ea949788eb"),
    ];

    #[test]
    fn the_models_are_small_load_and_are_those_of_the_readmes() {
        for (protocol, digest) in DIGESTS {
            let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
            let bytes = bytes + weights(protocol).len();
            assert!(bytes <= 3 * 1024 * 1024, "{bytes} bytes, at most 3 MiB are allowed");
            let dir = tempfile::tempdir().unwrap();
            unpack(dir.path(), protocol).unwrap();
            let provider = Provider::new(ProviderConfig::default()).unwrap();
            let model = provider.load(dir.path()).unwrap();
            let info = model.info();
            assert!((500_000..2_000_000).contains(&info.parameters), "{}", info.parameters);
            assert_eq!(info.checkpoint_digest.to_hex(), digest);
        }
    }

    #[test]
    fn every_worked_answer_is_long_enough_to_be_challenged() {
        let config = Config::default().for_reference();
        let environment = config.environment.create_for(Protocol::V5).unwrap();
        let dir = tempfile::tempdir().unwrap();
        unpack(dir.path(), Protocol::V5).unwrap();
        let provider = Provider::new(ProviderConfig::default()).unwrap();
        let model = provider.load(dir.path()).unwrap();
        let lengths =
            (0..500).map(|seed| model.encode(&environment.solve(seed).unwrap()).unwrap().len());
        let lengths: Vec<usize> = lengths.collect();
        assert!(lengths.iter().all(|length| (32..64).contains(length)), "{lengths:?}");
    }
}
