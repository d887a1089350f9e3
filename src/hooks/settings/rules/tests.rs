use super::super::HookKind;
use super::*;

static ADAPTERS: [Adapter; 1] = [Adapter {
    name: "azure",
    ..Adapter::DEFAULT
}];

fn rules(text: &str) -> HookConfig {
    HookConfig::parse(Path::new("/c"), text.as_bytes(), &ADAPTERS)
}

#[test]
fn a_hook_s_group_stands_over_its_head_and_that_over_the_defaults() {
    let rules = rules(
        "[hooks]\ntimeout=20\ntotal-timeout=1.5\nretries=2\n\
         [hook 10-db]\ntimeout=0\nsuccess=0;3\non-failure=abort\n",
    );
    assert_eq!(rules.warnings, [""; 0]);
    assert_eq!(rules.total_timeout, Some(Duration::from_millis(1500)));
    let head = b"#!/bin/sh\n# qga-hook: type = hold\n# qga-hook: timeout = 60\n";
    let EffectiveSettings {
        policy,
        warnings,
        fault,
    } = rules.of_hook("10-db", head);
    assert_eq!((warnings.len(), fault), (0, None));
    assert_eq!((policy.kind, policy.timeout), (HookKind::Hold, None));
    assert_eq!((policy.retries, policy.success), (2, vec![0, 3]));
    assert_eq!(policy.on_failure, OnFailure::Abort);
    let other = rules.of_hook("20-other", head).policy;
    assert_eq!(other.timeout, Some(Duration::from_secs(60)));
    assert_eq!(other.on_failure, OnFailure::Continue);
    let binary = rules.of_hook("20-other", &head[1..]).policy;
    assert_eq!(binary.kind, HookKind::Once, "no script, no head");
}

#[test]
fn settings_can_be_read_back() {
    let text = "[hooks]\nenabled=no\nstage=3\nparallel=yes\non-failure=abort\ntimeout=0\n\
        kill-after=0.25\nhold-timeout=5\nretries=2\nretry-pause=0\nsuccess=0;3\n\
        not-applicable=\nuser=db\noutput-limit=9\n[hook a]\ntype=hold\n";
    let policy = rules(text).of_hook("a", b"").policy;
    let mut read = HookSettings::default();
    for (key, value) in policy.settings() {
        let default = HookSettings::default().settings();
        assert!(
            !default.contains(&(key, value.clone())),
            "{key} has its default"
        );
        read.set(key, &value).unwrap();
    }
    assert_eq!(read, policy);
}

#[test]
fn what_is_wrong_is_named_and_left_at_its_default() {
    let rules = rules(
        "[hooks]\ntimeout=soon\nretries=101\nstage=-1\nsuccess=0;256\nkill-after=1e9\n\
         user=\nparallel=maybe\ncolour=red\ntype=hold\noutput-limit=nan\n[hok x]\na=b\n",
    );
    assert_eq!(rules.defaults, HookSettings::default());
    let expected = [
        "/c (line 13): [hok x] means nothing here; a hook's group is [hook NAME]",
        "/c (line 2): timeout=soon in [hooks] is not a number of seconds from 0 to 604800; ignored",
        "/c (line 3): retries=101 in [hooks] is not a whole number from 0 to 100; ignored",
        "/c (line 4): stage=-1 in [hooks] is not a whole number from 0 to 99; ignored",
        "/c (line 5): success=0;256 in [hooks] is not a list of exit statuses from 0 to 255, like 0;3; ignored",
        "/c (line 6): kill-after=1e9 in [hooks] is not a number of seconds from 0 to 604800; ignored",
        "/c (line 8): parallel=maybe in [hooks] is neither yes nor no; ignored",
        "/c (line 9): colour=red in [hooks] is not a setting of a hook; ignored",
        "/c (line 10): type=hold in [hooks] is a setting of single hooks; ignored",
        "/c (line 11): output-limit=nan in [hooks] is not a whole number from 0 to 4294967295; ignored",
    ];
    assert_eq!(rules.warnings, expected);
    assert_eq!(rules.of_hook("y", b"").fault, None);
    assert!(rules.of_hook("x", b"").fault.is_some(), "it may be its own");
}

#[test]
fn what_a_fault_may_have_been_about() {
    let rows = [
        ("[hook a\n", "a", true),
        ("[hook a\n", "b", false),
        ("[hook a-b\n", "a", false),
        ("[HOOK A]\nx=y\n", "a", true),
        ("[hooks\n", "b", true),
        ("[hook]\nx=y\n", "b", true),
        ("x=y\n", "b", true),
        ("[hook a]\nx: y\n", "b", false),
        ("[hook a]\nx: [y]\n", "a", true),
        ("[hook  a ]\nx: y\n", "a", true),
        ("[hook a]\nb]\n[hook c]\n", "a", false),
        ("[azure]\nx: y\n", "b", false),
        ("[hook b]\n#x\n\n", "b", false),
    ];
    for (text, name, expected) in rows {
        let fault = rules(text).of_hook(name, b"").fault;
        assert_eq!(fault.is_some(), expected, "{text:?} {name}: {fault:?}");
    }
}

#[test]
fn what_may_be_misspelt() {
    let is_odd = |key, value| rules("").find_fault(DEFAULTS, key, value).is_some();
    for key in [
        "usr",
        "User",
        "users",
        "user-name",
        "enable",
        "disabled",
        "Enabled",
    ] {
        assert!(is_odd(key, "x"), "{key}");
    }
    for key in ["colour", "time", "stages", "retry", "used-by-nobody"] {
        assert!(!is_odd(key, "x"), "{key}");
    }
    assert!(is_odd("whatever", "abort") && is_odd("kind", "hold"));
    assert!(rules("").find_fault("azure", "config", "/x").is_none());
}
