//! Doubles as the wire prints them: C's `%.17g`. Floor 0.
//!
//! Rust's formatting has no `%g`, and snprintf(3) would need unsafe code for one number. The digits come from Rust's
//! exponent format, which rounds correctly at any precision. `output` calls it.

use std::io::Write as _;

/// Enough to tell any two doubles apart.
const DIGITS: i32 = 17;

/// With trailing zeros dropped. JSON has no infinity, but a client can send one in its id (`1e400`): it comes back as
/// the largest double of that sign, so that the reply stays JSON. The original prints `inf` there.
pub(super) fn write_double(out: &mut Vec<u8>, value: f64) {
    let value = if value.is_nan() {
        0.0
    } else {
        value.clamp(f64::MIN, f64::MAX)
    };
    let scientific = format!("{value:.*e}", (DIGITS - 1) as usize);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_end_matches('0');
    let significant = if significant.is_empty() {
        "0"
    } else {
        significant
    };
    out.extend_from_slice(sign.as_bytes());
    if (-4..DIGITS).contains(&exponent) {
        write_plain(out, &digits, significant.len(), exponent);
    } else {
        let (first, rest) = significant.split_at(1);
        out.extend_from_slice(first.as_bytes());
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest.as_bytes());
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        // Writing to a vector cannot fail.
        let _ = write!(out, "e{sign}{:02}", exponent.abs());
    }
}

/// `digits` with the decimal point after the place that `exponent` names.
fn write_plain(out: &mut Vec<u8>, digits: &str, significant: usize, exponent: i32) {
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend((exponent + 1..0).map(|_| b'0'));
        out.extend_from_slice(&digits.as_bytes()[..significant]);
        return;
    }
    let whole = exponent.unsigned_abs() as usize + 1;
    out.extend_from_slice(&digits.as_bytes()[..whole]);
    if significant > whole {
        out.push(b'.');
        out.extend_from_slice(&digits.as_bytes()[whole..significant]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_c_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (0.1, "0.10000000000000001"),
            (0.5, "0.5"),
            (-0.05, "-0.050000000000000003"),
            (0.0001, "0.0001"),
            (1e-5, "1.0000000000000001e-05"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1e20, "1e+20"),
            (1e100, "1e+100"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (5e-324, "4.9406564584124654e-324"),
            (-9_223_372_036_854_775_808.0, "-9.2233720368547758e+18"),
            // Ties go to the even digit.
            (562_949_953_421_312.0 + 0.125, "562949953421312.12"),
            (562_949_953_421_312.0 + 0.375, "562949953421312.38"),
            (1.103_515_625, "1.103515625"),
            (f64::INFINITY, "1.7976931348623157e+308"),
            (f64::NEG_INFINITY, "-1.7976931348623157e+308"),
        ] {
            let mut out = Vec::new();
            write_double(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
