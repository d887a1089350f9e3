//! The freeze family over the wire, on loop-mounted filesystems.

use crate::support::disk::{bind, has};
use crate::support::{
    Agent, Client, Disk, Place, cmd, disabled, failed, freeze_list, in_namespace, not_run,
    returned, wait_until,
};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const FROZEN: &str = r#"{"return": "frozen"}"#;
const THAWED: &str = r#"{"return": "thawed"}"#;

/// Two ext4 filesystems, one with a blank in its name, and one of `make`'s type.
struct Rig {
    /// These are dropped first: a directory on what is frozen cannot be removed.
    b: Disk,
    space: Disk,
    d: Disk,
    place: Place,
}

impl Rig {
    fn new(make: fn(&Path) -> Disk) -> Self {
        let place = Place::new();
        let b = Disk::ext4(&place.path("b"));
        fs::create_dir(b.path("sub")).expect("dir");
        bind(&b.path("sub"), &place.path("bind"));
        let space = Disk::ext4(&place.path("sp ace"));
        let d = make(&place.path("d"));
        Self { place, b, space, d }
    }

    fn all_frozen(&self) -> [bool; 3] {
        [&self.b, &self.space, &self.d].map(Disk::is_frozen)
    }
}

/// The exchanges that were observed with the original, in their order.
fn observed_exchanges(rig: &Rig) {
    let agent = rig.place.agent(&[]);
    let mut client = agent.connect();
    let name = |name: &str| rig.place.name(name);
    assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
    assert_eq!(client.call("guest-fsfreeze-thaw"), returned(0));
    assert_eq!(client.ask(&freeze_list(&[])), returned(0));
    assert_eq!(client.ask(&freeze_list(&["/nonexistent"])), returned(0));
    assert_eq!(client.ask(&freeze_list(&[&name("bind")])), returned(0));
    assert_eq!(client.ask(&freeze_list(&[&name("b/")])), returned(0));
    assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
    assert_eq!(rig.all_frozen(), [false; 3]);
    let (b, space, d) = (name("b"), name("sp ace"), name("d"));
    let list = freeze_list(&[&b, &space, &d, &b, "/zzz"]);
    assert_eq!(client.ask(&list), returned(3));
    assert_eq!(rig.all_frozen(), [true; 3]);
    assert!(rig.place.marker().exists());
    assert_eq!(client.call("guest-fsfreeze-status"), FROZEN);
    assert_eq!(client.call("guest-ping"), returned("{}"));
    for command in [
        "guest-fsfreeze-freeze",
        "guest-fsfreeze-freeze-list",
        "guest-get-time",
        "guest-get-fsinfo",
        "guest-get-osinfo",
        "guest-get-host-name",
    ] {
        assert_eq!(client.call(command), disabled(command));
    }
    assert_eq!(
        client.call("guest-sync"),
        failed("Parameter 'id' is missing")
    );
    assert_eq!(client.call("guest-fsfreeze-thaw"), returned(3));
    assert_eq!(rig.all_frozen(), [false; 3]);
    assert!(!rig.place.marker().exists());
    assert_eq!(client.call("guest-fsfreeze-thaw"), returned(0));
    let argued = r#"{"execute":"guest-fsfreeze-freeze","arguments":{"mountpoints":["/mnt/b"]}}"#;
    assert_eq!(
        client.ask(argued),
        failed("Parameter 'mountpoints' is unexpected")
    );
}

#[test]
fn the_observed_exchanges_on_ext4() {
    in_namespace(|| observed_exchanges(&Rig::new(Disk::ext4)));
}

#[test]
fn the_observed_exchanges_on_xfs() {
    if !has("mkfs.xfs") {
        return not_run("mkfs.xfs is not installed (package xfsprogs)");
    }
    in_namespace(|| observed_exchanges(&Rig::new(Disk::xfs)));
}

#[test]
fn the_observed_exchanges_on_btrfs() {
    if !has("mkfs.btrfs") {
        return not_run("mkfs.btrfs is not installed (package btrfs-progs)");
    }
    in_namespace(|| observed_exchanges(&Rig::new(Disk::btrfs)));
}

#[test]
fn everything_is_frozen_without_a_list_and_the_bind_mount_counts_once() {
    in_namespace(|| {
        let rig = Rig::new(Disk::ext4);
        let agent = rig.place.agent(&[]);
        let mut client = agent.connect();
        for request in [
            cmd("guest-fsfreeze-freeze"),
            cmd("guest-fsfreeze-freeze-list"),
        ] {
            assert_eq!(client.ask(&request), returned(3));
            assert_eq!(rig.all_frozen(), [true; 3]);
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(3));
            assert_eq!(rig.all_frozen(), [false; 3]);
        }
    });
}

#[test]
fn only_what_is_listed_is_frozen() {
    in_namespace(|| {
        let rig = Rig::new(Disk::ext4);
        let agent = rig.place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(
            client.ask(&freeze_list(&[rig.space.mountpoint()])),
            returned(1)
        );
        assert_eq!(rig.all_frozen(), [false, true, false]);
        fs::write(rig.b.path("file"), "not frozen").expect("write");
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
    });
}

#[test]
fn arguments_are_checked_before_anything_is_frozen() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut client = agent.connect();
    let mut refused = |arguments: &str, text: &str| {
        let request =
            format!(r#"{{"execute":"guest-fsfreeze-freeze-list","arguments":{arguments}}}"#);
        assert_eq!(client.ask(&request), failed(text));
    };
    let list = "Invalid parameter type for 'mountpoints', expected: array";
    refused(r#"{"mountpoints":"/mnt"}"#, list);
    refused(r#"{"mountpoints":null}"#, list);
    let string = "Invalid parameter type for 'mountpoints[0]', expected: string";
    refused(r#"{"mountpoints":[1]}"#, string);
    let second = "Invalid parameter type for 'mountpoints[1]', expected: string";
    refused(r#"{"mountpoints":["/mnt",[]]}"#, second);
    refused(r#"{"x":1}"#, "Parameter 'x' is unexpected");
    let status = r#"{"execute":"guest-fsfreeze-status","arguments":{"x":1}}"#;
    assert_eq!(client.ask(status), failed("Parameter 'x' is unexpected"));
    assert_eq!(client.call("guest-fsfreeze-status"), THAWED);
}

#[test]
fn the_frozen_state_is_the_agent_s_not_the_connection_s() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        assert_eq!(agent.call("guest-fsfreeze-status"), FROZEN);
        assert!(disk.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
        assert!(!disk.is_frozen());
    });
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answer() {
    in_namespace(|| {
        let rig = Rig::new(Disk::ext4);
        let agent = rig.place.agent(&[]);
        for (command, answer) in [("freeze", "3"), ("thaw", "3"), ("thaw", "0")] {
            let request = cmd(&format!("guest-fsfreeze-{command}"));
            let all = agent.connect().exchange(request.as_bytes());
            assert_eq!(
                String::from_utf8_lossy(&all),
                format!("{}\n", returned(answer))
            );
        }
    });
}

#[test]
fn a_client_that_leaves_right_after_its_request_leaves_it_frozen() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        client.post(&cmd("guest-fsfreeze-freeze"));
        drop(client);
        assert_eq!(agent.call("guest-fsfreeze-status"), FROZEN);
        assert!(disk.is_frozen());
        assert_eq!(agent.call("guest-fsfreeze-thaw"), returned(1));
    });
}

/// The letter of a process's state in /proc.
fn state_of(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let rest = stat.rsplit_once(") ").expect("a name").1;
    rest.chars().take(1).collect()
}

#[test]
fn a_writer_stands_still_until_the_thaw() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let mut writer = Command::new("sh")
            .arg("-c")
            .arg("while read line; do echo $line >>\"$0\"; echo done; done")
            .arg(disk.path("file"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut orders = writer.stdin.take().expect("stdin");
        orders.write_all(b"before\n").expect("order");
        wait_until("the first write", || disk.path("file").exists());
        assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
        orders.write_all(b"while frozen\n").expect("order");
        wait_until("the writer blocks", || state_of(writer.id()) == "D");
        let content = fs::read_to_string(disk.path("file")).expect("reading works");
        assert_eq!(content, "before\n");
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        drop(orders);
        assert!(writer.wait().expect("ended").success());
        let content = fs::read_to_string(disk.path("file")).expect("file");
        assert_eq!(content, "before\nwhile frozen\n");
    });
}

#[test]
fn fifty_freezes_in_a_row() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        for _ in 0..50 {
            assert_eq!(client.call("guest-fsfreeze-freeze"), returned(1));
            assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        }
        assert!(!disk.is_frozen());
        leaves_well(agent, client);
    });
}

fn leaves_well(agent: Agent, client: Client) {
    drop(client);
    assert!(agent.stop().success());
}
