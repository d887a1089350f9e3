//! What the kernel says, and what is made of it.

use std::collections::HashSet;

use qemu_ga::freeze::plan::{self, Details, Survey};
use qemu_ga::freeze::policy::{FreezePolicy, Pattern};
use qemu_ga::probe::filesystems::block_filesystems;
use qemu_ga::probe::{
    diskstats, meminfo, mountinfo, netdev, osrelease, pressure, procstat, route, rtnetlink, swaps,
};
use qemu_ga::sys::netdevice::append_messages;
use qemu_ga::sys::process::parse_stat;

/// What was understood of an answer that is cut off is what the whole one begins with; no message is made up.
pub fn netlink(data: &[u8]) {
    let (mut messages, mut whole) = (Vec::new(), true);
    append_messages(data, &mut messages, &mut whole).ok();
    assert!(messages.len() <= data.len());
    let cut = &data[..data.len() / 2];
    let counters = rtnetlink::parse_counters(data);
    assert!(counters.starts_with(&rtnetlink::parse_counters(cut)));
    assert!(counters.len() <= data.len() / 16);
    let addresses = rtnetlink::parse_addresses(data);
    assert!(addresses.starts_with(&rtnetlink::parse_addresses(cut)));
    for address in addresses {
        assert!(!address.label.is_some_and(|label| label.contains('\0')));
    }
}

/// No more entries than lines, and the same ones from a file in two pieces that end with a line.
pub fn proc_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().count();
    let middle = line_start(&text);
    let (front, back) = text.split_at(middle);
    let halves = |parse: &dyn Fn(&str) -> String| {
        assert_eq!(parse(&text), parse(front) + &parse(back));
    };
    fn all<T: std::fmt::Debug>(entries: Vec<T>) -> String {
        entries.iter().map(|entry| format!("{entry:?}\n")).collect()
    }
    halves(&|text| all(procstat::parse(text)));
    halves(&|text| all(diskstats::parse(text)));
    halves(&|text| all(route::parse_ipv6(text)));
    halves(&|text| all(swaps::parse(text.as_bytes())));
    halves(&|text| all(mountinfo::parse(text.as_bytes())));
    assert!(route::parse_ipv4(&text).len() <= lines);
    assert!(netdev::parse(&text).len() <= lines);
    assert!(mountinfo::unescape(data).len() <= data.len());
    meminfo::parse(&text);
    let pressure = pressure::parse(&text);
    for stall in [pressure.some, pressure.full].into_iter().flatten() {
        for percent in [stall.avg10, stall.avg60, stall.avg300] {
            assert!(percent.is_finite() && percent >= 0.0);
        }
    }
    osrelease::parse(data);
    // The fields after the name do not depend on it.
    if let Some(stat) = parse_stat(data) {
        let renamed = [b"1 (a) b (".as_slice(), data].concat();
        assert_eq!(
            format!("{stat:?}"),
            format!("{:?}", parse_stat(&renamed).expect("the same"))
        );
    }
}

/// Where a line begins in the middle, or the text.
fn line_start(text: &str) -> usize {
    let half = &text.as_bytes()[..text.len() / 2];
    half.iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1)
}

/// A mount table, which filesystem stands on which (two bytes each), and a pattern of what is excluded, with
/// NULs between them: each filesystem has one place, whatever is frozen comes before what it stands on, and nothing
/// is lost.
pub fn plan(data: &[u8]) {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let mounts = mountinfo::parse(part());
    let (filesystems, skipped) = block_filesystems(&mounts, &|_| None);
    let count = filesystems.len();
    let mut survey = Survey {
        filesystems,
        skipped,
        ..Survey::default()
    };
    let mut depends_on = vec![vec![false; count]; count];
    let device = |index: usize| survey.filesystems[index].device();
    let mut details = Vec::new();
    for pair in part().chunks_exact(2).filter(|_| count > 0).take(64) {
        let (above, below) = (usize::from(pair[0]) % count, usize::from(pair[1]) % count);
        depends_on[above][below] = true;
        details.push((device(above), device(below)));
    }
    for (above, below) in details {
        let details: &mut Details = survey.details.entry(above).or_default();
        details.depends_on_devices.push(below);
        details.is_on_hardware = below.1 % 2 == 0;
    }
    for via in 0..count {
        for from in 0..count {
            for to in 0..count {
                depends_on[from][to] |= depends_on[from][via] && depends_on[via][to];
            }
        }
    }
    let exclude = Pattern::parse(&String::from_utf8_lossy(part()));
    let policy = FreezePolicy {
        exclude: exclude.into_iter().collect(),
        ..FreezePolicy::default()
    };
    let place = |target: &plan::Target| {
        let mut all = survey.filesystems.iter();
        all.position(|filesystem| *filesystem == target.filesystem)
            .expect("a filesystem of the table")
    };
    let each_once = |targets: &[plan::Target]| {
        let devices: HashSet<_> = targets.iter().map(|t| t.filesystem.device()).collect();
        assert_eq!(devices.len(), targets.len());
        assert!(targets.is_sorted_by_key(|target| target.batch));
    };
    match plan::make(&survey, &policy, None) {
        Ok(plan) => {
            each_once(&plan.targets);
            assert_eq!(plan.targets.len() + plan.skipped.len(), mounts.len());
            let order: Vec<usize> = plan.targets.iter().map(place).collect();
            for (at, &earlier) in order.iter().enumerate() {
                assert!(!depends_on[earlier][earlier], "in a cycle");
                for &later in &order[at + 1..] {
                    assert!(!depends_on[later][earlier], "{later} depends on {earlier}");
                }
            }
        }
        Err(circle) => {
            assert!(circle.members.len() <= count && !circle.to_string().is_empty());
            assert!((0..count).any(|index| depends_on[index][index]));
        }
    }
    let everything = plan::everything(&survey);
    each_once(&everything);
    assert_eq!(everything.len(), count);
}
