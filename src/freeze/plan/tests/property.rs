//! Properties of the plan for any dependencies.

use super::*;
use proptest::prelude::*;

fn survey(count: usize, root: Option<usize>, under: &[(usize, usize)]) -> Survey {
    let filesystem = |index: usize| Filesystem {
        mountpoint: match root == Some(index) {
            true => b"/".to_vec(),
            false => format!("/m{index}").into_bytes(),
        },
        fstype: "ext4".into(),
        major: 8,
        minor: index as u32,
        mount_id: index as u64,
    };
    let details = |index: usize| Details {
        depends_on_devices: under
            .iter()
            .filter(|(above, _)| *above == index)
            .map(|&(_, below)| (8, below as u32))
            .collect(),
        ..Details::default()
    };
    Survey {
        filesystems: (0..count).map(filesystem).collect(),
        details: (0..count).map(|i| ((8, i as u32), details(i))).collect(),
        ..Survey::default()
    }
}

/// Over any number of steps.
fn reach(count: usize, under: &[(usize, usize)]) -> Vec<Vec<bool>> {
    let mut reach = vec![vec![false; count]; count];
    for &(above, below) in under {
        if above < count && below < count {
            reach[above][below] = true;
        }
    }
    for via in 0..count {
        for from in 0..count {
            for to in 0..count {
                reach[from][to] |= reach[from][via] && reach[via][to];
            }
        }
    }
    reach
}

proptest! {
    #[test]
    fn every_filesystem_is_accounted_for_and_in_order(
        count in 0_usize..10,
        root in proptest::option::of(0_usize..10),
        under in proptest::collection::vec((0_usize..10, 0_usize..10), 0..12),
        excluded in proptest::collection::vec(0_usize..10, 0..3),
        only in proptest::option::of(proptest::collection::vec(0_usize..12, 0..12)),
    ) {
        let survey = survey(count, root, &under);
        let name = |index: usize| match root == Some(index) {
            true => "/".to_owned(),
            false => format!("/m{index}"),
        };
        let policy = FreezePolicy {
            exclude: excluded.iter().map(|&i| Pattern::parse(&name(i)).unwrap()).collect(),
            ..FreezePolicy::default()
        };
        let list: Option<Vec<Vec<u8>>> = only
            .as_ref()
            .map(|only| only.iter().map(|&i| name(i).into_bytes()).collect());
        let chosen: Vec<usize> = (0..count)
            .filter(|i| !excluded.contains(i))
            .filter(|i| only.as_ref().is_none_or(|only| only.contains(i)))
            .collect();
        let reach = reach(count, &under);
        match make(&survey, &policy, list.as_deref()) {
            Ok(plan) => {
                prop_assert!(chosen.iter().all(|&i| !reach[i][i]));
                let order: Vec<usize> =
                    plan.targets.iter().map(|t| t.filesystem.minor as usize).collect();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &chosen);
                prop_assert_eq!(plan.skipped.len() + chosen.len(), count);
                prop_assert!(plan.targets.is_sorted_by_key(|target| target.batch));
                for (at, &earlier) in order.iter().enumerate() {
                    for &later in &order[at + 1..] {
                        prop_assert!(!reach[later][earlier], "{later} depends on {earlier}");
                        // After the root come only filesystems that it depends on.
                        if root == Some(earlier) {
                            prop_assert!(reach[earlier][later]);
                        }
                    }
                }
                if under.is_empty() {
                    let mut usual: Vec<usize> = chosen.iter().rev().copied().collect();
                    usual.sort_by_key(|&i| root == Some(i));
                    prop_assert_eq!(order, usual);
                }
            }
            Err(cycle) => {
                let members: Vec<usize> = (0..count)
                    .filter(|&i| cycle.members.iter().any(|(member, _)| *member == name(i)))
                    .collect();
                prop_assert_eq!(members.len(), cycle.members.len());
                prop_assert!(members.iter().any(|member| chosen.contains(member)));
                prop_assert!(members.iter().all(|&a| members.iter().all(|&b| reach[a][b])));
            }
        }
        prop_assert_eq!(everything(&survey).len(), count);
    }
}
