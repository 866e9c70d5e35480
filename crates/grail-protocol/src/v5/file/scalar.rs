//! One cell of a rollout file, as Python sees it: a miner may write another type than the schema's.

use crate::v5::python::json::Value;
use crate::v5::python::print::{to_int, to_str};

/// A value without parts. Columns of an honest file have one type; a null may stand in each.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar {
    /// `None`: the cell is null, or the file has no such column.
    #[default]
    Null,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A float, which may be no number.
    Float(f64),
    /// A text.
    Text(Box<str>),
}

impl Scalar {
    /// Returns the text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the integer, if it is one; a float or a boolean is none.
    pub fn as_integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    /// Returns the boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    /// Returns the number as a float: integers and booleans convert, as in Python's arithmetic.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Self::Integer(integer) => Some(*integer as f64),
            Self::Float(float) => Some(*float),
            Self::Null | Self::Text(_) => None,
        }
    }

    /// Whether the cell is null.
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// Whether Python finds the cell equal to an integer: `30`, `30.0` and, for 1, `True` are.
    pub fn equals(&self, integer: i64) -> bool {
        self.whole() == Some(integer)
    }

    /// Returns the integer that a number is equal to.
    pub(super) fn whole(&self) -> Option<i64> {
        /// 2^63, the first float above all i64.
        const END: f64 = 9_223_372_036_854_775_808.0;
        match *self {
            Self::Bool(flag) => Some(i64::from(flag)),
            Self::Integer(integer) => Some(integer),
            Self::Float(float) if float.fract() == 0.0 && (-END..END).contains(&float) => {
                Some(float as i64)
            }
            _ => None,
        }
    }

    /// Returns what `int(cell)` gives, see [`to_int`].
    pub fn to_int(&self) -> Option<i128> {
        to_int(&self.to_value())
    }

    /// Returns what `str(cell)` gives.
    pub fn to_text(&self) -> String {
        to_str(&self.to_value()).expect("`str` of a value without parts is text")
    }

    /// Returns the cell as a value of Python's.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Integer(integer) => Value::Integer(*integer),
            Self::Float(float) => Value::Float(*float),
            Self::Text(text) => Value::Text((&**text).into()),
        }
    }
}

impl From<bool> for Scalar {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Scalar {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

impl From<i32> for Scalar {
    fn from(integer: i32) -> Self {
        Self::Integer(i64::from(integer))
    }
}

impl From<f64> for Scalar {
    fn from(float: f64) -> Self {
        Self::Float(float)
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Scalar {
    fn from(text: String) -> Self {
        Self::Text(text.into_boxed_str())
    }
}

impl<T: Into<Self>> From<Option<T>> for Scalar {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_equal_an_integer_as_in_python() {
        for (cell, integer, want) in [
            (Scalar::from(30), 30, true),
            (30.0.into(), 30, true),
            (30.5.into(), 30, false),
            (true.into(), 1, true),
            ("30".into(), 30, false),
            (Scalar::Null, 0, false),
            ((-0.0).into(), 0, true),
            (f64::NAN.into(), 0, false),
            (9_223_372_036_854_775_808.0.into(), i64::MAX, false),
            ((-9_223_372_036_854_775_808.0).into(), i64::MIN, true),
        ] {
            assert_eq!(cell.equals(integer), want, "{cell:?} {integer}");
        }
    }

    #[test]
    fn text_is_what_python_prints() {
        for (cell, want) in [
            (Scalar::Null, "None"),
            (false.into(), "False"),
            (3.into(), "3"),
            (3.0.into(), "3.0"),
            (f64::NAN.into(), "nan"),
            ("a".into(), "a"),
        ] {
            assert_eq!(cell.to_text(), want);
        }
    }
}
