//! VMSnapshotScriptPluginConfig.json: its keys, its permissions, its names for what goes wrong.

use std::fs;

use qemu_ga::hooks::{HookStatus, ThawReason};

use super::{calls, error, is_logged, only, script, set_mode};
use crate::support::Place;

struct Azure(Place);

impl Azure {
    /// Scripts with these bodies, and a file that names them and has `keys` besides.
    fn new(pre: &str, post: &str, keys: &str) -> Azure {
        let azure = Azure(Place::new());
        script(&azure.0, "pre", 0o700, pre);
        script(&azure.0, "post", 0o700, post);
        azure.json(keys);
        azure.0.conf(&format!(
            "[azure]\nconfig={}\nretry-pause=0\n",
            azure.0.path.join("plugin.json").display()
        ));
        azure
    }

    fn json(&self, keys: &str) {
        let dir = self.0.path.display();
        self.write(&format!(
            "{{\"preScriptLocation\":\"{dir}/pre\",\"postScriptLocation\":\"{dir}/post\"{keys}}}"
        ));
    }

    fn write(&self, text: &str) {
        let path = self.0.path.join("plugin.json");
        fs::write(&path, text).expect("json");
        set_mode(&path, 0o600);
    }
}

#[test]
fn both_scripts_with_their_parameters() {
    let keys = ",\"preScriptParams\":[\"a\",\"b c\"],\"postScriptParams\":[\"d\"]";
    let azure = Azure::new("", "", keys);
    let report = azure.0.freeze();
    assert_eq!((report.failure.as_deref(), error(&report)), (None, None));
    assert_eq!(only(&report).source, "azure");
    assert!(only(&report).path.ends_with("/pre"));
    assert!(!report.leaves_filesystems);
    let report = azure.0.thaw(ThawReason::Ok);
    assert_eq!((report.failure.as_deref(), error(&report)), (None, None));
    assert!(only(&report).path.ends_with("/post"));
    assert_eq!(calls(&azure.0), ["pre a b c", "post d"]);
}

#[test]
fn a_script_without_a_shebang_is_run_by_sh() {
    let azure = Azure::new("", "", "");
    let pre = azure.0.path.join("pre");
    fs::write(&pre, "exit 9\n").expect("script");
    let report = azure.0.freeze();
    assert_eq!(only(&report).status, HookStatus::Exited(9));
}

#[test]
fn a_failure_lets_the_backup_go_on_and_post_runs_all_the_same() {
    let azure = Azure::new("exit 77", "exit 5", "");
    let report = azure.0.freeze();
    assert_eq!(report.failure, None);
    assert_eq!(error(&report), Some("Pre-ScriptExecutionFailed"));
    let report = azure.0.thaw(ThawReason::Ok);
    assert_eq!(report.failure, None);
    assert_eq!(error(&report), Some("Post-ScriptExecutionFailed"));
    assert_eq!(calls(&azure.0), ["pre", "post"]);
    assert!(is_logged(&azure.0, "/post: Post-ScriptExecutionFailed"));
}

#[test]
fn without_continue_backup_on_failure_the_freeze_fails_with_the_name() {
    let azure = Azure::new("echo why; exit 1", "", ",\"continueBackupOnFailure\":false");
    azure.0.hook("later", "echo no");
    let failure = azure.0.freeze().failure.expect("fails");
    assert!(
        failure.contains("Pre-ScriptExecutionFailed: hook "),
        "{failure}"
    );
    assert!(
        failure.contains("exit status 1; its last output: why"),
        "{failure}"
    );
    let report = azure.0.thaw(ThawReason::Failed);
    assert_eq!((report.hooks.len(), report.failure), (1, None));
    assert_eq!(calls(&azure.0), ["pre", "post"]);

    azure.0.conf(&format!(
        "[azure]\nconfig={}/plugin.json\non-failure=continue\n",
        azure.0.path.display()
    ));
    assert_eq!(azure.0.freeze().failure, None, "the keyfile stands above");
}

#[test]
fn each_script_has_its_own_number_of_tries() {
    let keys = ",\"preScriptNoOfRetries\":2,\"postScriptNoOfRetries\":1";
    let azure = Azure::new("exit 1", "exit 1", keys);
    assert_eq!(only(&azure.0.freeze()).tries, Some(3));
    assert_eq!(only(&azure.0.thaw(ThawReason::Ok)).tries, Some(2));
    assert_eq!(calls(&azure.0), ["pre", "pre", "pre", "post", "post"]);
}

#[test]
fn a_script_that_hangs_costs_its_limit() {
    let azure = Azure::new("sleep 1000", "sleep 1000", ",\"timeoutInSeconds\":1");
    let report = azure.0.freeze();
    assert_eq!(only(&report).status, HookStatus::TimedOut);
    assert_eq!(error(&report), Some("Pre-ScriptTimeout"));
    let report = azure.0.thaw(ThawReason::Ok);
    assert_eq!(error(&report), Some("Post-ScriptTimeout"));
}

#[test]
fn no_script_runs_unless_both_and_the_file_are_as_they_should_be() {
    let azure = Azure::new("", "", "");
    let path = |name: &str| azure.0.path.join(name);
    let rows = [
        ("pre", 0o755, "InsufficientPermissionforPre-Script"),
        ("pre", 0o600, "InsufficientPermissionforPre-Script"),
        ("post", 0o770, "InsufficientPermissionforPost-Script"),
        ("plugin.json", 0o644, "IncorrectJSONConfigFile"),
        ("plugin.json", 0o700, "IncorrectJSONConfigFile"),
    ];
    for (name, mode, expected) in rows {
        set_mode(&path(name), mode);
        let report = azure.0.freeze();
        assert_eq!(report.failure, None);
        assert_eq!(error(&report), Some(expected), "{name} {mode:o}");
        assert_eq!(azure.0.thaw(ThawReason::Ok).hooks, []);
        let right = if name == "plugin.json" { 0o600 } else { 0o700 };
        set_mode(&path(name), right);
    }
    for (name, expected) in [
        ("post", "Post-ScriptNotFound"),
        ("pre", "Pre-ScriptNotFound"),
        ("plugin.json", "IncorrectJSONConfigFile"),
    ] {
        fs::remove_file(path(name)).expect("removed");
        assert_eq!(error(&azure.0.freeze()), Some(expected));
    }
    assert_eq!(calls(&azure.0), [""; 0]);
    if !crate::left_out::needs_root() {
        let azure = Azure::new("", "", "");
        let owner = Some(nix::unistd::Uid::from_raw(65534));
        nix::unistd::chown(&azure.0.path.join("pre"), owner, None).expect("chown");
        let report = azure.0.freeze();
        assert_eq!(error(&report), Some("InsufficientPermissionforPre-Script"));
        assert!(is_logged(&azure.0, "is owned by user 65534, not by root"));
        assert_eq!(calls(&azure.0), [""; 0]);
    }
}

#[test]
fn a_file_that_is_wrong_freezes_the_filesystems_alone() {
    let azure = Azure::new("", "", "");
    let rows = [
        ("{", "is not JSON"),
        ("{}", "preScriptLocation is missing"),
        (
            "{\"fsFreezeEnabled\":false}",
            "preScriptLocation is missing",
        ),
    ];
    for (text, why) in rows {
        azure.write(text);
        let report = azure.0.freeze();
        assert_eq!(error(&report), Some("IncorrectJSONConfigFile"), "{text}");
        assert!(report.failure.is_none() && !report.leaves_filesystems);
        assert!(is_logged(&azure.0, why), "{text}: {:?}", azure.0.log());
    }
    for told in ["false", "\"false\"", "0"] {
        azure.json(&format!(
            ",\"timeoutInSeconds\":[],\"continueBackupOnFailure\":{told}"
        ));
        let failure = azure.0.freeze().failure.expect("the file says so");
        assert!(
            failure.contains("IncorrectJSONConfigFile: hook "),
            "{failure}"
        );
        assert!(failure.contains(" must be "), "{failure}");
    }
    assert_eq!(calls(&azure.0), [""; 0]);
}

#[test]
fn without_fs_freeze_no_filesystem_is_to_be_frozen() {
    let azure = Azure::new("", "", ",\"fsFreezeEnabled\":false");
    let report = azure.0.freeze();
    assert!(report.leaves_filesystems);
    assert_eq!(error(&report), None);
    set_mode(&azure.0.path.join("post"), 0o777);
    assert!(!azure.0.freeze().leaves_filesystems, "no script runs");
}

#[test]
fn the_group_switches_it_off_and_stands_for_the_plugin_host_s_file() {
    let azure = Azure::new("", "", "");
    let config = azure.0.path.join("plugin.json").display().to_string();
    azure
        .0
        .conf(&format!("[azure]\nconfig={config}\nenabled=no\n"));
    assert_eq!(azure.0.freeze().hooks, []);
    azure.0.conf("[azure]\nconfig=plugin.json\ntimeout=3\n");
    let report = azure.0.freeze();
    assert_eq!(error(&report), Some("IncorrectPluginhostFile"));
    assert!(is_logged(&azure.0, "timeout=3 in [azure] is not a setting"));
    assert_eq!(calls(&azure.0), [""; 0]);
}

#[test]
fn what_became_unfit_during_the_run_does_not_keep_post_from_running() {
    let azure = Azure::new("chmod 755 \"$0\"", "", "");
    assert_eq!(error(&azure.0.freeze()), None);
    let report = azure.0.thaw(ThawReason::Ok);
    assert_eq!(error(&report), None);
    assert!(only(&report).path.ends_with("/post"));
    assert_eq!(calls(&azure.0), ["pre", "post"]);

    let azure = Azure::new("chmod 757 \"$(dirname \"$0\")/post\"", "", "");
    assert_eq!(error(&azure.0.freeze()), None);
    let report = azure.0.thaw(ThawReason::Ok);
    let expected = Some("InsufficientPermissionforPost-Script");
    assert_eq!(error(&report), expected);
    assert_eq!(calls(&azure.0), ["pre"]);
}

#[test]
fn a_script_that_goes_away_during_the_run_is_named() {
    let azure = Azure::new("rm \"$(dirname \"$0\")/post\"", "", "");
    assert_eq!(error(&azure.0.freeze()), None);
    let report = azure.0.thaw(ThawReason::Ok);
    assert_eq!(error(&report), Some("Post-ScriptNotFound"));
}

/// A file with the keys of Microsoft's template, and those that came later.
#[test]
fn a_file_as_azure_s_reader_takes_it_is_taken() {
    let azure = Azure::new("", "", "");
    let dir = azure.0.path.display();
    azure.write(&format!(
        "{{\n  \"pluginName\" : \"ScriptRunner\",\n  \"appName\" : \"oracle\",\n  \
         \"preScriptLocation\" : \"{dir}/pre\",\n  \"postScriptLocation\" : \"{dir}/post\",\n  \
         \"preScriptParams\" : [\"\", \"\"],\n  \"postScriptParams\" : [7, true],\n  \
         \"preScriptNoOfRetries\" : 0,\n  \"postScriptNoOfRetries\" : 0,\n  \
         \"timeoutInSeconds\" : 7200,\n  \"continueBackupOnFailure\" : false,\n  \
         \"fsFreezeEnabled\" : true,\n  \"ScriptsExecutionPollTimeSeconds\" : 9,\n  \
         \"comment\" : {{\"of\": [\"our\", \"own\"]}}\n}}\n"
    ));
    let report = azure.0.freeze();
    assert_eq!((report.failure.as_deref(), error(&report)), (None, None));
    assert_eq!(azure.0.thaw(ThawReason::Ok).failure, None);
    assert_eq!(calls(&azure.0), ["pre ", "post 7 True"]);
    // What has no effect here is named all the same.
    assert!(is_logged(
        &azure.0,
        "timeoutInSeconds is 7200; it is cut to 1800"
    ));
    assert!(is_logged(&azure.0, "comment"), "{:?}", azure.0.log());
    assert!(!is_logged(&azure.0, "appName"));
}

#[test]
fn status_2_is_a_warning_and_a_success() {
    let keys = ",\"preScriptNoOfRetries\":3,\"continueBackupOnFailure\":false";
    let azure = Azure::new("exit 2", "exit 2", keys);
    let report = azure.0.freeze();
    assert_eq!((report.failure.as_deref(), error(&report)), (None, None));
    assert!(only(&report).is_success() && only(&report).tries.is_none());
    let report = azure.0.thaw(ThawReason::Ok);
    assert!(only(&report).is_success() && error(&report).is_none());
    assert_eq!(calls(&azure.0), ["pre", "post"]);
    assert!(is_logged(&azure.0, "status=2 (success)"));
    assert!(!is_logged(&azure.0, "ScriptExecutionFailed"));
}

#[test]
fn the_limit_is_for_all_tries_together() {
    let keys = ",\"preScriptNoOfRetries\":3,\"postScriptNoOfRetries\":3,\"timeoutInSeconds\":1";
    let azure = Azure::new("sleep 0.6; exit 1", "sleep 0.6; exit 1", keys);
    let begun = std::time::Instant::now();
    let report = azure.0.freeze();
    assert_eq!(only(&report).tries, Some(2));
    assert_eq!(error(&report), Some("Pre-ScriptTimeout"));
    let report = azure.0.thaw(ThawReason::Ok);
    assert_eq!(only(&report).tries, Some(2));
    assert_eq!(error(&report), Some("Post-ScriptTimeout"));
    assert_eq!(calls(&azure.0), ["pre", "pre", "post", "post"]);
    let taken = begun.elapsed().as_secs_f64();
    assert!(taken < 4.0, "four tries of 0.6 s each took more: {taken}");
}
