//! Answer lines. Floor 0.

use super::error::CommandError;
use super::output::{write_string, write_value};
use super::value::Value;

/// The byte that precedes the answer of a delimited sync.
pub const SENTINEL: u8 = 0xFF;

/// Appends one answer line, its LF included, members in the wire's order.
///
/// `id` is the request's, echoed whatever it is; `sentinel` puts 0xFF in front.
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
