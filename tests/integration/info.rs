//! guest-info, which hosts read before anything else.

use crate::support::{Disk, Place, freeze_list, in_namespace, is_ours, returned};
use serde_json::Value;
use std::process::Command;

/// The commands in the order of registration.
fn registered() -> Vec<String> {
    let place = Place::new();
    let out = place.run(&["-b", "help"]);
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

/// The names that guest-info tells as enabled.
fn enabled(reply: &str) -> Vec<String> {
    let reply: Value = serde_json::from_str(reply).expect("JSON");
    let commands = reply["return"]["supported_commands"].as_array();
    let commands = commands.expect("a list").iter();
    let names = commands.filter(|c| c["enabled"] == true);
    names
        .map(|c| c["name"].as_str().expect("a name").to_owned())
        .collect()
}

const SILENT: [&str; 4] = [
    "guest-shutdown",
    "guest-suspend-disk",
    "guest-suspend-ram",
    "guest-suspend-hybrid",
];

#[test]
fn the_whole_reply() {
    let place = Place::new();
    let agent = place.agent(&[]);
    let version = Command::new(crate::support::binary()).arg("-V").output();
    let version = String::from_utf8(version.expect("runs").stdout).expect("text");
    let version = version.split_whitespace().nth(3).expect("a number");
    let commands: Vec<String> = registered()
        .iter()
        .rev()
        .map(|name| {
            let answers = !SILENT.contains(&name.as_str());
            format!(r#"{{"enabled": true, "name": "{name}", "success-response": {answers}}}"#)
        })
        .collect();
    let expected = format!(
        r#"{{"version": "{version}", "supported_commands": [{}]}}"#,
        commands.join(", ")
    );
    assert_eq!(agent.call("guest-info"), returned(expected));
}

#[test]
fn block_and_allow_lists_show_in_the_flags() {
    let place = Place::new();
    let all = registered();
    let without = |blocked: &[&str]| -> Vec<String> {
        let mut left: Vec<String> = all.iter().rev().cloned().collect();
        left.retain(|name| !blocked.contains(&name.as_str()));
        left
    };
    let cases: [(&[&str], Vec<String>); 5] = [
        (
            &["-b", "guest-ping,guest-get-time"],
            without(&["guest-ping", "guest-get-time"]),
        ),
        (
            &["-b", "guest-get-devices", "-b", "guest-ping"],
            without(&["guest-ping"]),
        ),
        (&["-b", "", "-a", ""], without(&[])),
        (
            &["-a", "guest-info,guest-ping"],
            vec!["guest-info".into(), "guest-ping".into()],
        ),
        (
            &["-a", "guest-info,guest-ping", "-b", "guest-ping"],
            vec!["guest-info".into()],
        ),
    ];
    for (args, expected) in cases {
        let agent = place.agent(args);
        assert_eq!(enabled(&agent.call("guest-info")), expected, "{args:?}");
    }
}

#[test]
fn a_blocked_command_is_refused_before_its_arguments_are_looked_at() {
    let place = Place::new();
    let agent = place.agent(&["-b", "guest-get-time"]);
    let mut client = agent.connect();
    let refused = crate::support::disabled("guest-get-time");
    assert_eq!(client.call("guest-get-time"), refused);
    let odd = r#"{"execute":"guest-get-time","arguments":{"bogus":1}}"#;
    assert_eq!(client.ask(odd), refused);
    let wrong = r#"{"execute":"guest-get-time","arguments":5}"#;
    let text = "QMP input member 'arguments' must be an object";
    assert_eq!(client.ask(wrong), crate::support::failed(text));
}

#[test]
fn while_frozen_only_six_are_enabled_whatever_the_lists_say() {
    in_namespace(|| {
        let place = Place::new();
        let disk = Disk::ext4(&place.path("m"));
        let agent = place.agent(&["-b", "guest-ping,guest-fsfreeze-thaw,guest-get-time"]);
        let mut client = agent.connect();
        let before = enabled(&client.call("guest-info"));
        assert!(!before.contains(&"guest-ping".to_owned()));
        assert_eq!(client.ask(&freeze_list(&[disk.mountpoint()])), returned(1));
        let frozen = enabled(&client.call("guest-info"));
        let six = [
            "guest-fsfreeze-thaw",
            "guest-fsfreeze-status",
            "guest-info",
            "guest-ping",
            "guest-sync",
            "guest-sync-delimited",
        ];
        if is_ours() {
            // Our own read-only report may join them.
            assert!(six.iter().all(|name| frozen.iter().any(|f| f == name)));
            let foreign = frozen.iter().filter(|f| !six.contains(&f.as_str()));
            assert!(
                foreign.clone().all(|f| !f.starts_with("guest-")),
                "{frozen:?}"
            );
        } else {
            assert_eq!(frozen, six);
        }
        assert_eq!(client.call("guest-ping"), returned("{}"));
        assert_eq!(client.call("guest-fsfreeze-thaw"), returned(1));
        assert_eq!(enabled(&client.call("guest-info")), before);
        let refused = crate::support::disabled("guest-ping");
        assert_eq!(client.call("guest-ping"), refused);
    });
}
