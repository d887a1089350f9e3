//! Reply structs to values. Floor 0.
//!
//! A serializer of serde with two rules of the protocol: a member that is `None` is left out without any attribute on the
//! struct, and a command that returns nothing (`()` or a struct without members) answers `{}`. serde_json's own values do
//! not serve: they sort the members, and the wire shows the order of declaration where two share a bucket of
//! [`Dict::wire_order`]. The handlers of commands use it through [`to_value`].

use std::fmt;

use serde::ser::{self, Impossible, Serialize};

use super::value::{Dict, Value};

/// Any type that no reply has (a map) is a defect of the caller: debug builds stop there, release builds answer `null`,
/// because an agent that ends cannot thaw.
pub(crate) fn to_value<T: Serialize + ?Sized>(value: &T) -> Value {
    let value = value.serialize(Serializer);
    debug_assert!(value.is_ok(), "not a reply: {value:?}");
    value.unwrap_or_default().unwrap_or_default()
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

fn unsupported<T>(what: &str) -> Result<T, Error> {
    Err(Error(format!("{what} in a reply")))
}

/// `None` is a member to be left out.
type Serialized = Result<Option<Value>, Error>;

fn present(value: impl Into<Value>) -> Serialized {
    Ok(Some(value.into()))
}

/// `{"exited": 3}`: the hooks of a report have such a status.
fn variant_with(variant: &'static str, value: Value) -> Serialized {
    present([(variant, value)].into_iter().collect::<Dict>())
}

fn insert<T: Serialize + ?Sized>(
    members: &mut Dict,
    name: &'static str,
    value: &T,
) -> Result<(), Error> {
    if let Some(value) = value.serialize(Serializer)? {
        members.insert(name, value);
    }
    Ok(())
}

struct Serializer;

type NotInReplies = Impossible<Option<Value>, Error>;

impl ser::Serializer for Serializer {
    type Ok = Option<Value>;
    type Error = Error;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = NotInReplies;
    type SerializeTupleVariant = NotInReplies;
    type SerializeMap = NotInReplies;
    type SerializeStruct = Members;
    type SerializeStructVariant = VariantMembers;

    fn serialize_bool(self, v: bool) -> Serialized {
        present(v)
    }

    fn serialize_i8(self, v: i8) -> Serialized {
        present(i64::from(v))
    }

    fn serialize_i16(self, v: i16) -> Serialized {
        present(i64::from(v))
    }

    fn serialize_i32(self, v: i32) -> Serialized {
        present(i64::from(v))
    }

    fn serialize_i64(self, v: i64) -> Serialized {
        present(v)
    }

    fn serialize_u8(self, v: u8) -> Serialized {
        present(i64::from(v))
    }

    fn serialize_u16(self, v: u16) -> Serialized {
        present(i64::from(v))
    }

    fn serialize_u32(self, v: u32) -> Serialized {
        present(i64::from(v))
    }

    fn serialize_u64(self, v: u64) -> Serialized {
        present(v)
    }

    fn serialize_f32(self, v: f32) -> Serialized {
        present(f64::from(v))
    }

    fn serialize_f64(self, v: f64) -> Serialized {
        present(v)
    }

    fn serialize_char(self, _: char) -> Serialized {
        unsupported("a character")
    }

    fn serialize_str(self, v: &str) -> Serialized {
        present(v)
    }

    fn serialize_bytes(self, _: &[u8]) -> Serialized {
        unsupported("a byte string")
    }

    fn serialize_none(self) -> Serialized {
        Ok(None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Serialized {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Serialized {
        present(Dict::new())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Serialized {
        present(Dict::new())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Serialized {
        present(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Serialized {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Serialized {
        variant_with(variant, value.serialize(self)?.unwrap_or_default())
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<List, Error> {
        Ok(List(Vec::with_capacity(length.unwrap_or(0))))
    }

    fn serialize_tuple(self, length: usize) -> Result<List, Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<NotInReplies, Error> {
        unsupported("a tuple struct")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<NotInReplies, Error> {
        unsupported("a tuple variant")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<NotInReplies, Error> {
        unsupported("a map")
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Members, Error> {
        Ok(Members(Dict::with_capacity(length)))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<VariantMembers, Error> {
        Ok(VariantMembers(variant, Dict::with_capacity(length)))
    }
}

struct List(Vec<Value>);

impl ser::SerializeSeq for List {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        // A list cannot leave anything out: `None` is `null` there.
        self.0
            .push(value.serialize(Serializer)?.unwrap_or_default());
        Ok(())
    }

    fn end(self) -> Serialized {
        present(self.0)
    }
}

impl ser::SerializeTuple for List {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        ser::SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Serialized {
        present(self.0)
    }
}

struct Members(Dict);

impl ser::SerializeStruct for Members {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        insert(&mut self.0, name, value)
    }

    fn end(self) -> Serialized {
        present(self.0)
    }
}

struct VariantMembers(&'static str, Dict);

impl ser::SerializeStructVariant for VariantMembers {
    type Ok = Option<Value>;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        insert(&mut self.1, name, value)
    }

    fn end(self) -> Serialized {
        variant_with(self.0, self.1.into())
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
    enum Bus {
        UsbStick,
        Other(u8),
        Named { left: Option<u8>, right: u8 },
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
    }

    #[test]
    fn every_shape() {
        assert_eq!(shown(&()), "{}");
        assert_eq!(shown(&Nothing {}), "{}");
        assert_eq!(shown(&Bus::UsbStick), r#""usb-stick""#);
        assert_eq!(shown(&Bus::Other(1)), r#"{"other": 1}"#);
        let named = Bus::Named {
            left: None,
            right: 2,
        };
        assert_eq!(shown(&named), r#"{"named": {"right": 2}}"#);
        assert_eq!(shown(&u64::MAX), "18446744073709551615");
        assert_eq!(shown(&1.5), "1.5");
        assert_eq!(shown(&[1_u8, 2]), "[1, 2]");
        assert_eq!(shown(&(8_u32, 1_u32)), "[8, 1]");
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a map in a reply")]
    fn a_type_that_no_reply_has_stops_a_debug_build() {
        to_value(&std::collections::BTreeMap::from([("a", 1)]));
    }
}
