//! Chooses the cryptography that every TLS connection of this process uses.

use std::sync::Once;

/// Makes `ring` the process's provider unless one was installed before.
///
/// Clients without a provider of their own panic when they are built, so whatever builds a client
/// calls this first. Cheap after the first call.
pub fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that the program that embeds us has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
