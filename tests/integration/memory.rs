//! What the agent's process keeps in memory after freezes.

use crate::support::{Agent, Disk, Place, in_namespace, is_ours, returned};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

const CYCLES: usize = 10;
/// By when memory has been given back.
const REST: Duration = Duration::from_secs(2);
/// How much more the process may have resident afterwards.
const RESIDENT_FACTOR: f64 = 1.05;
/// What its heap and stacks may grow by, in KiB: what a first freeze allocates for good.
const ANONYMOUS_SLACK: u64 = 400;

/// A field of /proc/PID/smaps_rollup (proc_pid_smaps(5)), in KiB.
pub fn kibibytes(agent: &Agent, field: &str) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", agent.pid());
    let text = fs::read_to_string(path).expect("smaps_rollup");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_suffix("kB"));
    value.expect("field").trim().parse().expect("number")
}

#[test]
fn memory_is_given_back_after_freezes() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let _disks: Vec<Disk> = (0..3)
            .map(|number| Disk::ext4(&place.path(&format!("m{number}"))))
            .collect();
        let hook = format!("-F{}", place.script("hook", "echo $1").display());
        let agent = place.agent(&[&hook]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-ping"), returned("{}"));
        sleep(REST);
        let look = || ["Rss:", "Anonymous:"].map(|field| kibibytes(&agent, field));
        let before = look();
        for _ in 0..CYCLES {
            assert_eq!(client.call("guest-fsfreeze-freeze"), returned(3));
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(3));
        }
        sleep(REST);
        let after = look();
        let told = format!("resident and anonymous KiB: {before:?}, then {after:?}");
        assert!(
            after[0] as f64 <= before[0] as f64 * RESIDENT_FACTOR,
            "{told}"
        );
        assert!(after[1] <= before[1] + ANONYMOUS_SLACK, "{told}");
    });
}
