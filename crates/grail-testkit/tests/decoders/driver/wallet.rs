//! Key files of wallets, as an operator copies them from anywhere.

use std::fmt::Write as _;

use grail_infrastructure::wallet::{KeyfileError, Wallet};
use grail_ports::signer::Signer;
use grail_protocol::signature::verify;

use super::driver::Target;

/// Key files, public ones too.
pub const WALLET: Target =
    Target { name: "wallet", drive, heap_per_byte: 64, heap_beside: 16 << 10 };

/// Most bytes of an error's text: it tells what is wrong, and does not repeat the file.
const ERROR_BYTES_MAX: usize = 400;

const MESSAGE: &[u8] = b"message";

fn drive(data: &[u8]) -> bool {
    let (wallet, address) = (Wallet::from_keyfile(data), Wallet::address_in_keyfile(data));
    for error in [wallet.as_ref().err(), address.as_ref().err()].into_iter().flatten() {
        told_briefly(error);
    }
    let Ok(wallet) = wallet else { return address.is_ok() };
    verify(wallet.hotkey(), MESSAGE, &wallet.sign(MESSAGE)).expect("a key that was read can sign");
    if let Ok(address) = address {
        assert_eq!(
            address,
            wallet.hotkey(),
            "a file has the secret of one address and names another"
        );
    }
    let spaced = [b" \n", data, b"\n"].concat();
    let again = Wallet::from_keyfile(&spaced).expect("space around it means nothing");
    assert_eq!(again.hotkey(), wallet.hotkey());
    true
}

fn told_briefly(error: &KeyfileError) {
    let mut text = error.to_string();
    assert!(text.len() <= ERROR_BYTES_MAX, "{} bytes of text", text.len());
    text.clear();
    write!(text, "{error:?}").expect("a text takes anything");
    assert!(text.len() <= 2 * ERROR_BYTES_MAX, "{} bytes of debug text", text.len());
}
