//! The load average (floor 1), by getloadavg(3).

use std::io;

use nix::libc;

/// Of 1, 5 and 15 minutes. Fails if fewer are available, as without /proc.
pub fn read_average() -> io::Result<[f64; 3]> {
    let mut loads = [0.0; 3];
    // SAFETY: the array has room for the three values that are requested.
    let count = unsafe { libc::getloadavg(loads.as_mut_ptr(), 3) };
    if count == 3 {
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
        let loads = read_average().unwrap();
        assert!(
            loads.iter().all(|load| *load >= 0.0 && load.is_finite()),
            "{loads:?}"
        );
    }
}
