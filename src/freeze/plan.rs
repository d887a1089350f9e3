//! Which filesystems are frozen, and in which order.
//!
//! The mount table lists mounts as they were made. What was mounted last is frozen first, so that
//! a filesystem goes before the one it stands on, and the root last.

use crate::probe::filesystems::{Filesystem, Skipped};

/// The mount table, sorted into what can be frozen and what cannot; both in mount order.
#[derive(Debug, Default, Clone)]
pub struct Survey {
    /// One entry a device: its first mount.
    pub filesystems: Vec<Filesystem>,
    /// Everything else, each with its reason.
    pub skipped: Vec<Skipped>,
}

/// The filesystems to freeze, in the order of freezing.
///
/// With `only`, those whose mountpoint equals one of the given; names that match nothing and
/// names given twice are harmless.
pub fn freeze_order(survey: &Survey, only: Option<&[Vec<u8>]>) -> Vec<Filesystem> {
    let chosen =
        |filesystem: &&Filesystem| only.is_none_or(|names| names.contains(&filesystem.mountpoint));
    let (root, others): (Vec<_>, Vec<_>) = survey
        .filesystems
        .iter()
        .rev()
        .filter(chosen)
        .cloned()
        .partition(|filesystem| filesystem.mountpoint == b"/");
    others.into_iter().chain(root).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn survey(mountpoints: &[&str]) -> Survey {
        let filesystems = mountpoints
            .iter()
            .zip(1..)
            .map(|(mountpoint, minor)| Filesystem {
                mountpoint: mountpoint.as_bytes().to_vec(),
                fstype: "ext4".into(),
                major: 8,
                minor,
                mount_id: u64::from(minor),
            })
            .collect();
        Survey {
            filesystems,
            skipped: Vec::new(),
        }
    }

    fn names(order: &[Filesystem]) -> Vec<String> {
        order
            .iter()
            .map(|f| String::from_utf8_lossy(&f.mountpoint).into_owned())
            .collect()
    }

    #[test]
    fn last_mounted_goes_first_and_the_root_last() {
        let order = freeze_order(&survey(&["/", "/data", "/data/inner"]), None);
        assert_eq!(names(&order), ["/data/inner", "/data", "/"]);
        let late_root = freeze_order(&survey(&["/boot", "/", "/data"]), None);
        assert_eq!(names(&late_root), ["/data", "/boot", "/"]);
    }

    #[test]
    fn a_list_chooses_by_the_exact_name() {
        let survey = survey(&["/", "/mnt/b", "/mnt/sp ace"]);
        let only: Vec<Vec<u8>> = [
            &b"/mnt/b"[..],
            b"/mnt/b",
            b"/zzz",
            b"/mnt/sp ace",
            b"/mnt/b/",
        ]
        .map(<[u8]>::to_vec)
        .into();
        assert_eq!(
            names(&freeze_order(&survey, Some(&only))),
            ["/mnt/sp ace", "/mnt/b"]
        );
        assert!(freeze_order(&survey, Some(&[])).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(names in proptest::collection::hash_set("/[a-c]{0,3}", 0..8)) {
            let list: Vec<&str> = names.iter().map(String::as_str).collect();
            let order = freeze_order(&survey(&list), None);
            prop_assert_eq!(order.len(), list.len());
            if let Some(at) = order.iter().position(|f| f.mountpoint == b"/") {
                prop_assert_eq!(at, order.len() - 1);
            }
        }
    }
}
