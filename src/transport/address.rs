//! Parses the address of a vsock socket. Floor 2, called by `socket`.
//!
//! What is accepted is what the original accepts, odd as it is.

use super::ChannelError;
use nix::sys::socket::VsockAddr;

/// `<cid>:<port>`; the port ends at a comma. A part has at most 32 characters.
pub fn parse_vsock(text: &str) -> Result<VsockAddr, ChannelError> {
    let bad = || {
        ChannelError(format!(
            "error parsing address '{text}' (expected <cid>:<port>)"
        ))
    };
    let (cid, rest) = text.split_once(':').ok_or_else(bad)?;
    let (port, trailing) = rest
        .split_once(',')
        .map_or((rest, None), |(p, t)| (p, Some(t)));
    if [cid, port]
        .iter()
        .any(|part| part.is_empty() || part.len() > 32)
    {
        return Err(bad());
    }
    if trailing.is_some() {
        return Err(ChannelError(format!(
            "trailing characters in address '{text}'"
        )));
    }
    let number = |part: &str, what: &str| {
        part.parse::<u32>()
            .map_err(|_| ChannelError(format!("invalid {what} '{part}' in address '{text}'")))
    };
    Ok(VsockAddr::new(number(cid, "cid")?, number(port, "port")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vsock_addresses() {
        let good = parse_vsock("3:1234").unwrap();
        assert_eq!((good.cid(), good.port()), (3, 1234));
        assert_eq!(parse_vsock("4294967295:1").unwrap().cid(), u32::MAX);
        for (text, reason) in [
            ("1234", "error parsing address"),
            (":1", "error parsing address"),
            ("3:", "error parsing address"),
            ("3:1,x", "trailing characters"),
            ("x:1", "invalid cid 'x'"),
            ("3:y", "invalid port 'y'"),
            ("3:99999999999", "invalid port"),
        ] {
            let error = parse_vsock(text).unwrap_err().0;
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
