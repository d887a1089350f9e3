//! Blocks of shell commands. A tier of tests/run that runs a block reads it from the document, through
//! `tests/documented`; what needs a package manager or a platform is held against what is known of it;
//! all else is run here, line by line, on a system as the packages leave it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::blocks::{Block, read, root};
use crate::support::disk::tmpfs;
use crate::support::{Place, binary, in_namespace, install};
use crate::{Runner, blocks_of};

/// Document, heading, and the script that runs the block below it as it stands there.
const TIERS: [(&str, &str, &str); 9] = [
    ("README.md", "Try it", "tests/run"),
    ("README.md", "Contribute", "tests/fresh/run"),
    ("docs/images.md", "Build packages", "tests/package/run"),
    ("docs/images.md", "Static binary", "tests/static/run"),
    (
        "docs/fleet.md",
        "The first labeled snapshot",
        "tests/vm/page",
    ),
    ("docs/fleet.md", "qga-snapshot", "tests/host/run"),
    ("docs/fleet.md", "qga-fleet", "tests/host/run"),
    ("CONTRIBUTING.md", "Structure", "tests/run"),
    ("CONTRIBUTING.md", "Tests", "tests/run"),
];

/// Commands of platforms that no test has: they are from the platforms' own documentation, and the
/// document says that they were not run. A new one has to be looked up, and then named here.
const PLATFORMS: [&str; 5] = [
    "openstack image set --property hw_qemu_guest_agent=yes --property os_require_quiesce=yes IMAGE",
    "qm set VMID --agent enabled=1",
    "kubectl get vmi NAME -o jsonpath='{.status.conditions[?(@.type==\"AgentConnected\")].status}'",
    "qm guest exec VMID -- qemu-ga report --json",
    "kubectl exec POD -c compute -- virsh qemu-agent-command NAMESPACE_NAME '{\"execute\":\"x-guest-fsfreeze-report\"}'",
];

/// Programs that a line may begin with to be run here; others could mean this machine.
const HARMLESS: [&str; 4] = ["qemu-ga", "ls", "install", "cargo"];

/// The command lines of a block, without comments. A line that is continued and its continuation are one.
fn lines(block: &Block) -> Vec<String> {
    let uncommented = block.text.lines().map(|line| match line.find("  #") {
        Some(at) => &line[..at],
        None => line,
    });
    let text: Vec<&str> = uncommented.map(str::trim_end).collect();
    let joined = text.join("\n").replace("\\\n", " ");
    let lines = joined.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    });
    let is_command = |line: &String| !line.is_empty() && !line.starts_with('#');
    lines.filter(is_command).collect()
}

/// Whether the script runs the commands of that heading.
fn reads(script: &str, file: &str, title: &str) -> bool {
    let text = read(script)
        .replace(['\'', '"', ',', ')'], "")
        .replace('(', " ");
    text.contains(&format!("documented {file} {title}"))
}

fn field(spec: &str, name: &str) -> String {
    let line = spec.lines().find_map(|line| line.strip_prefix(name));
    line.expect(name).trim().replace("%{?dist}", "")
}

/// What is told of package managers: names and versions are those of our packages. That apt replaces one
/// by the other, and back, is seen by the VM tier's `packages`; dnf is in no test.
fn is_of_our_packages(line: &str) -> bool {
    let spec = read("rpm/qemu-ga-rs.spec");
    let (name, other) = (field(&spec, "Name:"), field(&spec, "Conflicts:"));
    // A release candidate sorts before its release: 1.0.0~rc.1.
    let version = env!("CARGO_PKG_VERSION").replace('-', "~");
    assert_eq!(field(&spec, "Version:"), version);
    let release = format!("{version}-{}", field(&spec, "Release:"));
    let deb = format!("./{name}_{version}-1_amd64.deb");
    let rpms = format!("./{name}-{release}.x86_64.rpm ./{name}-selinux-{release}.noarch.rpm");
    assert!(read("tests/vm/lib/packages.py").contains("apt-get install"));
    let checks = read("tests/vm/checks/packages.py");
    assert!(checks.contains("debians_agent_gives_way_and_comes_back"));
    [
        format!("apt install {deb}"),
        format!("apt install {other}"),
        format!("dnf install --allowerasing {rpms}"),
        format!("dnf swap {name} {other}"),
    ]
    .iter()
    .any(|known| known == line)
}

/// What virsh asks is asked of the agent; its own words are those that the VM tier uses.
fn ask_as_virsh(line: &str, place: &Place) {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    if words[1] == "qemu-agent-command" {
        let request = words[3].trim_matches('\'');
        let agent = place.agent(&[]);
        let answer = agent.connect().ask(request);
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer.get("return").is_some(), "{line}: {answer}");
        return;
    }
    assert_eq!(words.len(), 3, "{line}");
    let word = format!("\"{}\"", words[1]);
    let checks = fs::read_dir(root().join("tests/vm/checks")).expect("checks");
    let is_used = checks
        .filter_map(|entry| fs::read_to_string(entry.expect("entry").path()).ok())
        .any(|text| text.contains(&word));
    assert!(is_used, "{line}: no check of the VM tier does it");
}

/// What is told of the VM tier names checks that there are.
fn is_of_the_vm_tier(line: &str) -> bool {
    let Some((settings, words)) = line.split_once("tests/vm/run") else {
        return false;
    };
    let all = read("tests/run").contains("tests/vm/run 2>&1");
    let known = settings
        .split_whitespace()
        .filter_map(|word| word.split_once('='))
        .all(|(name, _)| read("tests/vm/run").contains(name));
    let mut names = String::new();
    for entry in fs::read_dir(root().join("tests/vm/checks")).expect("checks") {
        names += &fs::read_to_string(entry.expect("entry").path()).unwrap_or_default();
    }
    let functions: Vec<&str> = names
        .lines()
        .filter_map(|line| line.strip_prefix("def "))
        .collect();
    let meant = |word: &str| functions.iter().any(|name| name.contains(word));
    settings.starts_with("sudo ") && all && known && words.split_whitespace().all(meant)
}

/// Measuring takes too long for a tier; that the page is what is made of the figures is the lint tier's.
fn is_of_the_bench(line: &str) -> bool {
    let Some(option) = line.strip_prefix("tests/bench/run ") else {
        return false;
    };
    read("tests/run").contains("check tests/bench/check\n")
        && read("tests/bench/run").contains(&format!("\"{option}\""))
}

/// Where the packages install the samples: of the deb, and of the rpm.
const SAMPLES: [&str; 2] = [
    "/usr/share/doc/qemu-ga-rs/examples/fsfreeze-hook.d",
    "/usr/share/qemu-ga/fsfreeze-hook.d",
];

/// A system with the agent, its hook master and the samples installed, and a tree from which all of them come.
fn scene(place: &Place) {
    for dir in ["/etc/qemu", "/etc/qemu-ga"] {
        fs::create_dir_all(dir).expect("dir");
        tmpfs(Path::new(dir));
        let dir = Path::new(dir);
        fs::create_dir(dir.join("fsfreeze-hook.d")).expect("dir");
        install(
            &root().join("hooks/fsfreeze-hook"),
            &dir.join("fsfreeze-hook"),
        );
    }
    for dir in ["/root", "/tmp", "/run"] {
        // The test's own directory stays where it is.
        if !place.path("").starts_with(dir) {
            tmpfs(Path::new(dir));
        }
    }
    for name in ["/tmp/prescript.sh", "/tmp/postscript.sh"] {
        fs::write(name, "#!/bin/sh\n").expect("script");
    }
    for samples in SAMPLES.map(Path::new) {
        fs::create_dir_all(samples).expect("dir");
        for entry in fs::read_dir(root().join("hooks/fsfreeze-hook.d")).expect("samples") {
            let path = entry.expect("entry").path();
            install(&path, &samples.join(path.file_name().expect("name")));
        }
    }
    let done = Command::new("cp")
        .args(["-r", "hooks"])
        .arg(place.path("hooks"))
        .current_dir(root())
        .status();
    assert!(done.expect("cp").success());
    // A release build is tests/run's; what it leaves is stood for by the binary that is there.
    place.script(
        "bin/cargo",
        &format!(
            "case \"$*\" in 'build --release' | 'build --release --locked') ;; *) exit 1 ;; esac; mkdir -p target/release && cp '{}' target/release/qemu-ga",
            binary().display()
        ),
    );
    install(&binary(), &place.path("bin/qemu-ga"));
}

fn run(line: &str, place: &Place, dir: &Path) -> Output {
    let path = std::env::var("PATH").expect("PATH");
    Command::new("sh")
        .args(["-euc", line])
        .current_dir(dir)
        .env("PATH", format!("{}:{path}", place.name("bin")))
        .output()
        .expect("sh")
}

/// Runs one line from the top of the tree. It must succeed; `check` may report findings, and a sample may find a server
/// that runs elsewhere on this machine (the images of tests/vm are made meanwhile, with servers that start in them).
fn succeed(line: &str, place: &Place, block: &Block) {
    let done = run(line, place, &place.path(""));
    let said = String::from_utf8_lossy(&done.stderr);
    let finds = line == "qemu-ga check" && done.status.code() == Some(1) && said.is_empty();
    let shown = String::from_utf8_lossy(&done.stdout);
    let is_foreign = line.starts_with("qemu-ga hook try ")
        && shown.contains("is a server in a container, which this hook does not lock");
    assert!(
        done.status.success() || finds || is_foreign,
        "{}: {line}: {shown}{said}",
        block.place()
    );
}

/// What single blocks leave behind.
fn left_behind(block: &Block) {
    let mode = |path: &str| {
        let about = fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        about.permissions().mode() & 0o7777
    };
    match (block.file.as_str(), block.heading.as_str()) {
        ("hooks/MIGRATING.md", "Alibaba Cloud") => {
            let made = ["/etc/snapshot", "/etc/snapshot/prescript.sh"];
            assert_eq!(made.map(mode), [0o700, 0o700]);
        }
        ("hooks/fsfreeze-hook.d/README.md", _) => {
            let made = ["/etc/qemu", "/etc/qemu-ga"]
                .map(|dir| format!("{dir}/fsfreeze-hook.d/30-mariadb"));
            assert_eq!(made.map(|path| mode(&path)), [0o755, 0o755]);
        }
        ("MIGRATING.md", "Before") => {
            let kept = fs::read_to_string("/root/qemu-ga.before").expect("a copy");
            assert!(kept.starts_with("[general]"), "{kept}");
        }
        ("MIGRATING.md", "From source, in images, static") => {
            let made = ["/usr/sbin/qemu-ga", "/etc/qemu/fsfreeze-hook"];
            assert_eq!(made.map(mode), [0o755, 0o755]);
        }
        _ => {}
    }
}

#[test]
fn every_block_of_commands_is_run() {
    in_namespace(|| {
        for block in blocks_of(Runner::Commands) {
            let tier = TIERS
                .iter()
                .find(|(file, title, _)| (*file, *title) == (&block.file, &block.heading));
            if let Some((file, title, script)) = tier {
                assert!(reads(script, file, title), "{script}: {file} {title}");
                continue;
            }
            let place = Place::new();
            fs::create_dir(place.path("bin")).expect("dir");
            let mut is_set = false;
            for line in lines(&block) {
                if PLATFORMS.contains(&line.as_str())
                    || is_of_our_packages(&line)
                    || is_of_the_vm_tier(&line)
                    || is_of_the_bench(&line)
                {
                    continue;
                } else if line.starts_with("virsh ") {
                    ask_as_virsh(&line, &place);
                } else {
                    let program = line.split(' ').next().unwrap_or_default();
                    let place_of = block.place();
                    assert!(
                        HARMLESS.contains(&program),
                        "{place_of}: what runs '{line}'?"
                    );
                    if !is_set {
                        scene(&place);
                        is_set = true;
                    }
                    succeed(&line, &place, &block);
                }
            }
            left_behind(&block);
        }
        for page in ["docs/images.md", "docs/fleet.md"] {
            let told = read(page).replace('\n', " ");
            assert!(
                told.contains("were not run, nor were their commands above"),
                "{page}"
            );
        }
    });
}

#[test]
fn what_is_named_is_there() {
    assert!(read(".ci/run").ends_with("\nexec tests/run\n"));
    for (file, title, _) in TIERS {
        let mut shown = Command::new(root().join("tests/documented"));
        let shown = shown.args([file, title]).output().expect("runs");
        assert!(
            shown.status.success() && !shown.stdout.is_empty(),
            "{file} {title}"
        );
    }
    let mut none = Command::new(root().join("tests/documented"));
    let none = none.args(["README.md", "No such heading"]).output();
    assert_eq!(none.expect("runs").status.code(), Some(1));
    let all: Vec<String> = blocks_of(Runner::Commands).iter().flat_map(lines).collect();
    for line in PLATFORMS {
        assert!(
            all.iter().any(|known| known == line),
            "{line} is shown nowhere"
        );
    }
}
