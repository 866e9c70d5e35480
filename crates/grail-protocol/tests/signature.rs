//! Signatures of the Python wallet library are accepted, damaged ones are not.

use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature::verify;
use serde_json::Value;

#[test]
fn signatures_verify_as_in_the_wallet_library() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/sr25519.json")).unwrap();
    let (mut good, mut bad) = (0, 0);
    for case in vectors["cases"].as_array().unwrap() {
        let mutation = case["mutation"].as_str().unwrap();
        let message = hex::decode(case["message"].as_str().unwrap()).unwrap();
        let signer = case["signer"].as_str().unwrap().parse::<Hotkey>();
        let signature = Signature::try_from(case["signature"].as_str().unwrap().to_owned());
        // Keys and signatures of another form do not even become types.
        let (Ok(signer), Ok(signature)) = (signer, signature) else {
            assert_ne!(case["verify"], true, "{mutation}");
            bad += 1;
            continue;
        };
        let verified = verify(signer, &message, &signature).is_ok();
        // The library also tries the message wrapped in <Bytes>; the protocol does not.
        let expected = case["verify"] == true && !mutation.contains("<Bytes>");
        assert_eq!(verified, expected, "{mutation}");
        if verified { good += 1 } else { bad += 1 }
    }
    assert!(good >= 10 && bad >= 14, "{good} good, {bad} bad");
}
