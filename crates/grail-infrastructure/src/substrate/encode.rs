//! Writes values as the metadata's types want them, and refuses what does not fit.

use parity_scale_codec::{Compact, Encode as _};
use scale_info::form::PortableForm;
use scale_info::{Field, PortableRegistry, TypeDef, TypeDefPrimitive};

use super::decode::{DEPTH_MAX, compact_max};
use super::value::Value;

/// A value that is not of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write {what}: {kind}")]
pub struct EncodeError {
    /// What was written and where in it, such as `SubtensorModule.set_weights: dests[3]`.
    pub what: String,
    /// What is wrong.
    pub kind: EncodeErrorKind,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeErrorKind {
    /// The value has another shape than the type.
    #[error("expected {expected}, found {found}")]
    Mismatch {
        /// What the type wants.
        expected: String,
        /// What the value is.
        found: String,
    },
    /// The metadata refers to a type that it lacks.
    #[error("the metadata has no type {0}")]
    UnknownType(u32),
    /// A type that no value here can hold.
    #[error("type {0} is not supported")]
    Unsupported(u32),
    /// Types are nested too deep.
    #[error("values are nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

impl EncodeError {
    pub(super) fn mismatch(expected: &str, found: &Value) -> Self {
        let (expected, found) = (expected.to_owned(), found.summary());
        EncodeErrorKind::Mismatch { expected, found }.into()
    }

    /// Says what was written.
    pub(super) fn writing(mut self, what: &str) -> Self {
        self.what =
            if self.what.is_empty() { what.to_owned() } else { format!("{what}: {}", self.what) };
        self
    }

    /// Says that the error lies in `step` of a larger value.
    fn within(mut self, step: &str) -> Self {
        let joint = if self.what.is_empty() || self.what.starts_with('[') { "" } else { "." };
        self.what = format!("{step}{joint}{}", self.what);
        self
    }
}

impl From<EncodeErrorKind> for EncodeError {
    fn from(kind: EncodeErrorKind) -> Self {
        Self { what: String::new(), kind }
    }
}

type Encoded = Result<(), EncodeError>;

/// Appends `value` as type `ty`.
pub(super) fn encode(
    types: &PortableRegistry,
    ty: u32,
    value: &Value,
    out: &mut Vec<u8>,
) -> Encoded {
    Encoder { types, out }.value(ty, value, 0)
}

/// Appends the fields of a call or an event, given in a record or a list.
pub(super) fn encode_fields(
    types: &PortableRegistry,
    fields: &[Field<PortableForm>],
    value: &Value,
    out: &mut Vec<u8>,
) -> Encoded {
    Encoder { types, out }.fields(fields, value, 0)
}

struct Encoder<'a> {
    types: &'a PortableRegistry,
    out: &'a mut Vec<u8>,
}

impl Encoder<'_> {
    fn value(&mut self, ty: u32, value: &Value, depth: u32) -> Encoded {
        if depth > DEPTH_MAX {
            return Err(EncodeErrorKind::TooDeep.into());
        }
        let types = self.types;
        let resolved = types.resolve(ty).ok_or(EncodeErrorKind::UnknownType(ty))?;
        match &resolved.type_def {
            TypeDef::Primitive(primitive) => self.primitive(primitive, value),
            TypeDef::Compact(compact) => self.compact(ty, compact.type_param.id, value),
            TypeDef::Sequence(sequence) => self.sequence(sequence.type_param.id, value, depth),
            TypeDef::Array(array) => self.array(array.type_param.id, array.len, value, depth),
            TypeDef::Tuple(tuple) => match tuple.fields.as_slice() {
                [field] => self.value(field.id, value, depth + 1),
                fields => self.list(fields.iter().map(|field| field.id), value, depth),
            },
            TypeDef::Composite(composite) => match composite.fields.as_slice() {
                [field] if field.name.is_none() => self.value(field.ty.id, value, depth + 1),
                fields => self.fields(fields, value, depth),
            },
            TypeDef::Variant(variants) => {
                let Value::Variant(name, fields) = value else {
                    return Err(EncodeError::mismatch("a variant", value));
                };
                let Some(variant) = variants.variants.iter().find(|v| v.name == *name) else {
                    let ty = resolved.path.segments.join("::");
                    return Err(EncodeError::mismatch(&format!("a variant of {ty}"), value));
                };
                self.out.push(variant.index);
                self.fields(&variant.fields, fields, depth).map_err(|e| e.within(name))
            }
            TypeDef::BitSequence(_) => Err(EncodeErrorKind::Unsupported(ty).into()),
        }
    }

    fn fields(&mut self, fields: &[Field<PortableForm>], value: &Value, depth: u32) -> Encoded {
        let Value::Record(given) = value else {
            return self.list(fields.iter().map(|field| field.ty.id), value, depth);
        };
        let name = |field: &Field<PortableForm>| field.name.clone().unwrap_or_default();
        if let Some((unknown, _)) =
            given.iter().find(|(given, _)| fields.iter().all(|field| name(field) != *given))
        {
            let known: Vec<String> = fields.iter().map(name).collect();
            let expected = format!("the fields {}", known.join(", "));
            return Err(
                EncodeErrorKind::Mismatch { expected, found: format!("`{unknown}`") }.into()
            );
        }
        for field in fields {
            let name = name(field);
            let mut values = given.iter().filter(|(given, _)| *given == name);
            let (Some((_, value)), None) = (values.next(), values.next()) else {
                return Err(EncodeError::mismatch(&format!("one field `{name}`"), value));
            };
            self.value(field.ty.id, value, depth + 1).map_err(|e| e.within(&name))?;
        }
        Ok(())
    }

    fn list(
        &mut self,
        types: impl ExactSizeIterator<Item = u32>,
        value: &Value,
        depth: u32,
    ) -> Encoded {
        let items = match value {
            Value::List(items) if items.len() == types.len() => items,
            other => {
                return Err(EncodeError::mismatch(&format!("a list of {}", types.len()), other));
            }
        };
        for (index, (ty, item)) in types.zip(items).enumerate() {
            self.value(ty, item, depth + 1).map_err(|e| e.within(&format!("[{index}]")))?;
        }
        Ok(())
    }

    fn sequence(&mut self, ty: u32, value: &Value, depth: u32) -> Encoded {
        let n = match value {
            Value::Bytes(bytes) if self.is_u8(ty) => bytes.len(),
            Value::List(items) => items.len(),
            other => {
                return Err(EncodeError::mismatch(
                    if self.is_u8(ty) { "bytes" } else { "a list" },
                    other,
                ));
            }
        };
        let n = u32::try_from(n).map_err(|_| EncodeError::mismatch("at most 2^32 items", value))?;
        Compact(n).encode_to(self.out);
        self.array(ty, n, value, depth)
    }

    fn array(&mut self, ty: u32, n: u32, value: &Value, depth: u32) -> Encoded {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        match value {
            Value::Bytes(bytes) if self.is_u8(ty) && bytes.len() == n => {
                self.out.extend_from_slice(bytes);
                Ok(())
            }
            Value::List(items) if items.len() == n => {
                self.list(std::iter::repeat_n(ty, n), value, depth)
            }
            other => {
                let unit = if self.is_u8(ty) { "bytes" } else { "items" };
                Err(EncodeError::mismatch(&format!("{n} {unit}"), other))
            }
        }
    }

    fn primitive(&mut self, primitive: &TypeDefPrimitive, value: &Value) -> Encoded {
        // Bytes of the integer, and whether it may be below 0.
        let (n, is_signed) = match primitive {
            TypeDefPrimitive::Bool => {
                let value =
                    value.as_bool().map_err(|_| EncodeError::mismatch("a truth value", value))?;
                self.out.push(value.into());
                return Ok(());
            }
            TypeDefPrimitive::Str => {
                let text = value.as_text().map_err(|_| EncodeError::mismatch("text", value))?;
                text.encode_to(self.out);
                return Ok(());
            }
            TypeDefPrimitive::U256 | TypeDefPrimitive::I256 => {
                let bytes =
                    value.as_bytes32().map_err(|_| EncodeError::mismatch("32 bytes", value))?;
                self.out.extend_from_slice(&bytes);
                return Ok(());
            }
            TypeDefPrimitive::U8 => (1, false),
            TypeDefPrimitive::U16 => (2, false),
            TypeDefPrimitive::U32 | TypeDefPrimitive::Char => (4, false),
            TypeDefPrimitive::U64 => (8, false),
            TypeDefPrimitive::U128 => (16, false),
            TypeDefPrimitive::I8 => (1, true),
            TypeDefPrimitive::I16 => (2, true),
            TypeDefPrimitive::I32 => (4, true),
            TypeDefPrimitive::I64 => (8, true),
            TypeDefPrimitive::I128 => (16, true),
        };
        let bits = 8 * n;
        let max = u128::MAX >> (128 - bits + u32::from(is_signed));
        let little_endian = match value {
            Value::Unsigned(value) if *value <= max => value.to_le_bytes(),
            Value::Signed(value) if is_signed && *value >= i128::MIN >> (128 - bits) => {
                value.to_le_bytes()
            }
            other => {
                let kind = if is_signed { "signed" } else { "unsigned" };
                return Err(EncodeError::mismatch(&format!("{kind} {bits} bits"), other));
            }
        };
        self.out.extend(little_endian.iter().take(usize::try_from(n).unwrap_or(16)));
        Ok(())
    }

    fn compact(&mut self, ty: u32, inner: u32, value: &Value) -> Encoded {
        let max = compact_max(self.types, inner, 0);
        match (max.map_err(|_| EncodeErrorKind::Unsupported(ty))?, value) {
            (None, Value::List(items)) if items.is_empty() => Ok(()),
            (Some(max), Value::Unsigned(value)) if *value <= max => {
                Compact(*value).encode_to(self.out);
                Ok(())
            }
            (Some(max), other) => {
                Err(EncodeError::mismatch(&format!("an integer of at most {max}"), other))
            }
            (None, other) => Err(EncodeError::mismatch("an empty list", other)),
        }
    }

    fn is_u8(&self, ty: u32) -> bool {
        self.types
            .resolve(ty)
            .is_some_and(|ty| matches!(ty.type_def, TypeDef::Primitive(TypeDefPrimitive::U8)))
    }
}
