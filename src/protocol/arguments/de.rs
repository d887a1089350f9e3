//! The deserializer behind [`super::decode`]. Floor 0.
//!
//! A deserializer of serde's because the errors are texts of the wire: each names the member's path and the schema's word
//! for the type, which no deserializer of another crate knows.

use std::fmt;
use std::iter::once;

use serde::de::value::{
    MapAccessDeserializer, MapDeserializer, StrDeserializer, StringDeserializer,
};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::path::Path;
use crate::protocol::error::CommandError;
use crate::protocol::value::{Dict, Value};

pub(super) fn decode<T: DeserializeOwned>(arguments: Dict) -> Result<T, CommandError> {
    let present = Present {
        value: Value::Object(arguments),
        path: &Path::Root,
    };
    T::deserialize(present).map_err(|error| error.0)
}

#[derive(Debug)]
pub(super) struct Error(CommandError);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(CommandError::generic(message.to_string()))
    }
}

/// The variants of an alternate that hold a value; no enumeration of the schema has names like these.
const INTEGER: &str = "integer";
const BOOLEAN: &str = "boolean";

struct Present<'p> {
    value: Value,
    path: &'p Path<'p>,
}

impl Present<'_> {
    fn wrong_type<T>(&self, expected: &str) -> Result<T, Error> {
        Err(Error(CommandError::parameter_type(
            &self.path.to_string(),
            expected,
        )))
    }

    fn members(self) -> Result<Dict, Error> {
        match self.value {
            Value::Object(members) => Ok(members),
            _ => self.wrong_type("object"),
        }
    }
}

impl<'de> Deserializer<'de> for Present<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom(
            "an argument of a type that the schema does not have",
        ))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => self.wrong_type("boolean"),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Int(number) => visitor.visit_i64(number),
            _ => self.wrong_type("integer"),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // The original accepts negative numbers and lets them wrap.
            Value::Int(number) => visitor.visit_u64(number as u64),
            Value::Uint(number) => visitor.visit_u64(number),
            _ => Err(Error(CommandError::parameter_expects(
                &self.path.to_string(),
                "uint64",
            ))),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // Moved, not copied: the content of a file is one string of up to 64 MiB.
            Value::String(text) => visitor.visit_string(text),
            _ => self.wrong_type("string"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(elements) => visitor.visit_seq(Elements {
                rest: elements.into_iter().enumerate(),
                path: self.path,
            }),
            _ => self.wrong_type("array"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let path = self.path;
        let mut members = self.members()?;
        let value = visitor.visit_map(Declared {
            rest: fields.iter(),
            next: "",
            members: &mut members,
            path,
        })?;
        match members.last_name() {
            None => Ok(value),
            Some(name) => {
                let path = Path::Member(path, name).to_string();
                Err(Error(CommandError::unexpected_parameter(&path)))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let scalar = match self.value {
            // Any number is tried as an integer: 1.5 gets the error of an integer, not of the alternate.
            Value::Int(_) | Value::Uint(_) | Value::Double(_) => INTEGER,
            Value::Bool(_) => BOOLEAN,
            _ => "",
        };
        let is_value = |variant: &str| variant == INTEGER || variant == BOOLEAN;
        match self.value {
            Value::String(text) if variants.contains(&text.as_str()) && !is_value(&text) => {
                let variant: StringDeserializer<Error> = text.into_deserializer();
                visitor.visit_enum(variant)
            }
            Value::String(text) => Err(Error(CommandError::parameter_value(
                &self.path.to_string(),
                &text,
            ))),
            _ if variants.contains(&scalar) => {
                let variant = MapDeserializer::new(once((scalar, self)));
                visitor.visit_enum(MapAccessDeserializer::new(variant))
            }
            _ if variants.iter().any(|variant| is_value(variant)) => self.wrong_type(name),
            _ => self.wrong_type("string"),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char str bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Present<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Absent<'p> {
    path: Path<'p>,
}

impl<'de> Deserializer<'de> for Absent<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error(CommandError::missing_parameter(
            &self.path.to_string(),
        )))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// In declaration order, those that were not sent included: serde itself would look at the sent members first, and the
/// first error would be another than the original's.
struct Declared<'p, 'm> {
    rest: std::slice::Iter<'static, &'static str>,
    next: &'static str,
    members: &'m mut Dict,
    path: &'p Path<'p>,
}

impl<'de> de::MapAccess<'de> for Declared<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.rest.next() else {
            return Ok(None);
        };
        self.next = name;
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let path = Path::Member(self.path, self.next);
        match self.members.remove(self.next) {
            Some(value) => seed.deserialize(Present { value, path: &path }),
            None => seed.deserialize(Absent { path }),
        }
    }
}

struct Elements<'p> {
    rest: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    path: &'p Path<'p>,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.rest.next() else {
            return Ok(None);
        };
        let path = Path::Element(self.path, index);
        seed.deserialize(Present { value, path: &path }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}
