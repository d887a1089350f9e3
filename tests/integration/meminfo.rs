//! A /proc/meminfo that does not tell how much is to be written back.

use crate::support::disk::bind_file;
use crate::support::{Disk, Place, in_namespace, is_ours, returned};
use std::fs;
use std::path::Path;

/// Before the first flush, and before and after the second.
const LOOKS: usize = 3;

#[test]
fn a_freeze_works_without_meminfo() {
    if !is_ours() {
        return; // it does not read it
    }
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        fs::write(place.path("meminfo"), "").expect("file");
        bind_file(&place.path("meminfo"), Path::new("/proc/meminfo"));
        let hook = format!("-F{}", place.script("hook", "exit 0").display());
        for (args, expected) in [(&[&*hook, "-v"] as &[&str], LOOKS), (&[&hook], 0)] {
            fs::write(place.path("log"), "").expect("clear");
            let agent = place.agent(args);
            assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
            assert!(disk.is_frozen());
            assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
            assert!(!disk.is_frozen());
            assert!(agent.stop().success());
            let said = place.read("log") + &place.read("stderr");
            for text in [
                "how much is dirty",
                ": debug: how much is dirty is not known: ",
            ] {
                assert_eq!(said.matches(text).count(), expected, "{said}");
            }
        }
    });
}
