//! Floor 0: the wire protocol, pure.
//!
//! Bytes become messages ([`framing`]), messages become requests ([`request`]), their arguments
//! become typed structs ([`arguments`]), and results become answer lines ([`reply`]). Every text
//! that the peer reads is made in [`error`].
//!
//! What always holds: no I/O, no clock, no task; no byte string panics or overflows the stack;
//! what comes out does not depend on how the input was cut into pieces; memory of a message that
//! was finished or dropped is given back.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod base64;
pub mod error;
pub mod framing;
pub mod reply;
pub mod request;
pub mod text;
pub mod value;

mod dict;
mod lexer;
mod literal;
mod number;
mod output;
mod parser;
mod ser;

#[cfg(test)]
mod tests;
