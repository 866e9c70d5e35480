//! Finds the known columns in a file's schema, whatever else is there and however they are typed.

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::schema::types::{SchemaDescriptor, Type};

use crate::columns::{COLUMNS, Field};
use crate::error::ReadError;

/// Type of a leaf, as Arrow reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// Boolean.
    Bool,
    /// Integer of 32 bits.
    Int32,
    /// Unsigned integer of 32 bits.
    UInt32,
    /// Integer of 64 bits.
    Int64,
    /// Unsigned integer of 64 bits.
    UInt64,
    /// Float of 32 bits.
    Float,
    /// Float of 64 bits.
    Double,
    /// UTF-8.
    Text,
}

/// Where a known column is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Place in [`COLUMNS`].
    pub column: usize,
    /// Place among the file's leaves.
    pub leaf: usize,
    /// Type of the leaf.
    pub kind: LeafKind,
    /// Definition level from which the structure around the field is there.
    pub parent_def: i16,
    /// Definition level from which the field itself is there: a value, or a list.
    pub def: i16,
    /// Definition level at which an element of a list has a value.
    pub element_def: i16,
}

/// Returns the places of all known columns that the file has.
///
/// # Errors
/// When a name is there twice, or a column has a type for which the reference has no use.
pub fn find_all(schema: &SchemaDescriptor) -> Result<Vec<Place>, ReadError> {
    let found = COLUMNS.iter().enumerate().map(|(column, (path, field))| {
        let is_list = matches!(field, Field::Tokens | Field::Logprobs);
        find(schema.root_schema(), column, path, is_list)
            .map_err(|what| ReadError::unreadable(format!("column {path} {what}")))
    });
    found.filter_map(Result::transpose).collect()
}

fn find(
    root: &Type,
    column: usize,
    path: &str,
    is_list: bool,
) -> Result<Option<Place>, &'static str> {
    let (mut node, mut leaf, mut def, mut parent_def) = (root, 0, 0, 0);
    for (depth, name) in path.split('.').enumerate() {
        if node.is_primitive() || (depth > 0 && is_annotated(node)) {
            return Err("is not in a structure");
        }
        let mut named = node.get_fields().iter().filter(|field| field.name() == name);
        let Some(field) = named.next() else { return Ok(None) };
        if named.next().is_some() {
            return Err("is there twice");
        }
        let before = node.get_fields().iter().take_while(|field| field.name() != name);
        leaf += before.map(|field| n_leaves(field)).sum::<usize>();
        parent_def = def;
        def += level(field)?;
        node = field;
    }
    let (element, element_def) = if is_list { element(node, def)? } else { (node, def) };
    let kind = leaf_kind(element).ok_or("has a type that it must not have")?;
    Ok(Some(Place { column, leaf, kind, parent_def, def, element_def }))
}

fn level(node: &Type) -> Result<i16, &'static str> {
    match node.get_basic_info().repetition() {
        Repetition::OPTIONAL => Ok(1),
        Repetition::REQUIRED => Ok(0),
        Repetition::REPEATED => Err("repeats outside a list"),
    }
}

fn n_leaves(node: &Type) -> usize {
    if node.is_primitive() {
        1
    } else {
        node.get_fields().iter().map(|field| n_leaves(field)).sum()
    }
}

fn is_annotated(node: &Type) -> bool {
    let info = node.get_basic_info();
    info.converted_type() != ConvertedType::NONE || info.logical_type_ref().is_some()
}

/// Returns the element of a list, and the definition level of its values. Lists have three levels in
/// files of today and two in old ones.
fn element(list: &Type, def: i16) -> Result<(&Type, i16), &'static str> {
    let is_list = !list.is_primitive()
        && (list.get_basic_info().converted_type() == ConvertedType::LIST
            || list.get_basic_info().logical_type_ref() == Some(&LogicalType::List));
    let [repeated] = (if is_list { list.get_fields() } else { &[] }) else {
        return Err("is no list");
    };
    if repeated.get_basic_info().repetition() != Repetition::REPEATED {
        return Err("is no list");
    }
    if repeated.is_primitive() {
        return Ok((repeated, def + 1));
    }
    let [element] = repeated.get_fields() else { return Err("is a list of structures") };
    Ok((element, def + 1 + level(element)?))
}

/// Returns how a leaf is read. `None` for groups, times, decimals, bytes and other types that no
/// writer of rollouts has.
fn leaf_kind(node: &Type) -> Option<LeafKind> {
    if !node.is_primitive() {
        return None;
    }
    let info = node.get_basic_info();
    let unsigned = |kind, unsigned_kind| match (info.converted_type(), info.logical_type_ref()) {
        (_, Some(LogicalType::Integer(integer))) => {
            Some(if integer.is_signed { kind } else { unsigned_kind })
        }
        (
            ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64,
            None,
        ) => Some(kind),
        (
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64,
            None,
        ) => Some(unsigned_kind),
        _ => None,
    };
    match node.get_physical_type() {
        Physical::BOOLEAN => (!is_annotated(node)).then_some(LeafKind::Bool),
        Physical::INT32 => unsigned(LeafKind::Int32, LeafKind::UInt32),
        Physical::INT64 => unsigned(LeafKind::Int64, LeafKind::UInt64),
        Physical::FLOAT => (!is_annotated(node)).then_some(LeafKind::Float),
        Physical::DOUBLE => (!is_annotated(node)).then_some(LeafKind::Double),
        Physical::BYTE_ARRAY => {
            let is_text = info.converted_type() == ConvertedType::UTF8
                || info.logical_type_ref() == Some(&LogicalType::String);
            is_text.then_some(LeafKind::Text)
        }
        Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::columns::SCHEMA;

    fn places(schema: &str) -> Result<Vec<Place>, ReadError> {
        let root = parse_message_type(schema).unwrap();
        find_all(&SchemaDescriptor::new(Arc::new(root)))
    }

    #[test]
    fn every_column_of_our_own_schema_is_found_in_order() {
        let places = places(SCHEMA).unwrap();
        assert_eq!(places.len(), COLUMNS.len());
        for (leaf, place) in places.iter().enumerate() {
            assert_eq!((place.leaf, place.column), (leaf, leaf));
            let depth = COLUMNS[leaf].0.split('.').count() as i16;
            assert_eq!((place.def, place.parent_def), (depth, depth - 1));
        }
    }

    #[test]
    fn other_columns_and_other_types_are_passed_over_or_refused() {
        let found = |schema: &str| places(schema).map(|places| places.len());
        for (fields, want) in [
            ("optional int32 x; optional double nonce;", Some(1)),
            ("required int64 nonce (INTEGER(64,false));", Some(1)),
            ("optional group x { optional int64 nonce; }", Some(0)),
            ("optional binary nonce;", None),
            ("optional int64 nonce (TIMESTAMP(MILLIS,true));", None),
            ("optional int64 nonce; optional int64 nonce;", None),
            ("repeated int64 nonce;", None),
            ("optional int64 commit;", None),
            (
                "optional group commit (LIST) { repeated group list { optional int32 element; } }",
                None,
            ),
            ("optional group commit { optional int32 tokens; }", None),
            ("optional group commit { repeated int32 tokens; }", None),
            (
                "optional group commit { required group tokens (LIST) { repeated int32 array; } }",
                Some(1),
            ),
            (
                "optional group commit { optional group tokens (LIST) { repeated group list { optional group element { optional int32 x; } } } }",
                None,
            ),
        ] {
            let got = found(&format!("message schema {{ {fields} }}"));
            assert_eq!(got.as_ref().ok(), want.as_ref(), "{fields} {got:?}");
        }
    }
}
