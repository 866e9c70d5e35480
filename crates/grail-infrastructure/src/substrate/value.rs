//! A value of the chain, shaped by its type in the metadata.
//!
//! The `scale-value` crate has such a type too; its decoder recurses as deep as the bytes say and
//! keeps every byte of a blob as a value, so that a node could exhaust stack and memory.

use std::fmt;

/// A value of the chain. How types become values:
///
/// | type | value |
/// |---|---|
/// | unsigned integers, compact or not; `char` | [`Value::Unsigned`] |
/// | signed integers | [`Value::Unsigned`], or below 0 [`Value::Signed`] |
/// | vectors and arrays of `u8`; 256-bit integers (little-endian) | [`Value::Bytes`] |
/// | other vectors, arrays and tuples; structures without field names | [`Value::List`] |
/// | structures with field names | [`Value::Record`] |
/// | a structure or tuple of one unnamed field (`AccountId32`, `NetUid`) | its field |
/// | enumerations, `Option` among them (`None`, `Some`) | [`Value::Variant`] |
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// An integer of at least 0.
    Unsigned(u128),
    /// An integer below 0.
    Signed(i128),
    /// Text.
    Text(String),
    /// A blob: an account, a hash, a commitment.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Named fields in order.
    Record(Vec<(String, Value)>),
    /// A variant's name and its fields, a [`Value::List`] or a [`Value::Record`].
    Variant(String, Box<Value>),
}

/// A value that has another shape than its reader expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}; the runtime may have changed")]
pub struct ShapeError {
    /// What the reader wants.
    pub expected: String,
    /// What there is.
    pub found: String,
}

impl Value {
    /// Returns a blob.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bytes(bytes.as_ref().to_vec())
    }

    /// Returns a list of values.
    pub fn list<T: Into<Self>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }

    /// Returns a record of named fields.
    pub fn record<'a>(fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Returns a variant without fields.
    pub fn unit(name: &str) -> Self {
        Self::Variant(name.to_owned(), Box::new(Self::List(Vec::new())))
    }

    /// Returns a variant with one unnamed field.
    pub fn variant(name: &str, field: impl Into<Self>) -> Self {
        Self::Variant(name.to_owned(), Box::new(Self::List(vec![field.into()])))
    }

    /// Returns a variant with named fields.
    pub fn variant_of<'a>(name: &str, fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Variant(name.to_owned(), Box::new(Self::record(fields)))
    }

    /// Returns `Some` or `None` of an `Option`.
    pub fn option(value: Option<impl Into<Self>>) -> Self {
        value.map_or_else(|| Self::unit("None"), |value| Self::variant("Some", value))
    }

    /// Returns the `MultiAddress::Id` of an account.
    pub fn address(account: [u8; 32]) -> Self {
        Self::variant("Id", Self::bytes(account))
    }

    /// Reads a truth value.
    pub fn as_bool(&self) -> Result<bool, ShapeError> {
        if let Self::Bool(value) = self { Ok(*value) } else { Err(self.shape("a truth value")) }
    }

    /// Reads an integer of at least 0 that fits `T`.
    pub fn as_uint<T: TryFrom<u128>>(&self) -> Result<T, ShapeError> {
        let expected = || format!("an integer of {} bits", 8 * size_of::<T>());
        let Self::Unsigned(value) = self else { return Err(self.shape(&expected())) };
        T::try_from(*value).map_err(|_| self.shape(&expected()))
    }

    /// Reads an integer.
    pub fn as_i128(&self) -> Result<i128, ShapeError> {
        let value = match self {
            Self::Unsigned(value) => i128::try_from(*value).ok(),
            Self::Signed(value) => Some(*value),
            _ => None,
        };
        value.ok_or_else(|| self.shape("a signed integer"))
    }

    /// Reads text.
    pub fn as_text(&self) -> Result<&str, ShapeError> {
        if let Self::Text(text) = self { Ok(text) } else { Err(self.shape("text")) }
    }

    /// Reads a blob.
    pub fn as_bytes(&self) -> Result<&[u8], ShapeError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(self.shape("bytes")) }
    }

    /// Reads 32 bytes: an account or a hash.
    pub fn as_bytes32(&self) -> Result<[u8; 32], ShapeError> {
        self.as_bytes()
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| self.shape("32 bytes"))
    }

    /// Reads a list. A `Vec<u8>` is no list but bytes.
    pub fn as_list(&self) -> Result<&[Self], ShapeError> {
        if let Self::List(items) = self { Ok(items) } else { Err(self.shape("a list")) }
    }

    /// Reads every item of a list.
    pub fn map_list<T, E: From<ShapeError>>(
        &self,
        read: impl FnMut(&Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        self.as_list()?.iter().map(read).collect()
    }

    /// Reads a field of a record, or of a variant with named fields.
    pub fn field(&self, name: &str) -> Result<&Self, ShapeError> {
        self.optional_field(name).ok_or_else(|| self.shape(&format!("a field `{name}`")))
    }

    /// Reads a field that newer or older runtimes may lack.
    pub fn optional_field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Record(fields) => {
                fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
            }
            Self::Variant(_, fields) => fields.optional_field(name),
            _ => None,
        }
    }

    /// Reads an item of a list, or an unnamed field of a variant; 0-based.
    pub fn item(&self, index: usize) -> Result<&Self, ShapeError> {
        let items = match self {
            Self::List(items) => items.as_slice(),
            Self::Variant(_, fields) => fields.as_list().unwrap_or_default(),
            _ => &[],
        };
        items.get(index).ok_or_else(|| self.shape(&format!("an item {index}")))
    }

    /// Reads a variant: its name and its fields.
    pub fn as_variant(&self) -> Result<(&str, &Self), ShapeError> {
        if let Self::Variant(name, fields) = self {
            Ok((name, fields))
        } else {
            Err(self.shape("a variant"))
        }
    }

    /// Reads an `Option`.
    pub fn as_option(&self) -> Result<Option<&Self>, ShapeError> {
        match self.as_variant() {
            Ok(("None", _)) => Ok(None),
            Ok(("Some", _)) => self.item(0).map(Some),
            _ => Err(self.shape("an option")),
        }
    }

    /// Returns the error of a reader that wants something else.
    pub(super) fn shape(&self, expected: &str) -> ShapeError {
        ShapeError { expected: expected.to_owned(), found: self.summary() }
    }

    /// Returns what the value is, in few words.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Text(text) => format!("text of {} bytes", text.len()),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Record(fields) => {
                let names: Vec<&str> =
                    fields.iter().take(8).map(|(name, _)| name.as_str()).collect();
                format!("a record of {} fields ({} …)", fields.len(), names.join(", "))
            }
            Self::Variant(name, _) => format!("variant `{name}`"),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Bytes(bytes) => write!(f, "0x{}", hex::encode(bytes)),
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Record(fields) => {
                f.debug_map().entries(fields.iter().map(|(name, value)| (name, value))).finish()
            }
            Self::Variant(name, fields) => write!(f, "{name}({fields:?})"),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i128> for Value {
    fn from(value: i128) -> Self {
        u128::try_from(value).map_or(Self::Signed(value), Self::Unsigned)
    }
}

impl From<u128> for Value {
    fn from(value: u128) -> Self {
        Self::Unsigned(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<u8> for Value {
    fn from(value: u8) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<[u8; 32]> for Value {
    fn from(bytes: [u8; 32]) -> Self {
        Self::bytes(bytes)
    }
}
