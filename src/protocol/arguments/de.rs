//! The deserializer behind [`super::decode`]. Floor 0.

use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer, U32Deserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::alternate::sealed::{BOOLEAN, INTEGER};
use super::alternate::{NAME, SCALAR};
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

/// A value that was sent.
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

    fn out_of_range<T>(&self, expected: &str) -> Result<T, Error> {
        Err(Error(CommandError::parameter_expects(
            &self.path.to_string(),
            expected,
        )))
    }

    fn signed<T: TryFrom<i64>>(&self, expected: &str) -> Result<T, Error> {
        match self.value {
            Value::Int(number) => T::try_from(number).or_else(|_| self.out_of_range(expected)),
            _ => self.wrong_type("integer"),
        }
    }

    fn unsigned<T: TryFrom<u64>>(&self, expected: &str) -> Result<T, Error> {
        let number = match self.value {
            Value::Int(number) => u64::try_from(number).ok(),
            Value::Uint(number) => Some(number),
            _ => None,
        };
        match number.map(T::try_from) {
            Some(Ok(number)) => Ok(number),
            _ => self.out_of_range(expected),
        }
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

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(number) => visitor.visit_i64(number),
            Value::Uint(number) => visitor.visit_u64(number),
            Value::Double(number) => visitor.visit_f64(number),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => self.wrong_type("boolean"),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i8(self.signed("int8")?)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i16(self.signed("int16")?)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(self.signed("int32")?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.signed("integer")?)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u8(self.unsigned("uint8")?)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u16(self.unsigned("uint16")?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u32(self.unsigned("uint32")?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            // The original takes negative numbers and lets them wrap.
            Value::Int(number) => visitor.visit_u64(number as u64),
            _ => visitor.visit_u64(self.unsigned("uint64")?),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Int(number) => visitor.visit_f64(number as f64),
            Value::Uint(number) => visitor.visit_f64(number as f64),
            Value::Double(number) => visitor.visit_f64(number),
            _ => self.wrong_type("number"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_string(text),
            _ => self.wrong_type("string"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
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

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        let members = self.members()?;
        visitor.visit_map(Members {
            rest: members.into_iter(),
            value: None,
            path,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let path = self.path;
        let mut members = self.members()?;
        let rest = fields.iter();
        let value = visitor.visit_map(Declared {
            rest,
            next: "",
            members: &mut members,
            path,
        })?;
        match members.iter().next_back() {
            None => Ok(value),
            Some((name, _)) => {
                let place = Path::Member(path, name).to_string();
                Err(Error(CommandError::unexpected_parameter(&place)))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == INTEGER || name == BOOLEAN {
            return visitor.visit_enum(Branch {
                present: self,
                request: name,
            });
        }
        match self.value {
            Value::String(text) if variants.contains(&text.as_str()) => {
                let name: StringDeserializer<Error> = text.into_deserializer();
                visitor.visit_enum(name)
            }
            Value::String(text) => Err(Error(CommandError::parameter_value(
                &self.path.leaf(),
                &text,
            ))),
            _ => self.wrong_type("string"),
        }
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A declared member that was not sent.
struct Absent<'p> {
    path: Path<'p>,
}

impl<'de> Deserializer<'de> for Absent<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error(CommandError::missing_parameter(
            &self.path.to_string(),
        )))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The declared members of a struct, sent or not, in declaration order.
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

/// The elements of an array.
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

/// All members of an object, for maps without declared members.
struct Members<'p> {
    rest: <Dict as IntoIterator>::IntoIter,
    value: Option<(String, Value)>,
    path: &'p Path<'p>,
}

impl<'de> de::MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        let key = key.into_owned();
        let name: StringDeserializer<Error> = key.clone().into_deserializer();
        self.value = Some((key, value));
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.value.take().unwrap_or_default();
        seed.deserialize(Present {
            value,
            path: &Path::Member(self.path, &key),
        })
    }
}

/// The branch of an alternate that a value's JSON type chooses.
struct Branch<'p> {
    present: Present<'p>,
    request: &'static str,
}

impl<'de, 'p> de::EnumAccess<'de> for Branch<'p> {
    type Error = Error;
    type Variant = BranchValue<'p>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, BranchValue<'p>), Error> {
        let (choice, fits) = match (self.request, &self.present.value) {
            (INTEGER, Value::Int(_) | Value::Uint(_) | Value::Double(_))
            | (BOOLEAN, Value::Bool(_)) => (SCALAR, true),
            (_, Value::String(_)) => (NAME, true),
            _ => (NAME, false),
        };
        let deserializer: U32Deserializer<Error> = choice.into_deserializer();
        Ok((
            seed.deserialize(deserializer)?,
            BranchValue {
                present: self.present,
                fits,
            },
        ))
    }
}

struct BranchValue<'p> {
    present: Present<'p>,
    fits: bool,
}

impl<'de> de::VariantAccess<'de> for BranchValue<'_> {
    type Error = Error;

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        if self.fits {
            seed.deserialize(self.present)
        } else {
            seed.deserialize(Neither {
                leaf: self.present.path.leaf(),
            })
        }
    }

    fn unit_variant(self) -> Result<(), Error> {
        Err(de::Error::custom("an alternate always has a value"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("an alternate has one value"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(de::Error::custom("an alternate has no members"))
    }
}

/// A value that fits no branch of an alternate; the enumeration asked of it names the type.
struct Neither {
    leaf: String,
}

impl<'de> Deserializer<'de> for Neither {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error(CommandError::parameter_type(&self.leaf, "string")))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(Error(CommandError::parameter_type(&self.leaf, name)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
