//! What is found without a word in the settings, and in which order it runs.

use std::fs;
use std::path::Path;

use qemu_ga::adapters::ADAPTERS;
use qemu_ga::hooks::adapter::{Discovered, DiscoveryContext};
use qemu_ga::hooks::discovery::discover;
use qemu_ga::hooks::settings::HookConfig;
use qemu_ga::hooks::task::Eligibility;

use super::set_mode;

fn found(root: &Path, conf: &str) -> Discovered {
    let path = root.join("fsfreeze-hook.conf");
    fs::write(&path, conf).expect("conf");
    let rules = HookConfig::read(&path, ADAPTERS).expect("ours");
    let scene = DiscoveryContext {
        root,
        rules: &rules,
        devices: "",
    };
    discover(&root.join("etc/qemu/fsfreeze-hook.d"), &scene).expect("not refused")
}

fn sources(found: &Discovered) -> Vec<&str> {
    found
        .tasks
        .iter()
        .map(|step| step.source.as_str())
        .collect()
}

#[test]
fn usual_places_count_but_never_tmp() {
    let root = tempfile::tempdir().expect("dir");
    let root = root.path();
    let nothing = found(root, "");
    assert!(nothing.tasks.is_empty() && nothing.warnings.is_empty());
    let files = [
        "usr/sbin/pre-freeze-script",
        "usr/sbin/post-thaw-script",
        "etc/vmware-tools/backupScripts.d/1",
        "etc/azure/pre",
        "etc/azure/post",
        "tmp/prescript.sh",
        "tmp/postscript.sh",
        "etc/google/snapshots/pre.sh",
        "etc/google/snapshots/post.sh",
        "usr/local/sbin/pre_freeze",
        "usr/local/sbin/post_thaw",
        "home/rdadmin/Agent/bin/thirdparty/ebk_user/a_freeze.sh",
        "home/rdadmin/Agent/bin/thirdparty/ebk_user/a_unfreeze.sh",
        "etc/qemu/fsfreeze-hook.d/own",
    ];
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("above")).expect("dirs");
        fs::write(&path, "#!/bin/sh\n").expect("script");
        set_mode(&path, 0o700);
    }
    for dir in [
        "etc/vmware-tools/backupScripts.d",
        "etc/qemu/fsfreeze-hook.d",
    ] {
        set_mode(&root.join(dir), 0o755);
    }
    let plugin = root.join("etc/azure/VMSnapshotScriptPluginConfig.json");
    let dir = root.join("etc/azure");
    let dir = dir.display();
    let text =
        format!("{{\"preScriptLocation\":\"{dir}/pre\",\"postScriptLocation\":\"{dir}/post\"}}");
    fs::write(&plugin, text).expect("json");
    set_mode(&plugin, 0o600);

    let all = found(root, "");
    assert_eq!(
        sources(&all),
        ["vmware", "vmware", "azure", "google", "nutanix", ""],
        "{all:?}"
    );
    assert!(
        all.tasks.iter().all(|s| s.eligibility == Eligibility::Fit),
        "{all:?}"
    );
    assert!(all.warnings.is_empty(), "{:?}", all.warnings);
    for (name, place) in [("alibaba", 3), ("huawei", 5)] {
        let on = found(root, &format!("[{name}]\nenabled=yes\n"));
        let task = &on.tasks[place];
        assert_eq!(task.source, name);
        let is_unfit = matches!(task.eligibility, Eligibility::Unfit { .. });
        assert!(is_unfit && task.freeze.is_none(), "{name}: no usual place");
    }
    let off = "[vmware]\nenabled=no\n[azure]\nenabled=no\n[google]\nenabled=no\n\
               [nutanix]\nenabled=no\n";
    assert_eq!(sources(&found(root, off)), [""]);
    let staged = found(root, "[google]\nstage=10\n[azure]\nstage=x\n");
    assert_eq!(staged.tasks[3].policy.stage, 10);
    assert_eq!(staged.warnings.len(), 1, "{:?}", staged.warnings);
}

#[test]
fn what_is_switched_on_and_missing_is_a_failure() {
    let root = tempfile::tempdir().expect("dir");
    let on = "[vmware]\nenabled=yes\n[azure]\nenabled=yes\n[google]\nenabled=yes\n";
    let found = found(root.path(), on);
    assert_eq!(sources(&found), ["vmware", "azure", "google"]);
    let is_unfit = |fitness: &Eligibility| matches!(fitness, Eligibility::Unfit { .. });
    assert!(found.tasks.iter().all(|step| is_unfit(&step.eligibility)));
}
