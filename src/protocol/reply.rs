//! Reply lines. Floor 0.
//!
//! The outer object is written here and not as a [`Value`], because its members have a fixed order and the reply itself may
//! have megabytes. `agent::session` calls it for each reply.

use super::error::CommandError;
use super::output::{write_string, write_value};
use super::value::Value;

/// The byte before the reply to a guest-sync-delimited: a client skips everything up to it.
pub(crate) const SENTINEL: u8 = 0xFF;

/// Appends the line. `id` is the request's, whatever its type; with `sentinel` the line begins with [`SENTINEL`].
pub fn write(
    out: &mut Vec<u8>,
    id: Option<&Value>,
    result: Result<&Value, &CommandError>,
    sentinel: bool,
) {
    if sentinel {
        out.push(SENTINEL);
    }
    match result {
        Ok(value) => {
            out.extend_from_slice(b"{\"return\": ");
            write_value(out, value);
            if let Some(id) = id {
                out.extend_from_slice(b", \"id\": ");
                write_value(out, id);
            }
        }
        Err(error) => {
            out.push(b'{');
            if let Some(id) = id {
                out.extend_from_slice(b"\"id\": ");
                write_value(out, id);
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(b"\"error\": {\"class\": ");
            write_string(out, error.class.as_str());
            out.extend_from_slice(b", \"desc\": ");
            write_string(out, &error.desc);
            out.push(b'}');
        }
    }
    out.extend_from_slice(b"}\n");
}
