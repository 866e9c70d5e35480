//! Calls: what an extrinsic asks a pallet to do.

use super::decode::{DecodeError, DecodeErrorKind};
use super::encode::{EncodeError, encode_fields};
use super::metadata::{LookupError, Metadata};
use super::value::Value;

/// A call, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Pallet, such as `SubtensorModule`.
    pub pallet: String,
    /// Name of the call, such as `set_weights`.
    pub name: String,
    /// Its arguments: a [`Value::Record`], or an empty [`Value::List`].
    pub arguments: Value,
}

/// Why a call cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no such call.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// An argument does not fit.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Metadata {
    /// Writes a call; arguments by name, in any order.
    ///
    /// # Errors
    /// When this runtime has no such call, or the arguments are not exactly those it takes.
    pub fn encode_call<'a>(
        &self,
        pallet: &str,
        name: &str,
        arguments: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<Vec<u8>, CallError> {
        self.encode(&Call {
            pallet: pallet.to_owned(),
            name: name.to_owned(),
            arguments: Value::record(arguments),
        })
    }

    /// Writes a call.
    ///
    /// # Errors
    /// As [`Self::encode_call`].
    pub fn encode(&self, call: &Call) -> Result<Vec<u8>, CallError> {
        let full = format!("{}.{}", call.pallet, call.name);
        let pallet = self.pallet(&call.pallet)?;
        let mut variants = self.variants(pallet.calls).iter();
        let variant = variants
            .find(|variant| variant.name == call.name)
            .ok_or_else(|| LookupError::new("call", &full))?;
        let mut out = vec![pallet.index, variant.index];
        encode_fields(self.types(), &variant.fields, &call.arguments, &mut out)
            .map_err(|e| e.writing(&full))?;
        Ok(out)
    }

    /// Returns the names of a call's arguments and of their types, as the runtime's source has them.
    ///
    /// # Errors
    /// When this runtime has no such call.
    pub fn arguments(&self, pallet: &str, name: &str) -> Result<Vec<(&str, &str)>, LookupError> {
        let mut variants = self.variants(self.pallet(pallet)?.calls).iter();
        let variant = variants
            .find(|variant| variant.name == name)
            .ok_or_else(|| LookupError::new("call", format!("{pallet}.{name}")))?;
        let fields = variant.fields.iter();
        Ok(fields
            .map(|field| {
                let (name, ty) = (field.name.as_deref(), field.type_name.as_deref());
                (name.unwrap_or_default(), ty.unwrap_or_default())
            })
            .collect())
    }

    /// Reads a call that takes all of `bytes`.
    ///
    /// # Errors
    /// When the bytes are no call of this runtime.
    pub fn decode_call(&self, bytes: &[u8]) -> Result<Call, DecodeError> {
        let value = self.read(self.call_type(), bytes, || "a call".to_owned())?;
        Call::from_value(value)
            .ok_or_else(|| DecodeErrorKind::Mismatch("no call of a pallet").reading("a call"))
    }
}

impl Call {
    /// Reads a call that is an argument of another call, as `Utility.batch` has.
    pub fn from_value(value: Value) -> Option<Self> {
        let Value::Variant(pallet, fields) = value else { return None };
        let Value::List(fields) = *fields else { return None };
        let [Value::Variant(name, arguments)] = <[Value; 1]>::try_from(fields).ok()? else {
            return None;
        };
        Some(Self { pallet, name, arguments: *arguments })
    }

    /// Returns the call as an argument of another call.
    pub fn into_value(self) -> Value {
        Value::variant(&self.pallet, Value::Variant(self.name, Box::new(self.arguments)))
    }
}
