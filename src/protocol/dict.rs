//! The members of a JSON object. Floor 0.
//!
//! Names are unique, and members keep the order in which they came: on the wire that order decides between two members of
//! one bucket ([`Dict::wire_order`]), and the error about unexpected arguments names the last one sent. A lookup takes the
//! same time whatever the size. The parser, replies and the decoder of arguments use it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::text;
use super::value::Value;

/// A reply's names are constants and need no copy.
type Name = Cow<'static, str>;

/// The members of a JSON object, in insertion order, with unique names.
#[derive(Debug, Clone, Default)]
pub struct Dict {
    /// Each value with the number of its insertion. The hash has a random key: 500,000 members with names chosen to
    /// collide would keep the agent busy for hours otherwise.
    members: HashMap<Name, (usize, Value)>,
    next: usize,
}

impl Dict {
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(super) fn with_capacity(members: usize) -> Self {
        Self {
            members: HashMap::with_capacity(members),
            next: 0,
        }
    }

    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.members.get(key).map(|(_, value)| value)
    }

    /// Adds a member at the end, or replaces its value and keeps its place; returns the old value.
    pub(crate) fn insert(
        &mut self,
        key: impl Into<Name>,
        value: impl Into<Value>,
    ) -> Option<Value> {
        match self.members.entry(key.into()) {
            Entry::Occupied(mut member) => {
                Some(std::mem::replace(&mut member.get_mut().1, value.into()))
            }
            Entry::Vacant(place) => {
                place.insert((self.next, value.into()));
                self.next += 1;
                None
            }
        }
    }

    /// The others keep their order.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Value> {
        self.members.remove(key).map(|(_, value)| value)
    }

    pub(super) fn last_name(&self) -> Option<&str> {
        let last = self.members.iter().max_by_key(|(_, (number, _))| *number);
        last.map(|(name, _)| name.as_ref())
    }

    /// The members in the order in which the wire lists them and the dispatcher checks them: by bucket of a hash of the
    /// name, the latest first within a bucket.
    #[must_use]
    pub(crate) fn wire_order(&self) -> Vec<(&str, &Value)> {
        let mut members: Vec<_> = self.members.iter().collect();
        // The original prints its own hash table, and clients see that order: it is part of the protocol in practice.
        members.sort_by_cached_key(|(name, (number, _))| (bucket(name), Reverse(*number)));
        members
            .into_iter()
            .map(|(name, (_, value))| (name.as_ref(), value))
            .collect()
    }
}

/// The bucket of 512 that decides a member's place on the wire.
fn bucket(key: &str) -> u32 {
    let (mut length, mut sum, mut shift) = (0_u32, 0_u32, 0);
    for byte in text::modified_utf8(key).iter() {
        sum = sum.wrapping_add(u32::from(*byte) << shift);
        length = length.wrapping_add(1);
        shift = if shift < 19 { shift + 5 } else { shift - 19 };
    }
    let seed = 0x238F_13AF_u32.wrapping_mul(length).wrapping_add(sum);
    seed.wrapping_mul(1_103_515_243).wrapping_add(12_345) % 512
}

/// The order does not count.
impl PartialEq for Dict {
    fn eq(&self, other: &Self) -> bool {
        self.members.len() == other.members.len()
            && self
                .members
                .iter()
                .all(|(name, (_, value))| other.get(name) == Some(value))
    }
}

impl<K: Into<Name>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        let mut dict = Self::new();
        for (key, value) in members {
            dict.insert(key, value);
        }
        dict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_value_keeps_its_place_and_a_removed_member_loses_it() {
        // These two share a bucket: the later one is listed first.
        const FIRST: &str = "load1m";
        const SECOND: &str = "load5m";
        let mut dict = Dict::new();
        let names = |dict: &Dict| {
            let names = dict
                .wire_order()
                .into_iter()
                .map(|(name, _)| name.to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(dict.insert(FIRST, 1_i64), None);
        assert_eq!(dict.insert(SECOND, 2_i64), None);
        assert_eq!(names(&dict), [SECOND, FIRST]);
        assert_eq!(dict.insert(FIRST, "new"), Some(Value::Int(1)));
        assert_eq!(names(&dict), [SECOND, FIRST]);
        assert_eq!(dict.last_name(), Some(SECOND));
        assert_eq!(dict.remove(FIRST), Some(Value::from("new")));
        assert_eq!(dict.remove(FIRST), None);
        assert_eq!(dict.get(FIRST), None);
        dict.insert(FIRST, 3_i64);
        assert_eq!(names(&dict), [FIRST, SECOND]);
        assert_eq!(dict.last_name(), Some(FIRST));
        assert_eq!(dict.get(SECOND), Some(&Value::Int(2)));
    }

    #[test]
    fn wire_order_is_the_observed_one() {
        for names in [
            &["return", "id"][..],
            &["id", "error"],
            &["class", "desc"],
            &["version", "supported_commands"],
            &["enabled", "name", "success-response"],
            &["count", "buf-b64", "eof"],
            &["eof", "position"],
            &[
                "exitcode",
                "err-data",
                "out-data",
                "err-truncated",
                "signal",
                "out-truncated",
                "exited",
            ],
            &["name", "ip-addresses", "statistics", "hardware-address"],
            &["online", "can-offline", "logical-id"],
            &[
                "name",
                "total-bytes",
                "total-bytes-privileged",
                "mountpoint",
                "disk",
                "used-bytes",
                "type",
            ],
            &[
                "name",
                "kernel-release",
                "version",
                "variant",
                "pretty-name",
                "version-id",
                "variant-id",
                "kernel-version",
                "machine",
                "id",
            ],
            &["execute", "arguments", "id"],
        ] {
            for members in [names.to_vec(), names.iter().rev().copied().collect()] {
                let dict: Dict = members.into_iter().map(|name| (name, 1_i64)).collect();
                let order: Vec<_> = dict.wire_order().into_iter().map(|(key, _)| key).collect();
                assert_eq!(order, names);
            }
        }
    }

    #[test]
    fn the_latest_comes_first_within_a_bucket() {
        let dict: Dict = (0..3000_i64).map(|n| (format!("k{n}"), n)).collect();
        let mut last = (0, i64::MAX);
        for (key, value) in dict.wire_order() {
            let Value::Int(n) = *value else {
                panic!("{value:?}")
            };
            let here = (bucket(key), n);
            assert!(here.0 > last.0 || (here.0 == last.0 && here.1 < last.1));
            last = here;
        }
    }
}
