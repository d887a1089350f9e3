//! Asks a guest agent on a unix socket every command that reads, and decodes each reply into the type that the crate `qapi`
//! makes of QEMU's schema. Panics at the first reply that does not fit, and if guest-info lists a command that is neither
//! asked nor in `ACTS`.

use qapi::{Any, Command, Qga, Stream, qga};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;

/// What changes the guest, or, the last, means nothing without a token.
const ACTS: &[&str] = &[
    "guest-file-flush",
    "guest-file-seek",
    "guest-file-write",
    "guest-fsfreeze-freeze-list",
    "guest-fstrim",
    "guest-set-memory-blocks",
    "guest-set-time",
    "guest-set-user-password",
    "guest-set-vcpus",
    "guest-shutdown",
    "guest-ssh-add-authorized-keys",
    "guest-ssh-remove-authorized-keys",
    "guest-suspend-disk",
    "guest-suspend-hybrid",
    "guest-suspend-ram",
    "x-guest-authenticate",
];

/// Commands that are newer than the crate's schema, and the project's own.
macro_rules! unknown_to_the_crate {
    ($($command:ident $name:literal $reply:ty;)*) => {$(
        #[derive(Serialize)]
        #[allow(non_camel_case_types)]
        struct $command {}

        impl Command for $command {
            type Ok = $reply;
            const NAME: &'static str = $name;
            const ALLOW_OOB: bool = false;
        }
    )*};
}

unknown_to_the_crate! {
    guest_get_load "guest-get-load" Load;
    x_guest_fsfreeze_report "x-guest-fsfreeze-report" Any;
    x_guest_get_memory "x-guest-get-memory" Any;
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    load1m: f64,
    load5m: f64,
    load15m: f64,
}

struct Client {
    qga: Qga<Stream<BufReader<UnixStream>, UnixStream>>,
    asked: BTreeSet<&'static str>,
}

impl Client {
    fn connect(path: &str) -> Self {
        let socket = UnixStream::connect(path).expect("connect");
        let reader = BufReader::new(socket.try_clone().expect("clone"));
        Self {
            qga: Qga::new(Stream::new(reader, socket)),
            asked: BTreeSet::new(),
        }
    }

    fn ask<C: Command>(&mut self, command: C) -> C::Ok {
        self.asked.insert(C::NAME);
        self.qga
            .execute(&command)
            .unwrap_or_else(|error| panic!("{}: {error}", C::NAME))
    }

    /// The crate leaves the byte before the reply to its caller.
    fn sync_delimited(&mut self, id: i64) {
        let command = qga::guest_sync_delimited { id };
        self.asked.insert(qga::guest_sync_delimited::NAME);
        self.qga.write_command(&command).expect("write");
        let stream = self.qga.inner_mut();
        let first = stream.fill_buf().expect("read")[0];
        assert_eq!(first, 0xff, "the byte before the reply");
        stream.consume(1);
        let reply = self.qga.read_response::<qga::guest_sync_delimited>();
        assert_eq!(reply.expect("a reply"), id);
    }

    /// Opens a file, and reads all of it.
    fn read_file(&mut self, path: &str) -> Vec<u8> {
        let handle = self.ask(qga::guest_file_open {
            path: path.to_owned(),
            mode: None,
        });
        let mut content = Vec::new();
        loop {
            let count = Some(100);
            let piece = self.ask(qga::guest_file_read { handle, count });
            content.extend(piece.buf_b64);
            if piece.eof {
                break;
            }
        }
        self.ask(qga::guest_file_close { handle });
        content
    }

    /// What a program prints.
    fn output_of(&mut self, path: &str, arg: &[&str]) -> Vec<u8> {
        let pid = self
            .ask(qga::guest_exec {
                path: path.to_owned(),
                arg: Some(arg.iter().map(|&word| word.to_owned()).collect()),
                env: None,
                input_data: None,
                capture_output: Some(qga::GuestExecCaptureOutput::flag(true)),
            })
            .pid;
        loop {
            let status = self.ask(qga::guest_exec_status { pid });
            if status.exited {
                let status = status.result().expect("status 0");
                return status.out_data.expect("output");
            }
        }
    }

    fn freeze_and_thaw(&mut self) {
        let frozen = self.ask(qga::guest_fsfreeze_freeze {});
        let status = self.ask(qga::guest_fsfreeze_status {});
        assert!(matches!(status, qga::GuestFsfreezeStatus::frozen));
        assert_eq!(self.ask(qga::guest_fsfreeze_thaw {}), frozen);
        let status = self.ask(qga::guest_fsfreeze_status {});
        assert!(matches!(status, qga::GuestFsfreezeStatus::thawed));
    }
}

/// A list without elements has decoded nothing.
fn filled<T>(list: Vec<T>) -> Vec<T> {
    assert!(!list.is_empty(), "empty: {}", std::any::type_name::<T>());
    list
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: qapi-client SOCKET");
    let mut client = Client::connect(&path);
    client.sync_delimited(i64::MAX);
    client.asked.insert(qga::guest_sync::NAME);
    client.qga.guest_sync(-7).expect("guest-sync");
    client.ask(qga::guest_ping {});

    filled(client.ask(qga::guest_get_fsinfo {}));
    filled(client.ask(qga::guest_get_disks {}));
    filled(client.ask(qga::guest_get_diskstats {}));
    filled(client.ask(qga::guest_get_cpustats {}));
    filled(client.ask(qga::guest_get_vcpus {}));
    filled(client.ask(qga::guest_get_memory_blocks {}));
    filled(client.ask(qga::guest_get_users {}));
    filled(client.ask(qga::guest_network_get_interfaces {}));
    filled(client.ask(qga::guest_network_get_route {}));
    client.ask(qga::guest_get_memory_block_info {});
    client.ask(qga::guest_get_osinfo {});
    client.ask(qga::guest_get_timezone {});
    assert!(client.ask(qga::guest_get_time {}) > 0);
    assert_eq!(client.ask(qga::guest_get_host_name {}).host_name, "guest");
    let username = "tu".to_owned();
    filled(
        client
            .ask(qga::guest_ssh_get_authorized_keys { username })
            .keys,
    );
    let load = client.ask(guest_get_load {});
    assert!(load.load1m >= 0.0 && load.load5m >= 0.0 && load.load15m >= 0.0);

    assert_eq!(
        client.read_file("/etc/passwd"),
        std::fs::read("/etc/passwd").expect("read")
    );
    assert_eq!(client.output_of("echo", &["printed"]), b"printed\n");
    client.freeze_and_thaw();
    client.ask(x_guest_fsfreeze_report {});
    client.ask(x_guest_get_memory {});

    for listed in client.ask(qga::guest_info {}).supported_commands {
        let name = listed.name.as_str();
        assert!(listed.enabled, "{name} is disabled");
        let known = client.asked.contains(name) || ACTS.contains(&name);
        assert!(known, "{name} is forgotten: ask it, or add it to ACTS");
    }
}
