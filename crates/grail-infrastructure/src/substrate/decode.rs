//! Reads values of any type of the metadata from bytes of strangers.
//!
//! Two bounds hold whatever bytes and metadata say: [`DEPTH_MAX`] levels of types, and memory in
//! proportion to the bytes (`MEMORY_PER_BYTE`). Types that take no bytes cannot multiply, and nested
//! calls cannot exhaust the stack.

use parity_scale_codec::{Compact, Decode};
use scale_info::form::PortableForm;
use scale_info::{Field, PortableRegistry, TypeDef, TypeDefPrimitive, Variant};

use super::value::Value;

/// Most levels of types in a value. The runtime's own limit on nested calls is lower.
pub const DEPTH_MAX: u32 = 96;

/// Most bytes of memory that a value may take for each byte it is read from …
const MEMORY_PER_BYTE: usize = 256;

/// … and beside; and most of all.
const MEMORY_BESIDE: usize = 64 << 10;
const MEMORY_MAX: usize = 512 << 20;

/// Bytes that are no value of their type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what}: {kind}; does the metadata belong to this runtime?")]
pub struct DecodeError {
    /// What was read, such as `SubtensorModule.Tempo`.
    pub what: String,
    /// What is wrong.
    pub kind: DecodeErrorKind,
}

/// What is wrong with bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The bytes end within a value.
    #[error("the bytes end {needed} short")]
    Truncated {
        /// Bytes missing, at least.
        needed: usize,
    },
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// A compact integer that is not in its shortest form, or beyond its type.
    #[error("a compact integer is malformed or too large")]
    Compact,
    /// A truth value that is neither 0 nor 1.
    #[error("{0} is no truth value")]
    Bool(u8),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// An enumeration has no such variant.
    #[error("{ty} has no variant {index}")]
    Variant {
        /// Name of the enumeration.
        ty: String,
        /// Index found.
        index: u8,
    },
    /// Bytes that belong elsewhere.
    #[error("{0}")]
    Mismatch(&'static str),
    /// The metadata refers to a type that it lacks.
    #[error("the metadata has no type {0}")]
    UnknownType(u32),
    /// A type that no value here can hold.
    #[error("type {0} is not supported")]
    Unsupported(u32),
    /// Types are nested too deep.
    #[error("values are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// The value would take far more memory than its bytes justify.
    #[error("the value would take more than {0} bytes of memory")]
    TooLarge(usize),
}

impl DecodeErrorKind {
    /// Says what was read.
    pub(super) fn reading(self, what: impl Into<String>) -> DecodeError {
        DecodeError { what: what.into(), kind: self }
    }
}

/// Reads a value of type `ty` from the front of `bytes`, and leaves what follows.
pub(super) fn decode_prefix(
    types: &PortableRegistry,
    ty: u32,
    bytes: &mut &[u8],
) -> Result<Value, DecodeErrorKind> {
    let memory = bytes.len().saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY_BESIDE);
    let memory = memory.min(MEMORY_MAX);
    let mut decoder = Decoder { types, bytes, memory, budget: memory };
    decoder.value(ty, 0)
}

/// Reads a value of type `ty` that takes all of `bytes`.
pub(super) fn decode_all(
    types: &PortableRegistry,
    ty: u32,
    mut bytes: &[u8],
) -> Result<Value, DecodeErrorKind> {
    let value = decode_prefix(types, ty, &mut bytes)?;
    if bytes.is_empty() { Ok(value) } else { Err(DecodeErrorKind::Trailing(bytes.len())) }
}

/// Reads a compact integer.
pub(super) fn compact(bytes: &mut &[u8]) -> Result<u128, DecodeErrorKind> {
    if bytes.is_empty() {
        return Err(DecodeErrorKind::Truncated { needed: 1 });
    }
    Compact::<u128>::decode(bytes).map(|value| value.0).map_err(|_| DecodeErrorKind::Compact)
}

/// Takes `n` bytes off the front.
pub(super) fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], DecodeErrorKind> {
    let Some((taken, rest)) = bytes.split_at_checked(n) else {
        return Err(DecodeErrorKind::Truncated { needed: n - bytes.len() });
    };
    *bytes = rest;
    Ok(taken)
}

/// Takes `N` bytes off the front.
pub(super) fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], DecodeErrorKind> {
    let taken = take(bytes, N)?;
    Ok(taken.try_into().expect("as many bytes as were asked for"))
}

struct Decoder<'a, 'b> {
    types: &'a PortableRegistry,
    bytes: &'a mut &'b [u8],
    /// Memory allowed at the start, and what is left of it; bytes.
    memory: usize,
    budget: usize,
}

type Decoded = Result<Value, DecodeErrorKind>;

impl Decoder<'_, '_> {
    fn value(&mut self, ty: u32, depth: u32) -> Decoded {
        if depth > DEPTH_MAX {
            return Err(DecodeErrorKind::TooDeep);
        }
        self.charge(size_of::<Value>())?;
        let types = self.types;
        let resolved = types.resolve(ty).ok_or(DecodeErrorKind::UnknownType(ty))?;
        match &resolved.type_def {
            TypeDef::Primitive(primitive) => self.primitive(primitive),
            TypeDef::Compact(compact) => self.compact(compact.type_param.id, depth),
            TypeDef::Sequence(sequence) => {
                let n = self.length()?;
                self.items(sequence.type_param.id, n, depth)
            }
            TypeDef::Array(array) => {
                let n = usize::try_from(array.len).map_err(|_| self.too_large())?;
                self.items(array.type_param.id, n, depth)
            }
            TypeDef::Tuple(tuple) => match tuple.fields.as_slice() {
                [field] => self.value(field.id, depth + 1),
                fields => self.list(fields.iter().map(|field| field.id), depth),
            },
            TypeDef::Composite(composite) => match composite.fields.as_slice() {
                [field] if field.name.is_none() => self.value(field.ty.id, depth + 1),
                fields => self.fields(fields, depth),
            },
            TypeDef::Variant(variants) => {
                let [index] = take_array(self.bytes)?;
                let variant = variants.variants.iter().find(|variant| variant.index == index);
                let Some(variant) = variant else {
                    let ty = resolved.path.segments.last().cloned().unwrap_or_default();
                    return Err(DecodeErrorKind::Variant { ty, index });
                };
                self.variant(variant, depth)
            }
            TypeDef::BitSequence(_) => Err(DecodeErrorKind::Unsupported(ty)),
        }
    }

    fn variant(&mut self, variant: &Variant<PortableForm>, depth: u32) -> Decoded {
        self.charge(variant.name.len() + size_of::<Value>())?;
        let fields = self.fields(&variant.fields, depth)?;
        Ok(Value::Variant(variant.name.clone(), Box::new(fields)))
    }

    fn fields(&mut self, fields: &[Field<PortableForm>], depth: u32) -> Decoded {
        let is_named = fields.first().is_some_and(|field| field.name.is_some());
        if !is_named {
            return self.list(fields.iter().map(|field| field.ty.id), depth);
        }
        let mut record = Vec::new();
        for field in fields {
            let name = field.name.clone().unwrap_or_default();
            self.charge(name.len() + size_of::<String>())?;
            record.push((name, self.value(field.ty.id, depth + 1)?));
        }
        Ok(Value::Record(record))
    }

    fn list(&mut self, types: impl Iterator<Item = u32>, depth: u32) -> Decoded {
        types.map(|ty| self.value(ty, depth + 1)).collect::<Result<_, _>>().map(Value::List)
    }

    /// Reads `n` items of one type.
    fn items(&mut self, ty: u32, n: usize, depth: u32) -> Decoded {
        let item = self.types.resolve(ty).ok_or(DecodeErrorKind::UnknownType(ty))?;
        if matches!(item.type_def, TypeDef::Primitive(TypeDefPrimitive::U8)) {
            let blob = take(self.bytes, n)?;
            return Ok(Value::Bytes(blob.to_vec()));
        }
        // Before any item is made: a length is only a claim.
        if n.checked_mul(size_of::<Value>()).is_none_or(|memory| memory > self.budget) {
            return Err(self.too_large());
        }
        self.list(std::iter::repeat_n(ty, n), depth)
    }

    fn primitive(&mut self, primitive: &TypeDefPrimitive) -> Decoded {
        let bytes = &mut *self.bytes;
        Ok(match primitive {
            TypeDefPrimitive::Bool => match take_array(bytes)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(DecodeErrorKind::Bool(other)),
            },
            TypeDefPrimitive::Str => {
                let n = self.length()?;
                let text = take(self.bytes, n)?.to_vec();
                Value::Text(String::from_utf8(text).map_err(|_| DecodeErrorKind::Utf8)?)
            }
            TypeDefPrimitive::U8 => u8::from_le_bytes(take_array(bytes)?).into(),
            TypeDefPrimitive::U16 => u16::from_le_bytes(take_array(bytes)?).into(),
            TypeDefPrimitive::U32 | TypeDefPrimitive::Char => {
                u32::from_le_bytes(take_array(bytes)?).into()
            }
            TypeDefPrimitive::U64 => u64::from_le_bytes(take_array(bytes)?).into(),
            TypeDefPrimitive::U128 => u128::from_le_bytes(take_array(bytes)?).into(),
            TypeDefPrimitive::I8 => i128::from(i8::from_le_bytes(take_array(bytes)?)).into(),
            TypeDefPrimitive::I16 => i128::from(i16::from_le_bytes(take_array(bytes)?)).into(),
            TypeDefPrimitive::I32 => i128::from(i32::from_le_bytes(take_array(bytes)?)).into(),
            TypeDefPrimitive::I64 => i128::from(i64::from_le_bytes(take_array(bytes)?)).into(),
            TypeDefPrimitive::I128 => i128::from_le_bytes(take_array(bytes)?).into(),
            TypeDefPrimitive::U256 | TypeDefPrimitive::I256 => Value::bytes(take(bytes, 32)?),
        })
    }

    fn compact(&mut self, ty: u32, depth: u32) -> Decoded {
        let Some(max) = compact_max(self.types, ty, depth)? else { return Ok(Value::List(vec![])) };
        let value = compact(self.bytes)?;
        if value <= max { Ok(value.into()) } else { Err(DecodeErrorKind::Compact) }
    }

    fn length(&mut self) -> Result<usize, DecodeErrorKind> {
        // The chain's own decoder takes lengths of 32 bits.
        let length = u32::try_from(compact(self.bytes)?).map_err(|_| DecodeErrorKind::Compact)?;
        usize::try_from(length).map_err(|_| self.too_large())
    }

    fn charge(&mut self, memory: usize) -> Result<(), DecodeErrorKind> {
        self.budget = self.budget.checked_sub(memory).ok_or_else(|| self.too_large())?;
        Ok(())
    }

    fn too_large(&self) -> DecodeErrorKind {
        DecodeErrorKind::TooLarge(self.memory)
    }
}

/// Returns the largest integer of a type that is encoded in compact form, or `None` for the unit.
pub(super) fn compact_max(
    types: &PortableRegistry,
    ty: u32,
    depth: u32,
) -> Result<Option<u128>, DecodeErrorKind> {
    if depth > DEPTH_MAX {
        return Err(DecodeErrorKind::TooDeep);
    }
    let resolved = types.resolve(ty).ok_or(DecodeErrorKind::UnknownType(ty))?;
    match &resolved.type_def {
        TypeDef::Primitive(TypeDefPrimitive::U8) => Ok(Some(u8::MAX.into())),
        TypeDef::Primitive(TypeDefPrimitive::U16) => Ok(Some(u16::MAX.into())),
        TypeDef::Primitive(TypeDefPrimitive::U32) => Ok(Some(u32::MAX.into())),
        TypeDef::Primitive(TypeDefPrimitive::U64) => Ok(Some(u64::MAX.into())),
        TypeDef::Primitive(TypeDefPrimitive::U128) => Ok(Some(u128::MAX)),
        TypeDef::Tuple(tuple) => match tuple.fields.as_slice() {
            [] => Ok(None),
            [field] => compact_max(types, field.id, depth + 1),
            _ => Err(DecodeErrorKind::Unsupported(ty)),
        },
        // `Compact<Perbill>`, `Compact<NetUid>`: the integer within, named or not.
        TypeDef::Composite(composite) => match composite.fields.as_slice() {
            [field] => compact_max(types, field.ty.id, depth + 1),
            _ => Err(DecodeErrorKind::Unsupported(ty)),
        },
        _ => Err(DecodeErrorKind::Unsupported(ty)),
    }
}
