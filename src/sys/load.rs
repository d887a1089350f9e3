//! The load average (floor 1), by getloadavg(3).

use std::io;

use nix::libc;

/// How many processes wanted to run, averaged over 1, 5 and 15 minutes.
///
/// # Errors
/// The kernel does not tell all three.
pub fn average() -> io::Result<[f64; 3]> {
    let mut loads = [0.0; 3];
    // SAFETY: the array has room for as many values as are asked for.
    let told = unsafe { libc::getloadavg(loads.as_mut_ptr(), 3) };
    if told == 3 {
        Ok(loads)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_load_is_negative() {
        let loads = average().unwrap();
        assert!(
            loads.iter().all(|load| *load >= 0.0 && load.is_finite()),
            "{loads:?}"
        );
    }
}
