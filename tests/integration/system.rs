//! Processors, memory, users, passwords and keys, against a made-up /sys and user database; and
//! what a dead filesystem does to guest-get-fsinfo.

use crate::support::disk::{bind_file, detach, tmpfs};
use crate::support::{Agent, Client, Disk, Place, cmd, failed, in_namespace, is_ours, returned};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

fn ask(client: &mut Client, command: &str, arguments: &str) -> String {
    client.ask(&format!(
        r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#
    ))
}

fn put(path: &str, text: &str) {
    fs::create_dir_all(Path::new(path).parent().expect("parent")).expect("directories");
    fs::write(path, text).expect("file");
}

/// An empty /sys; nothing is ever set in the kernel's own.
fn own_sys() {
    tmpfs(Path::new("/sys"));
    let found = statfs("/sys").expect("statfs");
    assert_eq!(found.filesystem_type(), TMPFS_MAGIC);
    assert!(fs::read_dir("/sys").expect("/sys").next().is_none());
}

#[test]
fn processors_go_off_and_on() {
    in_namespace(|| {
        own_sys();
        let cpu = "/sys/devices/system/cpu";
        fs::create_dir_all(format!("{cpu}/cpu0")).expect("cpu0");
        put(&format!("{cpu}/cpu1/online"), "1\n");
        let state = || fs::read_to_string(format!("{cpu}/cpu1/online")).expect("state");
        let place = Place::new();
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let all = client.call("guest-get-vcpus");
        for one in [
            r#"{"online": true, "can-offline": false, "logical-id": 0}"#,
            r#"{"online": true, "can-offline": true, "logical-id": 1}"#,
        ] {
            assert!(all.contains(one), "{all}");
        }
        let set = |client: &mut Client, list: &str| {
            ask(client, "guest-set-vcpus", &format!(r#""vcpus":[{list}]"#))
        };
        let off = |id: i64| format!(r#"{{"logical-id":{id},"online":false}}"#);
        assert_eq!(set(&mut client, ""), returned(0));
        assert_eq!(set(&mut client, &off(1)), returned(1));
        assert_eq!(state(), "0\n");
        assert_eq!(
            set(&mut client, &off(0)),
            failed("logical processor #0 can't be offlined")
        );
        let text = r#"open(\"/sys/devices/system/cpu/cpu99/\"): No such file or directory"#;
        assert_eq!(set(&mut client, &off(99)), failed(text));
        let both = format!(r#"{{"logical-id":1,"online":true}},{}"#, off(99));
        assert_eq!(set(&mut client, &both), returned(1));
        assert_eq!(state(), "1\n");
        for (list, text) in [
            (
                r#"{"logical-id":1}"#,
                "Parameter 'vcpus[0].online' is missing",
            ),
            (
                r#"{"logical-id":1,"online":true,"x":1}"#,
                "Parameter 'vcpus[0].x' is unexpected",
            ),
            (
                "5",
                "Invalid parameter type for 'vcpus[0]', expected: object",
            ),
        ] {
            assert_eq!(set(&mut client, list), failed(text));
        }
    });
}

#[test]
fn memory_blocks_each_have_an_answer() {
    in_namespace(|| {
        own_sys();
        let memory = "/sys/devices/system/memory";
        let place = Place::new();
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        assert_eq!(client.call("guest-get-memory-blocks"), returned("[]"));
        put(&format!("{memory}/block_size_bytes"), "8000000\n");
        let none = failed("guest reported zero memory blocks!");
        assert_eq!(client.call("guest-get-memory-blocks"), none);
        put(&format!("{memory}/memory0/state"), "online\n");
        put(&format!("{memory}/memory0/removable"), "1\n");
        assert_eq!(
            client.call("guest-get-memory-blocks"),
            returned(r#"[{"online": true, "can-offline": true, "phys-index": 0}]"#)
        );
        let size = client.call("guest-get-memory-block-info");
        assert_eq!(size, returned(r#"{"size": 134217728}"#));
        let list =
            r#""mem-blks":[{"phys-index":0,"online":false},{"phys-index":-1,"online":true}]"#;
        assert_eq!(
            ask(&mut client, "guest-set-memory-blocks", list),
            returned(
                r#"[{"response": "success", "phys-index": 0}, {"response": "not-found", "error-code": 2, "phys-index": 18446744073709551615}]"#
            )
        );
        let state = fs::read_to_string(format!("{memory}/memory0/state")).expect("state");
        assert_eq!(state, "offline");
        let text = "Parameter 'mem-blks[0].phys-index' expects uint64";
        let list = r#""mem-blks":[{"phys-index":"x","online":true}]"#;
        assert_eq!(
            ask(&mut client, "guest-set-memory-blocks", list),
            failed(text)
        );
    });
}

const UID: u32 = 4321;

/// Makes the user `tu`, whose home is `/srv/tu`.
fn add_user(place: &Place) {
    for (file, line) in [
        ("passwd", "tu:x:4321:4321::/srv/tu:/bin/sh\n"),
        ("group", "tu:x:4321:\n"),
    ] {
        let real = Path::new("/etc").join(file);
        let text = fs::read_to_string(&real).expect("database") + line;
        fs::write(place.path(file), text).expect("database");
        bind_file(&place.path(file), &real);
    }
    tmpfs(Path::new("/srv"));
    fs::create_dir("/srv/tu").expect("home");
    chown("/srv/tu", Some(UID), Some(UID)).expect("owner");
}

#[test]
fn keys_are_added_read_and_removed() {
    in_namespace(|| {
        let place = Place::new();
        add_user(&place);
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let mut keys = |command: &str, rest: &str| {
            let command = format!("guest-ssh-{command}-authorized-keys");
            ask(&mut client, &command, &format!(r#""username":"tu"{rest}"#))
        };
        let file = "/srv/tu/.ssh/authorized_keys";
        let missing = format!(
            "failed to read '{file}': Failed to open file \\u201C{file}\\u201D: \
             No such file or directory"
        );
        assert_eq!(keys("get", ""), failed(&missing));
        assert_eq!(keys("remove", r#","keys":["a"]"#), returned("{}"));
        let three = r#","keys":["ssh-rsa AAA one","ssh-rsa BBB two","ssh-rsa AAA one"]"#;
        assert_eq!(keys("add", three), returned("{}"));
        let two = returned(r#"{"keys": ["ssh-rsa BBB two", "ssh-rsa AAA one"]}"#);
        assert_eq!(keys("get", ""), two);
        let found = fs::metadata(file).expect("file");
        assert_eq!(
            (found.mode() & 0o777, found.uid(), found.gid()),
            (0o600, UID, UID)
        );
        let found = fs::metadata("/srv/tu/.ssh").expect("directory");
        assert_eq!(
            (found.mode() & 0o777, found.uid(), found.gid()),
            (0o700, UID, UID)
        );
        assert_eq!(
            keys("remove", r#","keys":["ssh-rsa AAA one"]"#),
            returned("{}")
        );
        assert_eq!(fs::read_to_string(file).expect("file"), "ssh-rsa BBB two");
        assert_eq!(keys("add", r#","keys":[],"reset":true"#), returned("{}"));
        assert_eq!(keys("get", ""), returned(r#"{"keys": []}"#));
        let bad = failed("invalid OpenSSH public key: '#bad'");
        assert_eq!(keys("add", r##","keys":["#bad"]"##), bad);
        let unknown = ask(
            &mut client,
            "guest-ssh-get-authorized-keys",
            r#""username":"nosuchuser""#,
        );
        assert_eq!(
            unknown,
            failed("failed to lookup user 'nosuchuser': Success")
        );
    });
}

#[test]
fn a_key_file_that_is_a_link_is_refused_and_left() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        add_user(&place);
        fs::create_dir("/srv/tu/.ssh").expect("directory");
        chown("/srv/tu/.ssh", Some(UID), Some(UID)).expect("owner");
        let secret = place.path("secret");
        fs::write(&secret, "root's").expect("secret");
        symlink(&secret, "/srv/tu/.ssh/authorized_keys").expect("link");
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        for (command, rest) in [
            ("get", ""),
            ("add", r#","keys":["a"]"#),
            ("add", r#","keys":["a"],"reset":true"#),
            ("remove", r#","keys":["root's"]"#),
        ] {
            let command = format!("guest-ssh-{command}-authorized-keys");
            let reply = ask(&mut client, &command, &format!(r#""username":"tu"{rest}"#));
            assert!(
                reply.contains("Too many levels of symbolic links"),
                "{reply}"
            );
        }
        assert_eq!(fs::read_to_string(&secret).expect("secret"), "root's");
        assert!(Path::new("/srv/tu/.ssh/authorized_keys").is_symlink());
        assert_eq!(client.call("guest-ping"), returned("{}"));
    });
}

#[test]
fn passwords_go_through_the_helper_and_to_no_log() {
    in_namespace(|| {
        let place = Place::new();
        let heard = place.path("heard");
        let script = format!(
            "{{ echo \"$*\"; cat; }} >{0}; ! grep -q ^bad {0} || {{ echo no; exit 1; }}",
            heard.display()
        );
        // First in PATH, so that no real helper is ever run.
        let stub = place.script("chpasswd", &script);
        let mut command = place.agent_command(&["-v"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", place.name("")));
        assert!(stub.exists());
        let agent = Agent::start(command, &place.path("sock"));
        let mut client = agent.connect();
        let mut set = |user: &str, password: &str, crypted: &str| {
            let arguments =
                format!(r#""username":"{user}","password":"{password}","crypted":{crypted}"#);
            ask(&mut client, "guest-set-user-password", &arguments)
        };
        // "S3CRET:x"
        assert_eq!(set("tu", "UzNDUkVUOng=", "false"), returned("{}"));
        assert_eq!(place.read("heard"), "\ntu:S3CRET:x\n");
        assert_eq!(set("tu", "UzNDUkVUOng=", "true"), returned("{}"));
        assert_eq!(place.read("heard"), "-e\ntu:S3CRET:x\n");
        fs::remove_file(&heard).expect("heard");
        for (user, password, crypted, text) in [
            (
                "tu",
                "%%",
                "false",
                "Base64 data contains invalid characters",
            ),
            (
                "tu",
                "YQpi",
                "false",
                "forbidden characters in raw password",
            ),
            ("t:u", "YQ==", "false", "forbidden characters in username"),
            (
                "tu",
                "YQ==",
                "0",
                "Invalid parameter type for 'crypted', expected: boolean",
            ),
        ] {
            assert_eq!(set(user, password, crypted), failed(text));
            assert!(!heard.exists(), "{text}");
        }
        assert_eq!(
            set("bad", "UzNDUkVUOng=", "false"),
            failed("child process has failed to set user password: no\\n")
        );
        drop(agent);
        if is_ours() {
            let log = place.read("log");
            assert!(!log.contains("S3CRET") && !log.contains("UzND"), "{log}");
        }
    });
}

/// Mounts FUSE whose daemon never answers; the file is its daemon.
fn mount_dead(target: &str) -> fs::File {
    let mut options = fs::File::options();
    let daemon = options.read(true).write(true).open("/dev/fuse");
    let daemon = daemon.expect("/dev/fuse");
    let number = daemon.as_raw_fd();
    let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0");
    let (source, kind, options) = (Some("dead"), Some("fuse"), Some(options.as_str()));
    mount(source, target, kind, MsFlags::empty(), options).expect("fuse");
    daemon
}

#[test]
fn a_home_or_a_mountpoint_that_does_not_answer_is_an_error_after_a_limit() {
    if !is_ours() {
        return; // it hangs for good
    }
    in_namespace(|| {
        let place = Place::new();
        add_user(&place);
        let well = Disk::ext4(&place.path("well"));
        let covered = Disk::ext4(&place.path("covered"));
        let daemons = [mount_dead("/srv/tu"), mount_dead(covered.mountpoint())];
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        let late = |reply: &str| reply.contains("no answer within ");
        let reply = ask(
            &mut client,
            "guest-ssh-get-authorized-keys",
            r#""username":"tu""#,
        );
        assert!(late(&reply), "{reply}");
        let reply = client.call("guest-fstrim");
        let trimmed: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
        let paths = trimmed["return"]["paths"].as_array().expect("a list");
        let of = |disk: &Disk| paths.iter().find(|path| path["path"] == disk.mountpoint());
        assert!(late(&of(&covered).expect("listed").to_string()), "{reply}");
        assert!(of(&well).expect("listed")["trimmed"].is_u64(), "{reply}");
        let freeze = crate::support::freeze_list(&[well.mountpoint()]);
        assert_eq!(client.ask(&freeze), returned(1));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        drop(daemons);
        detach(Path::new(covered.mountpoint()));
        detach(Path::new("/srv/tu"));
    });
}

#[test]
fn a_dead_filesystem_does_not_hold_up_fsinfo() {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let well = Disk::ext4(&place.path("well"));
        let covered = Disk::ext4(&place.path("covered"));
        let daemon = mount_dead(covered.mountpoint());
        let agent = place.agent(&[]);
        let mut client = agent.connect();
        for _ in 0..2 {
            let reply = client.call("guest-get-fsinfo");
            let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
            let sizes = |disk: &Disk| {
                let all = reply["return"].as_array().expect("list").iter();
                let mut one = all.filter(|one| one["mountpoint"] == disk.mountpoint());
                one.next().expect("listed").get("total-bytes").is_some()
            };
            assert!(sizes(&well) && !sizes(&covered), "{reply}");
        }
        assert_eq!(client.ask(&cmd("guest-ping")), returned("{}"));
        drop(daemon);
        detach(Path::new(covered.mountpoint()));
    });
}

#[test]
fn memory_and_pressure_at_a_glance() {
    if !is_ours() {
        return; // it has no such command
    }
    in_namespace(|| {
        let place = Place::new();
        let agent = place.agent(&[]);
        let ask = || {
            let reply = agent.call("x-guest-get-memory");
            let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
            reply["return"].clone()
        };
        let meminfo = fs::read_to_string("/proc/meminfo").expect("meminfo");
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            kib.expect(name).parse::<u64>().expect("a number")
        };
        let reply = ask();
        assert_eq!(reply["total"], kib("MemTotal:") * 1024);
        assert_eq!(reply["swap-total"], kib("SwapTotal:") * 1024);
        assert!(reply["available"].as_u64() < reply["total"].as_u64());
        let psi = fs::read_to_string("/proc/pressure/io");
        let total = reply["pressure"]["io"]["some"]["total"].as_u64();
        assert_eq!(total.is_some(), psi.is_ok(), "{reply} {psi:?}");
        // A kernel without the figures.
        let pressure = Path::new("/proc/pressure");
        if pressure.exists() {
            tmpfs(pressure);
        }
        assert_eq!(ask().get("pressure"), None);
    });
}
