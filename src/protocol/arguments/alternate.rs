//! Arguments that may have one of two JSON types. Floor 0.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, EnumAccess, VariantAccess, Visitor};

/// A member that is either a scalar (integer or boolean) or one name of an enumeration.
///
/// A JSON type that fits neither is refused with the type's name, which is the name of `E`: so
/// `E` has to be called as the schema calls the alternate, or say `#[serde(rename = "…")]`.
///
/// ```
/// use qemu_ga::protocol::arguments::Alternate;
///
/// #[derive(serde::Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum GuestFileWhence { Set, Cur, End }
///
/// #[derive(serde::Deserialize)]
/// struct Arguments {
///     handle: i64,
///     offset: i64,
///     whence: Alternate<i64, GuestFileWhence>,
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alternate<S, E> {
    /// The integer or boolean.
    Scalar(S),
    /// The name.
    Name(E),
}

/// The scalar types that an [`Alternate`] may have: `i64` (any JSON number is tried as one) and
/// `bool`.
pub trait Scalar: sealed::Sealed {}

impl Scalar for i64 {}
impl Scalar for bool {}

pub(super) mod sealed {
    /// Says under which name the decoder is asked for the alternate.
    pub trait Sealed {
        const REQUEST: &'static str;
    }

    impl Sealed for i64 {
        const REQUEST: &'static str = INTEGER;
    }

    impl Sealed for bool {
        const REQUEST: &'static str = BOOLEAN;
    }

    // No enumeration can have these names.
    pub(in super::super) const INTEGER: &str = "\0integer or name";
    pub(in super::super) const BOOLEAN: &str = "\0boolean or name";
}

/// The decoder's answers to a request for an alternate: which branch it chose.
pub(super) const SCALAR: u32 = 0;
pub(super) const NAME: u32 = 1;

impl<'de, S, E> Deserialize<'de> for Alternate<S, E>
where
    S: Scalar + Deserialize<'de>,
    E: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_enum(S::REQUEST, &[], Branches(PhantomData))
    }
}

struct Branches<S, E>(PhantomData<(S, E)>);

impl<'de, S, E> Visitor<'de> for Branches<S, E>
where
    S: Deserialize<'de>,
    E: Deserialize<'de>,
{
    type Value = Alternate<S, E>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar or a name")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Self::Value, A::Error> {
        match data.variant::<u32>()? {
            (SCALAR, branch) => branch.newtype_variant().map(Alternate::Scalar),
            (_, branch) => branch.newtype_variant().map(Alternate::Name),
        }
    }
}
