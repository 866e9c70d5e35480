//! The model that comes with the command: small enough to ship, imperfect enough to learn.
//!
//! `assets/default-model/README.md` has the command that makes the same bytes again.

use std::io;
use std::path::Path;

use crate::files::write_atomically;

/// The files of the model folder.
const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../assets/default-model/config.json")),
    ("model.safetensors", include_bytes!("../assets/default-model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../assets/default-model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/default-model/tokenizer_config.json")),
];

/// Writes the model into the folder `dir`, which is made if it is not there.
pub fn unpack(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    FILES.iter().try_for_each(|(name, bytes)| write_atomically(&dir.join(name), bytes))
}

#[cfg(test)]
mod tests {
    use grail_model::{Provider, ProviderConfig};
    use grail_ports::model::ModelProvider;

    use super::*;

    #[test]
    fn the_model_is_small_and_loads() {
        let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 3 * 1024 * 1024, "{bytes} bytes, at most 3 MiB are allowed");
        let dir = tempfile::tempdir().unwrap();
        unpack(dir.path()).unwrap();
        let provider = Provider::new(ProviderConfig::default()).unwrap();
        let model = provider.load(dir.path()).unwrap();
        let parameters = model.info().parameters;
        assert!((500_000..2_000_000).contains(&parameters), "{parameters} parameters");
    }
}
