use super::*;
use crate::freeze::policy::FreezeMode;
use std::time::Duration;

#[test]
fn every_key_in_the_file() {
    let config = from_file(
        "[general]\nverbose=true\n[qemu-ga-rs]\nfsfreeze-mode = hooks-only\n\
         fsfreeze-include=/data/*, type:xfs\nfsfreeze-exclude=dev:sdb*\nfsfreeze-optional=/mnt/[a-c]\n\
         fsfreeze-strict=yes\nfsfreeze-ignore-frozen=1\nfsfreeze-hold-limit=60.5\n\
         fsfreeze-step-limit=0\nsnapshot-file=/s\nrestore-hooks=off\n",
    );
    assert_eq!(config.warnings, Vec::<String>::new());
    let policy = &config.policy;
    assert_eq!(policy.freeze, FreezeMode::HooksOnly);
    assert!(policy.include[0].matches(b"/data/x/y", "ext4", &[]));
    assert!(policy.include[1].matches(b"/x", "xfs", &[]));
    assert!(policy.exclude[0].matches(b"/x", "xfs", &["/dev/sdb1".into()]));
    assert!(policy.optional[0].matches(b"/mnt/b", "ext4", &[]));
    assert!(policy.strict && policy.ignore_frozen);
    assert_eq!(config.limits.hold, Some(Duration::from_millis(60_500)));
    assert_eq!(config.limits.step, None);
    assert_eq!(config.snapshot_file.as_deref(), Some(Path::new("/s")));
    assert_eq!(config.restore_hooks, None);
    let (general, own) = dumps(&config);
    assert!(general.contains("verbose=true") && !general.contains("fsfreeze"));
    assert_eq!(
        own,
        "profile=full\nfsfreeze-mode=hooks-only\nfsfreeze-include=/data/*,type:xfs\nfsfreeze-exclude=dev:sdb*\n\
         fsfreeze-optional=/mnt/[a-c]\nfsfreeze-strict=true\nfsfreeze-ignore-frozen=true\n\
         fsfreeze-normal-rcu=false\nfsfreeze-hold-limit=60.5\nfsfreeze-step-limit=0\n\
         snapshot-file=/s\nrestore-hooks=off\n"
    );
    let again = from_file(std::str::from_utf8(&config.dump()).unwrap());
    assert_eq!((again.policy, again.limits), (config.policy, config.limits));
}

#[test]
fn the_defaults_are_quiet() {
    let config = from_file("[qemu-ga-rs]\nfsfreeze-hold-limit=900\nfsfreeze-exclude=,\n");
    assert_eq!(dump(&config), DEFAULTS);
    assert!(config.warnings.is_empty());
    assert_eq!(config.limits.hold, Some(Duration::from_secs(900)));
    assert_eq!(config.limits.step, Some(Duration::from_secs(300)));
    assert_eq!(config.policy, Default::default());
}

#[test]
fn the_command_line_comes_on_top() {
    let file = file("[qemu-ga-rs]\nfsfreeze-hold-limit=60\nfsfreeze-exclude=/a\n");
    let config = run(&[
        "-c",
        &file.1,
        "--fsfreeze-hold-limit",
        "5",
        "--fsfreeze-exclude=/b",
        "--fsfreeze-strict",
    ]);
    assert_eq!(config.limits.hold, Some(Duration::from_secs(5)));
    assert_eq!(dumped(&config, "fsfreeze-exclude").unwrap(), "/a,/b");
    assert!(config.policy.strict);
    // No abbreviation of the original becomes ambiguous.
    assert_eq!(dumped(&run(&["--f=/x"]), "fsfreeze-hook").unwrap(), "/x");
    let config = run(&["--fsfreeze-hold-limit=soon"]);
    assert_eq!(
        config.warnings,
        ["--fsfreeze-hold-limit=soon is not a number of seconds from 0 to 604800; using 900"]
    );
    assert_eq!(dump(&config), DEFAULTS);
}

#[test]
fn each_invalid_value_is_one_warning_and_a_safe_default() {
    let file = file(
        "[qemu-ga-rs]\nfsfreeze-mode=some\nfsfreeze-exclude=data, /ok ,type:,/x[\n\
         fsfreeze-strict=maybe\nfsfreeze-hold-limit=-1\nfsfreeze-step-limit=1000000\n\
         fsfreeze-include=/a\\*\nfsfreeze-freeze=off\n",
    );
    let config = run(&["-c", &file.1]);
    let expected = [
        "8): unknown key 'fsfreeze-freeze' in [qemu-ga-rs]; ignored; check its spelling",
        "2): fsfreeze-mode=some in [qemu-ga-rs] is not all, hooks-only or off; using all",
        "7): the value of 'fsfreeze-include' has an unknown escape '\\*'; ignored; use \\s \\t \\n \
         \\r or \\\\",
        "3): fsfreeze-exclude=data, /ok ,type:,/x[ in [qemu-ga-rs] is partly ignored: the pattern \
         'data' begins with none of '/', 'type:' and 'dev:', the pattern 'type:' is empty after its \
         colon, the pattern '/x[' has a '[' without its ']'",
        "4): fsfreeze-strict=maybe in [qemu-ga-rs] is neither yes nor no; ignored",
        "5): fsfreeze-hold-limit=-1 in [qemu-ga-rs] is not a number of seconds from 0 to 604800; \
         using 900",
        "6): fsfreeze-step-limit=1000000 in [qemu-ga-rs] is not a number of seconds from 0 to \
         604800; using 300",
    ];
    assert_eq!(
        config.warnings,
        expected.map(|text| format!("{} (line {text}", file.1))
    );
    // What counts in their place is shown.
    assert_eq!(
        dumps(&config).1,
        "profile=full\nfsfreeze-mode=all\nfsfreeze-include=\nfsfreeze-exclude=/ok\nfsfreeze-optional=\n\
         fsfreeze-strict=false\nfsfreeze-ignore-frozen=false\nfsfreeze-normal-rcu=false\n\
         fsfreeze-hold-limit=900\nfsfreeze-step-limit=300\n\
         snapshot-file=/var/lib/qemu-ga/snapshot.json\nrestore-hooks=/etc/qemu/restore-hook.d\n"
    );
}

#[test]
fn our_keys_do_not_belong_to_the_general_group() {
    let file = file("[general]\nfsfreeze-hold-limit=60\n");
    let config = run(&["-c", &file.1]);
    assert_eq!(dump(&config), DEFAULTS);
    assert_eq!(
        config.warnings,
        [format!(
            "{} (line 2): key 'fsfreeze-hold-limit' in [general] belongs to [qemu-ga-rs]; ignored; \
             move it there",
            file.1
        )]
    );
}
