//! Opens key files of every generation of Bittensor wallets, and writes the newest kind.
//!
//! | starts with | since | key from the password | cipher |
//! |---|---|---|---|
//! | `$NACL` | today | Argon2i, 8 passes over 512 MiB | XSalsa20-Poly1305 |
//! | `$ANSIBLE_VAULT` | 2021 | PBKDF2-SHA256, 10,000 rounds | AES-256-CTR, HMAC-SHA256 |
//! | `gAAAAA` | before | PBKDF2-SHA256, 10,000,000 rounds | Fernet: AES-128-CBC, HMAC-SHA256 |
//!
//! Source: spec/bittensor.md section 9. Opening takes seconds on purpose; callers in an async runtime
//! do it on a blocking thread.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockDecrypt, KeyInit as _, KeyIvInit as _, StreamCipher as _};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto_secretbox::aead::AeadInPlace as _;
use crypto_secretbox::{Nonce, Tag, XSalsa20Poly1305};
use hmac::{Hmac, Mac as _};
use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use super::password::Password;

const NACL_MAGIC: &[u8] = b"$NACL";
const ANSIBLE_MAGIC: &[u8] = b"$ANSIBLE_VAULT";
const ANSIBLE_HEADER: &str = "$ANSIBLE_VAULT;1.1;AES256";
const FERNET_MAGIC: &[u8] = b"gAAAAA";

/// Bytes of a nonce of a `$NACL` file.
pub const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

const NACL_SALT: [u8; 16] = [
    0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1,
];
/// libsodium's "sensitive" limits.
const ARGON_PASSES: u32 = 8;
const ARGON_MEMORY_KIB: u32 = 512 * 1024;

const ANSIBLE_ROUNDS: u32 = 10_000;
const FERNET_ROUNDS: u32 = 10_000_000;
const FERNET_SALT: &[u8] = b"Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins";
const FERNET_VERSION: u8 = 0x80;
const MAC_BYTES: usize = 32;
const AES_BLOCK_BYTES: usize = 16;

type HmacSha256 = Hmac<Sha256>;
type Aes256Ctr = ctr::Ctr128BE<aes::Aes256>;

/// How a key file is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// What wallets write today.
    Nacl,
    /// What they wrote before.
    AnsibleVault,
    /// What they wrote first.
    Fernet,
}

impl Encryption {
    /// Returns how `file` is encrypted, `None` if it is not.
    pub fn of(file: &[u8]) -> Option<Self> {
        [
            (NACL_MAGIC, Self::Nacl),
            (ANSIBLE_MAGIC, Self::AnsibleVault),
            (FERNET_MAGIC, Self::Fernet),
        ]
        .into_iter()
        .find_map(|(magic, encryption)| file.starts_with(magic).then_some(encryption))
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nacl => "NaCl",
            Self::AnsibleVault => "Ansible Vault",
            Self::Fernet => "Fernet",
        })
    }
}

/// Why an encrypted file stays closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// Another password, or a file that was altered: the formats cannot tell.
    #[error(
        "the password does not open it ({0}); check the password, or restore the file from a backup"
    )]
    WrongPassword(Encryption),
    /// Not the layout that its first bytes announce.
    #[error("it is damaged: {0}; restore it from a backup")]
    Damaged(&'static str),
    /// Less memory than deriving the key takes.
    #[error("its password needs 512 MiB of memory, which this machine does not give; free some")]
    Memory,
    /// Not encrypted at all.
    #[error("it is not encrypted")]
    NotEncrypted,
}

/// Returns what `password` opens in `file`.
///
/// # Errors
/// When the password is another one, or the file is damaged.
pub fn decrypt(file: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    match Encryption::of(file).ok_or(DecryptError::NotEncrypted)? {
        Encryption::Nacl => open_nacl(file, password),
        Encryption::AnsibleVault => open_ansible(file, password),
        Encryption::Fernet => open_fernet(file, password),
    }
}

/// Returns `plain` as a `$NACL` file. A nonce must never be used twice.
///
/// # Errors
/// [`DecryptError::Memory`].
pub fn encrypt(
    plain: &[u8],
    password: &Password,
    nonce: &[u8; NONCE_BYTES],
) -> Result<Vec<u8>, DecryptError> {
    let key = nacl_key(password)?;
    let mut sealed = Zeroizing::new(plain.to_vec());
    let tag = XSalsa20Poly1305::new(GenericArray::from_slice(key.as_slice()))
        .encrypt_in_place_detached(Nonce::from_slice(nonce), b"", &mut sealed)
        .expect("a key file is far below the cipher's limit");
    Ok([NACL_MAGIC, nonce, &tag, &sealed].concat())
}

fn open_nacl(file: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let too_short = DecryptError::Damaged("it is shorter than any encrypted file");
    let rest = &file[NACL_MAGIC.len()..];
    let (nonce, rest) = rest.split_at_checked(NONCE_BYTES).ok_or(too_short.clone())?;
    let (tag, sealed) = rest.split_at_checked(TAG_BYTES).ok_or(too_short)?;
    let key = nacl_key(password)?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    XSalsa20Poly1305::new(GenericArray::from_slice(key.as_slice()))
        .decrypt_in_place_detached(Nonce::from_slice(nonce), b"", &mut plain, Tag::from_slice(tag))
        .map_err(|_| DecryptError::WrongPassword(Encryption::Nacl))?;
    Ok(plain)
}

/// Derives the key of a `$NACL` file; one at a time in this process, so that memory stays bounded.
fn nacl_key(password: &Password) -> Result<Zeroizing<[u8; 32]>, DecryptError> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let params = Params::new(ARGON_MEMORY_KIB, ARGON_PASSES, 1, Some(32))
        .expect("the limits are within Argon2's");
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|_| DecryptError::Memory)?;
    memory.resize(params.block_count(), Block::new());
    let mut key = Zeroizing::new([0; 32]);
    let derived = Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
        .hash_password_into_with_memory(
            password.as_bytes(),
            &NACL_SALT,
            key.as_mut_slice(),
            &mut memory,
        );
    for block in &mut memory {
        block.as_mut().zeroize();
    }
    derived.expect("the salt, the password and the key have lengths that Argon2 takes");
    Ok(key)
}

fn open_ansible(file: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let damaged = DecryptError::Damaged;
    let text = std::str::from_utf8(file).map_err(|_| damaged("it is not text"))?;
    let (header, body) =
        text.split_once('\n').ok_or(damaged("it has a header and nothing else"))?;
    if header.trim_end() != ANSIBLE_HEADER {
        return Err(damaged("only Ansible Vault 1.1 with AES256 is known"));
    }
    let digits: String = body.split_ascii_whitespace().collect();
    let parts = unhex(&digits)?;
    // Each part is hexadecimal once more, with line ends between them.
    let parts = std::str::from_utf8(&parts).map_err(|_| damaged("its parts are not text"))?;
    let mut parts = parts.splitn(3, '\n');
    let mut part = || parts.next().ok_or(damaged("a part is missing")).and_then(unhex);
    let (salt, mac, mut plain) = (part()?, part()?, Zeroizing::new(part()?));

    let mut derived = Zeroizing::new([0; 80]);
    pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, ANSIBLE_ROUNDS, derived.as_mut_slice());
    let (cipher_key, rest) = derived.split_at(32);
    let (mac_key, counter) = rest.split_at(32);
    check_mac(mac_key, &plain, &mac, Encryption::AnsibleVault)?;
    Aes256Ctr::new(GenericArray::from_slice(cipher_key), GenericArray::from_slice(counter))
        .apply_keystream(&mut plain);
    unpad(&mut plain)?;
    Ok(plain)
}

/// Fernet's time stamp is not looked at: a key file has no age at which it stops being one.
fn open_fernet(file: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let damaged = DecryptError::Damaged;
    let token = URL_SAFE
        .decode(file.trim_ascii())
        .map_err(|_| damaged("it is not base64, the file may be cut off"))?;
    let (signed, mac) = token
        .len()
        .checked_sub(MAC_BYTES)
        .and_then(|length| token.split_at_checked(length))
        .ok_or(damaged("it is shorter than any encrypted file"))?;
    // Version, time, initialisation vector, blocks.
    let (head, blocks) =
        signed.split_at_checked(25).ok_or(damaged("it is shorter than any encrypted file"))?;
    if head[0] != FERNET_VERSION || !blocks.len().is_multiple_of(AES_BLOCK_BYTES) {
        return Err(damaged("it is no Fernet token"));
    }
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2_hmac::<Sha256>(password.as_bytes(), FERNET_SALT, FERNET_ROUNDS, key.as_mut_slice());
    let (mac_key, cipher_key) = key.split_at(16);
    check_mac(mac_key, signed, mac, Encryption::Fernet)?;
    let cipher = aes::Aes128::new(GenericArray::from_slice(cipher_key));
    let mut plain = Zeroizing::new(blocks.to_vec());
    let mut previous: &[u8] = &head[9..];
    for (block, sealed) in
        plain.chunks_exact_mut(AES_BLOCK_BYTES).zip(blocks.chunks_exact(AES_BLOCK_BYTES))
    {
        cipher.decrypt_block(GenericArray::from_mut_slice(block));
        for (byte, mask) in block.iter_mut().zip(previous) {
            *byte ^= mask;
        }
        previous = sealed;
    }
    unpad(&mut plain)?;
    Ok(plain)
}

fn check_mac(
    key: &[u8],
    message: &[u8],
    mac: &[u8],
    encryption: Encryption,
) -> Result<(), DecryptError> {
    let mut computed =
        <HmacSha256 as hmac::Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    computed.update(message);
    computed.verify_slice(mac).map_err(|_| DecryptError::WrongPassword(encryption))
}

/// Removes PKCS #7 padding, which was under a MAC: a wrong one is damage, and tells nothing.
fn unpad(plain: &mut Zeroizing<Vec<u8>>) -> Result<(), DecryptError> {
    let damaged = DecryptError::Damaged("its padding makes no sense");
    let padding = usize::from(*plain.last().ok_or(damaged.clone())?);
    let length = plain.len().checked_sub(padding).ok_or(damaged.clone())?;
    if padding == 0 || plain[length..].iter().any(|byte| usize::from(*byte) != padding) {
        return Err(damaged);
    }
    plain.truncate(length);
    Ok(())
}

fn unhex(digits: &str) -> Result<Vec<u8>, DecryptError> {
    hex::decode(digits).map_err(|_| DecryptError::Damaged("a part is not hexadecimal"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn password(text: &str) -> Password {
        Password::new(Zeroizing::new(text.to_owned()))
    }

    /// Returns `plain` as a vault of the kind before today's.
    fn vault(plain: &[u8], password: &Password) -> Vec<u8> {
        let salt = [7; 32];
        let mut derived = [0; 80];
        pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, ANSIBLE_ROUNDS, &mut derived);
        let padding = AES_BLOCK_BYTES - plain.len() % AES_BLOCK_BYTES;
        let mut sealed = [plain, &vec![padding as u8; padding]].concat();
        Aes256Ctr::new(
            GenericArray::from_slice(&derived[..32]),
            GenericArray::from_slice(&derived[64..]),
        )
        .apply_keystream(&mut sealed);
        let mut mac = <HmacSha256 as hmac::Mac>::new_from_slice(&derived[32..64]).unwrap();
        mac.update(&sealed);
        let mac = mac.finalize().into_bytes();
        let parts = [salt.as_slice(), &mac, &sealed].map(hex::encode).join("\n");
        format!("{ANSIBLE_HEADER}\n{}\n", hex::encode(parts)).into_bytes()
    }

    #[test]
    fn a_vault_opens_with_its_password_alone() {
        for plain in [&b""[..], b"x", &[b'y'; 16], &[b'z'; 700]] {
            let file = vault(plain, &password("right"));
            assert_eq!(decrypt(&file, &password("right")).unwrap().as_slice(), plain);
            let wrong = DecryptError::WrongPassword(Encryption::AnsibleVault);
            assert_eq!(decrypt(&file, &password("wrong")), Err(wrong));
        }
    }

    #[test]
    fn damage_is_told_before_time_is_spent() {
        for (file, part) in [
            (&b"{}"[..], "not encrypted"),
            (b"$NACL", "shorter"),
            (b"$NACL0123456789012345678901234567890", "shorter"),
            (b"$ANSIBLE_VAULT;1.1;AES256", "nothing else"),
            (b"$ANSIBLE_VAULT;9.9;AES256\n00", "only Ansible Vault 1.1"),
            (b"$ANSIBLE_VAULT;1.1;AES256\nzz", "not hexadecimal"),
            (b"$ANSIBLE_VAULT;1.1;AES256\n3030", "a part is missing"),
            (b"gAAAAA*", "not base64"),
            (b"gAAAAABr", "shorter"),
        ] {
            let error = decrypt(file, &password("p")).unwrap_err().to_string();
            assert!(error.contains(part), "{}: {error}", file.escape_ascii());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_altered_vault_is_refused(at in 26usize..200, value: u8) {
            let file = vault(&[b'x'; 40], &password("p"));
            let mut altered = file.clone();
            altered[at] = value;
            prop_assume!(altered != file);
            // A digit in the other case is the same digit.
            prop_assume!(!altered.eq_ignore_ascii_case(&file));
            prop_assert!(decrypt(&altered, &password("p")).is_err());
        }

        #[test]
        fn any_vault_body_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let file = [ANSIBLE_HEADER.as_bytes(), b"\n", &body].concat();
            prop_assert!(decrypt(&file, &password("p")).is_err());
        }
    }
}
