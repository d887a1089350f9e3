//! Floor 1: the only `unsafe` of the crate, each piece behind a safe, owning API.
//!
//! What the `nix` crate already makes safe is used from there; here lives the rest: the freeze
//! ioctls, memory locking, the environment of socket activation, becoming a daemon.

pub mod activation;
pub mod daemon;
pub mod fsfreeze;
pub mod memory;

/// The system's own words for an error (strerror(3)), which is what goes over the wire.
pub fn strerror(error: &std::io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(code) => text
            .trim_end_matches(&format!(" (os error {code})"))
            .to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn strerror_is_the_c_library_s_text() {
        let text = |code| super::strerror(&std::io::Error::from_raw_os_error(code));
        assert_eq!(text(nix::libc::EOPNOTSUPP), "Operation not supported");
        assert_eq!(text(nix::libc::ENOENT), "No such file or directory");
        assert_eq!(
            super::strerror(&std::io::Error::other("own words")),
            "own words"
        );
    }
}
