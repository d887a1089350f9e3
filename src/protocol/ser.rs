//! Reply structs to values. Floor 0.
//!
//! A serde serializer with the protocol's habits: an optional member that is `None` is left out
//! without any attribute on the struct, and a command that returns nothing (`()` or a struct
//! without members) answers `{}`.

use std::borrow::Cow;
use std::fmt;

use serde::ser::{self, Serialize};

use super::value::{Dict, Value};

/// The value of a reply. `None` members of structs and maps are left out; `()` is `{}`.
///
/// Replies are plain structs, enums, numbers, strings, lists and maps with string keys. A type
/// that is not (a map with other keys, an integer beyond 64 bits) is a defect of the caller:
/// debug builds stop there, release builds answer `null`.
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Value {
    let value = value.serialize(Serializer);
    debug_assert!(value.is_ok(), "not a reply: {value:?}");
    value.ok().flatten().unwrap_or_default()
}

#[derive(Debug)]
struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// `Ok(None)` is an absent member.
type Outcome = Result<Option<Value>, Error>;

struct Serializer;

fn present(value: impl Into<Value>) -> Outcome {
    Ok(Some(value.into()))
}

fn wrap(variant: &'static str, value: impl Into<Value>) -> Outcome {
    present([(variant, value.into())].into_iter().collect::<Dict>())
}

impl ser::Serializer for Serializer {
    type Ok = Option<Value>;
    type Error = Error;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = List;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    fn serialize_bool(self, v: bool) -> Outcome {
        present(v)
    }

    fn serialize_i8(self, v: i8) -> Outcome {
        present(i64::from(v))
    }

    fn serialize_i16(self, v: i16) -> Outcome {
        present(i64::from(v))
    }

    fn serialize_i32(self, v: i32) -> Outcome {
        present(i64::from(v))
    }

    fn serialize_i64(self, v: i64) -> Outcome {
        present(v)
    }

    fn serialize_u8(self, v: u8) -> Outcome {
        present(i64::from(v))
    }

    fn serialize_u16(self, v: u16) -> Outcome {
        present(i64::from(v))
    }

    fn serialize_u32(self, v: u32) -> Outcome {
        present(i64::from(v))
    }

    fn serialize_u64(self, v: u64) -> Outcome {
        present(v)
    }

    fn serialize_f32(self, v: f32) -> Outcome {
        present(f64::from(v))
    }

    fn serialize_f64(self, v: f64) -> Outcome {
        present(v)
    }

    fn serialize_char(self, v: char) -> Outcome {
        present(v.to_string())
    }

    fn serialize_str(self, v: &str) -> Outcome {
        present(v)
    }

    fn serialize_bytes(self, v: &[u8]) -> Outcome {
        present(
            v.iter()
                .map(|&byte| Value::Int(i64::from(byte)))
                .collect::<Vec<_>>(),
        )
    }

    fn serialize_none(self) -> Outcome {
        Ok(None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Outcome {
        present(Dict::new())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Outcome {
        present(Dict::new())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Outcome {
        present(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Outcome {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Outcome {
        wrap(variant, value.serialize(self)?.unwrap_or_default())
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<List, Error> {
        Ok(List {
            variant: None,
            elements: Vec::with_capacity(length.unwrap_or(0)),
        })
    }

    fn serialize_tuple(self, length: usize) -> Result<List, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<List, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<List, Error> {
        Ok(List {
            variant: Some(variant),
            elements: Vec::with_capacity(length),
        })
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Members, Error> {
        Ok(Members::default())
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Members, Error> {
        Ok(Members {
            members: Dict::with_capacity(length),
            ..Members::default()
        })
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Members, Error> {
        Ok(Members {
            variant: Some(variant),
            ..Members::default()
        })
    }
}

struct List {
    variant: Option<&'static str>,
    elements: Vec<Value>,
}

impl List {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.elements
            .push(value.serialize(Serializer)?.unwrap_or_default());
        Ok(())
    }

    fn finish(self) -> Outcome {
        match self.variant {
            Some(variant) => wrap(variant, self.elements),
            None => present(self.elements),
        }
    }
}

impl ser::SerializeSeq for List {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.push(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl ser::SerializeTuple for List {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.push(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl ser::SerializeTupleStruct for List {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.push(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl ser::SerializeTupleVariant for List {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.push(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

#[derive(Default)]
struct Members {
    variant: Option<&'static str>,
    members: Dict,
    key: Option<String>,
}

impl Members {
    fn insert<T: Serialize + ?Sized>(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        value: &T,
    ) -> Result<(), Error> {
        if let Some(value) = value.serialize(Serializer)? {
            self.members.insert(key, value);
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        match self.variant {
            Some(variant) => wrap(variant, self.members),
            None => present(self.members),
        }
    }
}

impl ser::SerializeMap for Members {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        match key.serialize(Serializer)? {
            Some(Value::String(key)) => self.key = Some(key),
            other => return Err(Error(format!("key {other:?} is not a string"))),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let key = self
            .key
            .take()
            .ok_or_else(|| Error("value without a key".to_owned()))?;
        self.insert(key, value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl ser::SerializeStruct for Members {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.insert(key, value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl ser::SerializeStructVariant for Members {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.insert(key, value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::protocol::output::write_value;

    fn shown<T: Serialize>(value: &T) -> String {
        let mut out = Vec::new();
        write_value(&mut out, &to_value(value));
        String::from_utf8(out).unwrap()
    }

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Reply {
        exited: bool,
        exitcode: Option<i32>,
        out_data: Option<String>,
        list: Vec<Option<u64>>,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        UsbStick,
        Other(u8),
        Pair(u8, u8),
        Named { left: Option<u8> },
    }

    #[derive(Serialize)]
    #[serde(tag = "type", rename_all = "kebab-case")]
    enum Tagged {
        Nvme { temperature: u64, spare: Option<u8> },
    }

    #[derive(Serialize)]
    struct Flat {
        name: &'static str,
        #[serde(flatten)]
        rest: Option<Rest>,
    }

    #[derive(Serialize)]
    struct Rest {
        a: Option<u8>,
        b: Option<u8>,
    }

    #[derive(Serialize)]
    struct Nothing {}

    #[test]
    fn absent_members_are_left_out() {
        let reply = Reply {
            exited: true,
            exitcode: None,
            out_data: None,
            list: vec![None, Some(1)],
        };
        assert_eq!(shown(&reply), r#"{"list": [null, 1], "exited": true}"#);
        let reply = Reply {
            exited: true,
            exitcode: Some(-3),
            out_data: None,
            list: vec![],
        };
        assert_eq!(to_value(&reply), {
            let mut dict = Dict::new();
            dict.insert("list", Vec::new());
            dict.insert("exitcode", -3_i64);
            dict.insert("exited", true);
            Value::Object(dict)
        });
        let flat = Flat {
            name: "n",
            rest: Some(Rest {
                a: None,
                b: Some(2),
            }),
        };
        let Value::Object(flat) = to_value(&flat) else {
            panic!("not an object")
        };
        assert_eq!(
            flat.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            ["name", "b"]
        );
    }

    #[test]
    fn every_shape() {
        assert_eq!(shown(&()), "{}");
        assert_eq!(shown(&Nothing {}), "{}");
        assert_eq!(shown(&Kind::UsbStick), r#""usb-stick""#);
        assert_eq!(shown(&Kind::Other(1)), r#"{"other": 1}"#);
        assert_eq!(shown(&Kind::Pair(1, 2)), r#"{"pair": [1, 2]}"#);
        assert_eq!(shown(&Kind::Named { left: None }), r#"{"named": {}}"#);
        assert_eq!(shown(&u64::MAX), "18446744073709551615");
        assert_eq!(shown(&1.5), "1.5");
        assert_eq!(shown(&[1_u8, 2]), "[1, 2]");
        let tagged = shown(&Tagged::Nvme {
            temperature: 300,
            spare: None,
        });
        assert_eq!(tagged, r#"{"temperature": 300, "type": "nvme"}"#);
        let map = std::collections::BTreeMap::from([("b", 1), ("a", 2)]);
        assert_eq!(
            to_value(&map),
            [("a", 2_i64), ("b", 1)]
                .into_iter()
                .collect::<Dict>()
                .into()
        );
    }
}
