//! A machine for the operator's tools: hooks, one filesystem, and a tool that knows where they are.

use crate::support::disk::tmpfs;
use crate::support::{Agent, Disk, Place, in_namespace, install, is_ours, returned};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Output;

/// A layout as a package installs it, one filesystem, and a log directory of its own.
pub struct Rig {
    /// Dropped first: a directory on what is frozen cannot be removed.
    pub disk: Disk,
    pub place: Place,
}

/// Each in a namespace of its own; the original has none of the tools.
pub fn with_rig(body: impl FnOnce(&Rig) + Send + 'static) {
    if !is_ours() {
        return;
    }
    in_namespace(|| {
        tmpfs(Path::new("/var/log"));
        let place = Place::new();
        let disk = Disk::ext4_of(&place.path("m"), 128);
        fs::create_dir_all(place.path("etc/fsfreeze-hook.d")).expect("dir");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/hooks/fsfreeze-hook");
        install(Path::new(shipped), &place.path("etc/fsfreeze-hook"));
        let rig = Rig { disk, place };
        rig.hook("10-app", "echo application told to $1");
        rig.hook("20-db", "[ $1 = thaw ] || { echo no server; exit 3; }");
        let conf = format!(
            "[general]\nstatedir={}\nfsfreeze-hook={}\n",
            rig.place.name("state"),
            rig.place.name("etc/fsfreeze-hook")
        );
        fs::write(rig.place.path("conf"), conf).expect("conf");
        body(&rig);
    });
}

impl Rig {
    pub fn hook(&self, name: &str, text: &str) {
        let name = format!("etc/fsfreeze-hook.d/{name}");
        self.place.script(&name, text);
    }

    pub fn agent(&self) -> Agent {
        let hook = format!("-F{}", self.place.name("etc/fsfreeze-hook"));
        self.place.agent(&[&hook])
    }

    pub fn frozen(&self) -> Agent {
        let agent = self.agent();
        assert_eq!(agent.call("guest-fsfreeze-freeze"), returned(1));
        agent
    }

    /// A tool with the configuration of the rig.
    pub fn tool(&self, args: &[&str]) -> Output {
        let mut args = args.to_vec();
        let conf = self.place.name("conf");
        if args[0] != "log" {
            args.extend(["-c", &conf]);
        }
        self.place.run(&args)
    }

    /// What the tool says, which must end with `status` and fit a console.
    pub fn says(&self, status: i32, args: &[&str]) -> String {
        let output = self.tool(args);
        let text = String::from_utf8(output.stdout).expect("text");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{text}{complaint}");
        assert!(!text.contains('\x1b'), "colour without a terminal");
        // Names of temporary directories are long.
        let long = |line: &&str| line.chars().count() > 80 && !line.contains("/qga-");
        let is_for_programs = ["--json", "--format", "--check"]
            .iter()
            .any(|form| args.contains(form));
        if args[0] != "log" && !is_for_programs {
            assert_eq!(text.lines().find(long), None);
        }
        text
    }

    pub fn json(&self, status: i32, args: &[&str]) -> Value {
        let text = self.says(status, &[args, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }
}
