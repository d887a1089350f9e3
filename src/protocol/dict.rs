//! A JSON object's members. Floor 0.
//!
//! Members stay in the order in which they came; lookups in large objects go through an index
//! of slots, hashed with a random key, so that no choice of names makes them slow.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::hash::{BuildHasher, RandomState};

use super::text;
use super::value::Value;

/// Objects up to this size are searched linearly and have no index.
const SMALL: usize = 8;
const EMPTY: u32 = u32::MAX;

/// A reply's names are fixed: they need no copy.
type Member = (Cow<'static, str>, Value);

/// The members of a JSON object, in insertion order, with unique names.
#[derive(Debug, Clone, Default)]
pub struct Dict {
    /// `None` where a member was removed.
    entries: Vec<Option<Member>>,
    live: usize,
    index: Option<Box<Index>>,
}

/// Open addressing with linear probing; each slot holds a position in `entries`.
#[derive(Debug, Clone)]
struct Index {
    hasher: RandomState,
    /// A power of two, at most half full.
    slots: Vec<u32>,
}

impl Index {
    /// The positions that may hold `key`, then the free slot where the search ends.
    fn probe(&self, key: &str) -> impl Iterator<Item = (usize, u32)> + '_ {
        let mask = self.slots.len() - 1;
        let hash = self.hasher.hash_one(key);
        // Only the low bits matter: the mask is applied to each step.
        let start = hash as usize;
        (0..self.slots.len()).map(move |step| {
            let slot = start.wrapping_add(step) & mask;
            (slot, self.slots[slot])
        })
    }

    fn add(&mut self, key: &str, position: usize) {
        let free = self.probe(key).find(|&(_, found)| found == EMPTY);
        if let (Some((slot, _)), Ok(position)) = (free, u32::try_from(position)) {
            self.slots[slot] = position;
        }
    }
}

impl Dict {
    /// An object without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An object without members that has room for so many.
    pub(super) fn with_capacity(members: usize) -> Self {
        Self {
            entries: Vec::with_capacity(members),
            ..Self::default()
        }
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The member's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let position = self.position(key)?;
        self.entries[position].as_ref().map(|(_, value)| value)
    }

    /// Adds a member at the end, or replaces its value where it stands; returns the old value.
    pub fn insert(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Value>,
    ) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        if let Some(position) = self.position(&key) {
            let old = self.entries[position].replace((key, value));
            return old.map(|(_, value)| value);
        }
        self.make_room();
        if let Some(index) = &mut self.index {
            index.add(&key, self.entries.len());
        }
        self.entries.push(Some((key, value)));
        self.live += 1;
        None
    }

    /// Takes a member out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let position = self.position(key)?;
        let (_, value) = self.entries[position].take()?;
        self.live -= 1;
        if self.live == 0 {
            *self = Self::default();
        }
        Some(value)
    }

    /// The members in insertion order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_ref(), value))
    }

    /// The members in the order in which the wire lists them and the dispatcher checks them: by
    /// bucket of a hash of the name, the latest first within a bucket.
    #[must_use]
    pub fn wire_order(&self) -> Vec<(&str, &Value)> {
        let mut members = Vec::with_capacity(self.live);
        for (at, (key, value)) in self.iter().enumerate() {
            members.push((bucket(key), at, key, value));
        }
        members.sort_unstable_by_key(|&(bucket, at, ..)| (bucket, Reverse(at)));
        members
            .into_iter()
            .map(|(_, _, key, value)| (key, value))
            .collect()
    }

    fn position(&self, key: &str) -> Option<usize> {
        let is_key =
            |position: usize| matches!(self.entries.get(position), Some(Some((k, _))) if k == key);
        match &self.index {
            None => (0..self.entries.len()).find(|&position| is_key(position)),
            Some(index) => index
                .probe(key)
                .take_while(|&(_, found)| found != EMPTY)
                .map(|(_, found)| found as usize)
                .find(|&position| is_key(position)),
        }
    }

    /// Makes sure that one more entry fits the index: drops removed entries and rebuilds it
    /// twice as large when it is half full.
    fn make_room(&mut self) {
        let room = self
            .index
            .as_ref()
            .map_or(SMALL, |index| index.slots.len() / 2);
        if self.entries.len() < room {
            return;
        }
        self.entries.retain(Option::is_some);
        if self.live < SMALL {
            self.index = None;
            return;
        }
        let slots = vec![EMPTY; (self.live * 4).next_power_of_two()];
        let mut index = Box::new(Index {
            hasher: RandomState::new(),
            slots,
        });
        for (position, (key, _)) in self.entries.iter().flatten().enumerate() {
            index.add(key, position);
        }
        self.index = Some(index);
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

/// Equal when both have the same members; the order does not count.
impl PartialEq for Dict {
    fn eq(&self, other: &Self) -> bool {
        self.live == other.live
            && self
                .iter()
                .all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Into<Cow<'static, str>>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        let mut dict = Self::new();
        for (key, value) in members {
            dict.insert(key, value);
        }
        dict
    }
}

impl IntoIterator for Dict {
    type Item = Member;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Option<Member>>>;

    /// The members in insertion order.
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_insertion_order_through_removal_and_growth() {
        let mut dict = Dict::new();
        for n in 0..1000_i64 {
            assert_eq!(dict.insert(format!("k{n}"), n), None);
        }
        for n in (0..1000).step_by(2) {
            assert_eq!(dict.remove(&format!("k{n}")), Some(Value::Int(n)));
            assert_eq!(dict.remove(&format!("k{n}")), None);
        }
        for n in 1000..3000_i64 {
            dict.insert(format!("k{n}"), n);
        }
        assert_eq!(dict.insert("k1", "new"), Some(Value::Int(1)));
        assert_eq!(dict.len(), 2500);
        assert_eq!(dict.get("k2999"), Some(&Value::Int(2999)));
        assert_eq!(dict.get("k998"), None);
        let keys: Vec<_> = dict.iter().map(|(key, _)| key.to_owned()).collect();
        let expected: Vec<_> = (1..1000)
            .step_by(2)
            .chain(1000..3000)
            .map(|n| format!("k{n}"))
            .collect();
        assert_eq!(keys, expected);
        assert_eq!(dict.get("k1"), Some(&Value::from("new")));
    }

    #[test]
    fn removed_and_added_again_for_ever_does_not_grow() {
        let mut dict: Dict = (0..20_i64).map(|n| (format!("k{n}"), n)).collect();
        for _ in 0..100_000 {
            dict.remove("k0");
            dict.insert("k0", 1_i64);
        }
        assert!(dict.entries.len() < 200, "{}", dict.entries.len());
        assert_eq!(dict.len(), 20);
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
