//! Storage items: their keys, the maps' keys read back from them, and their values.

use scale_info::{PortableRegistry, TypeDef};

use super::decode::{DecodeError, DecodeErrorKind, decode_prefix, take};
use super::encode::EncodeError;
use super::hash::{Hasher, hash, keeps_key, twox_128};
use super::metadata::{Entry, LookupError, Metadata};
use super::value::Value;

/// Bytes of the hashed names that every key starts with.
const PREFIX_BYTES: usize = 32;

/// Keys that do not fit a storage item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// More keys than the map has.
    #[error("{item} takes {expected} keys, not {found}")]
    TooMany {
        /// The storage item.
        item: String,
        /// Keys of the map.
        expected: usize,
        /// Keys given.
        found: usize,
    },
    /// A key that is not of its type.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// One storage item of a runtime, such as `SubtensorModule.Tempo`.
#[derive(Clone, Debug)]
pub struct StorageItem<'a> {
    metadata: &'a Metadata,
    /// Pallet and item, with a dot between.
    name: String,
    entry: &'a Entry,
    prefix: [u8; PREFIX_BYTES],
    /// One for each hasher.
    key_types: Vec<u32>,
}

impl Metadata {
    /// Finds a storage item.
    ///
    /// # Errors
    /// When this runtime has no such pallet or item.
    pub fn storage(&self, pallet: &str, item: &str) -> Result<StorageItem<'_>, LookupError> {
        let name = format!("{pallet}.{item}");
        let in_pallet = self.pallet(pallet)?;
        let absent = || LookupError::new("storage item", &name);
        let entry = in_pallet.storage.get(item).ok_or_else(absent)?;
        let key_types = key_types(self.types(), entry).ok_or_else(absent)?;
        let mut prefix = [0; PREFIX_BYTES];
        let (first, second) = prefix.split_at_mut(PREFIX_BYTES / 2);
        first.copy_from_slice(&twox_128(in_pallet.prefix.as_bytes()));
        second.copy_from_slice(&twox_128(item.as_bytes()));
        Ok(StorageItem { metadata: self, name, entry, prefix, key_types })
    }
}

impl StorageItem<'_> {
    /// Returns pallet and item, with a dot between.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how each key of the map is hashed; nothing for an item that is no map.
    pub fn hashers(&self) -> &[Hasher] {
        &self.entry.hashers
    }

    /// Whether an absent value means `None`. Else it means [`Self::default_bytes`].
    pub fn is_optional(&self) -> bool {
        self.entry.is_optional
    }

    /// Returns the value that stands for an absent one.
    pub fn default_bytes(&self) -> &[u8] {
        &self.entry.default
    }

    /// Returns the storage key; fewer keys than the map has give the prefix of all keys that start
    /// with them.
    ///
    /// # Errors
    /// When there are too many keys, or one is not of its type.
    pub fn key(&self, keys: &[Value]) -> Result<Vec<u8>, KeyError> {
        let expected = self.key_types.len();
        if keys.len() > expected {
            let item = self.name.clone();
            return Err(KeyError::TooMany { item, expected, found: keys.len() });
        }
        let mut out = self.prefix.to_vec();
        for ((hasher, ty), key) in self.entry.hashers.iter().zip(&self.key_types).zip(keys) {
            let key = self.metadata.write(*ty, key, || format!("a key of {}", self.name))?;
            out.extend(hash(hasher, &key));
            if keeps_key(hasher) {
                out.extend(key);
            }
        }
        Ok(out)
    }

    /// Reads the map's keys back from a full storage key.
    ///
    /// # Errors
    /// When the key is not of this item, a hash is not that of its key, or a hasher does not keep
    /// the key.
    pub fn read_key(&self, key: &[u8]) -> Result<Vec<Value>, DecodeError> {
        let reading = |kind: DecodeErrorKind| kind.reading(format!("a key of {}", self.name));
        let Some(mut rest) = key.strip_prefix(&self.prefix) else {
            return Err(reading(DecodeErrorKind::Mismatch("the prefix is another item's")));
        };
        let mut keys = Vec::with_capacity(self.key_types.len());
        for (hasher, ty) in self.entry.hashers.iter().zip(&self.key_types) {
            if !keeps_key(hasher) {
                return Err(reading(DecodeErrorKind::Mismatch("its hash does not give it back")));
            }
            let hashed = take(&mut rest, hash(hasher, &[]).len()).map_err(reading)?;
            let start = rest;
            let value = decode_prefix(self.metadata.types(), *ty, &mut rest).map_err(reading)?;
            if hash(hasher, &start[..start.len() - rest.len()]) != hashed {
                return Err(reading(DecodeErrorKind::Mismatch("its hash is another key's")));
            }
            keys.push(value);
        }
        if !rest.is_empty() {
            return Err(reading(DecodeErrorKind::Trailing(rest.len())));
        }
        Ok(keys)
    }

    /// Reads a value as the chain gives it. An absent one is the item's default, or `None` for
    /// optional items.
    ///
    /// # Errors
    /// When the bytes are not of the item's type.
    pub fn decode(&self, bytes: Option<&[u8]>) -> Result<Option<Value>, DecodeError> {
        let bytes = match bytes {
            None if self.entry.is_optional => return Ok(None),
            None => &self.entry.default,
            Some(bytes) => bytes,
        };
        self.metadata.read(self.entry.value, bytes, || self.name.clone()).map(Some)
    }

    /// Writes a value as the chain stores it.
    ///
    /// # Errors
    /// When the value is not of the item's type.
    pub fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError> {
        self.metadata.write(self.entry.value, value, || self.name.clone())
    }
}

/// Returns the type of each key: the key's type is a tuple of them where there are several.
fn key_types(types: &PortableRegistry, entry: &Entry) -> Option<Vec<u32>> {
    match (entry.hashers.as_slice(), entry.key) {
        ([], None) => Some(Vec::new()),
        ([_], Some(key)) => Some(vec![key]),
        (hashers, Some(key)) => match &types.resolve(key)?.type_def {
            TypeDef::Tuple(tuple) if tuple.fields.len() == hashers.len() => {
                Some(tuple.fields.iter().map(|field| field.id).collect())
            }
            _ => None,
        },
        _ => None,
    }
}
