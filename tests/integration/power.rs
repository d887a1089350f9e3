//! guest-shutdown, guest-suspend-*, guest-set-time and guest-fstrim, with stubs in the place of
//! the helpers. Nothing here starts before it has seen that the stub is where the helper was.

use crate::support::disk::{bind_file, detach};
use crate::support::{Agent, Disk, Place, failed, in_namespace, is_ours, not_run, returned};
use std::fs;
use std::path::Path;

/// Puts a script in the place of `program`, which appends its name and arguments to `seen`.
fn stub(place: &Place, program: &str, script: &str) {
    let program = Path::new(program);
    let name = program.file_name().expect("a name").to_str().expect("text");
    // Not `name`: where several programs are links to one, the last stub is in the place of all.
    let log = format!("echo \"${{0##*/}} $*\" >>{}", place.path("seen").display());
    let path = place.script(name, &format!("{log}\n{script}"));
    if !program.exists() {
        fs::write(program, "").expect("a place for the stub");
    }
    bind_file(&path, program);
    assert_eq!(
        fs::read(program).expect("stub"),
        fs::read(&path).expect("script")
    );
}

/// The same for every program that guest-shutdown may run.
fn stub_shutdown(place: &Place, script: &str) {
    for program in ["shutdown", "poweroff", "halt", "reboot"] {
        stub(place, &format!("/sbin/{program}"), script);
    }
}

fn ask(agent: &Agent, command: &str, arguments: &str) -> String {
    let request = format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#);
    // The ping shows that nothing else was answered.
    let ping = r#"{"execute":"guest-ping"}"#;
    let all = agent
        .connect()
        .exchange(format!("{request}{ping}").as_bytes());
    let all = String::from_utf8(all).expect("ASCII");
    let pong = returned("{}") + "\n";
    let first = all.strip_suffix(&pong).expect("the ping's answer");
    first.trim_end_matches('\n').to_owned()
}

#[test]
fn shutdown_runs_the_helper_and_is_silent() {
    in_namespace(|| {
        let place = Place::new();
        stub_shutdown(&place, "");
        let agent = place.agent(&[]);
        for (mode, program) in [
            ("", "poweroff"),
            (r#""mode":"powerdown""#, "poweroff"),
            (r#""mode":"halt""#, "halt"),
            (r#""mode":"reboot""#, "reboot"),
        ] {
            fs::remove_file(place.path("seen")).ok();
            assert_eq!(ask(&agent, "guest-shutdown", mode), "");
            assert_eq!(place.read("seen"), format!("{program} \n"));
        }
        fs::remove_file(place.path("seen")).expect("seen");
        for (mode, text) in [
            (
                r#""mode":"bogus""#,
                "mode is invalid (valid values are: halt|powerdown|reboot",
            ),
            (
                r#""mode":null"#,
                "Invalid parameter type for 'mode', expected: string",
            ),
            (r#""x":1"#, "Parameter 'x' is unexpected"),
        ] {
            assert_eq!(ask(&agent, "guest-shutdown", mode), failed(text));
        }
        assert!(!place.path("seen").exists());
    });
}

#[test]
fn a_shutdown_that_fails_is_answered() {
    in_namespace(|| {
        let place = Place::new();
        stub_shutdown(&place, "exit 3");
        let agent = place.agent(&[]);
        assert_eq!(
            ask(&agent, "guest-shutdown", ""),
            failed("child process has failed to shutdown: exit status 3")
        );
        let other = Place::new();
        stub_shutdown(&other, "echo not now; exit 1");
        assert_eq!(
            ask(&agent, "guest-shutdown", ""),
            failed(r"child process has failed to shutdown: not now\n")
        );
    });
}

/// An agent whose PATH is `bin` of the place, and which sees `state` as the kernel's list of
/// sleeping states.
fn sleepy_agent(place: &Place, state: &str) -> Option<Agent> {
    let kernel = Path::new("/sys/power/state");
    if kernel.exists() {
        fs::write(place.path("state_file"), state).expect("state");
        bind_file(&place.path("state_file"), kernel);
        assert_eq!(fs::read_to_string(kernel).expect("state"), state);
    } else if !state.is_empty() {
        not_run("there is no /sys/power/state to put a stub over");
        return None;
    }
    let mut command = place.agent_command(&[]);
    command.env("PATH", place.path("bin"));
    Some(Agent::start(command, &place.path("sock")))
}

#[test]
fn suspend_by_the_first_means_that_works() {
    in_namespace(|| {
        let place = Place::new();
        fs::create_dir(place.path("bin")).expect("dir");
        let Some(agent) = sleepy_agent(&place, "") else {
            return;
        };
        let suspend = |how: &str| ask(&agent, &format!("guest-suspend-{how}"), "");
        for how in ["disk", "ram", "hybrid"] {
            let text = "the requested suspend mode is not supported by the guest";
            assert_eq!(suspend(how), failed(text));
        }
        let log = format!("echo \"${{0##*/}} $*\" >>{}", place.path("seen").display());
        place.script(
            "bin/systemctl",
            &format!("{log}\ntest $1 != status || exit 3"),
        );
        for (how, unit, verb) in [
            ("disk", "hibernate", "hibernate"),
            ("ram", "suspend", "suspend"),
            ("hybrid", "hybrid-sleep", "hybrid-sleep"),
        ] {
            fs::remove_file(place.path("seen")).ok();
            assert_eq!(suspend(how), "");
            let seen = format!("systemctl status systemd-{unit}\nsystemctl {verb}\n");
            assert_eq!(place.read("seen"), seen);
        }
        place.script("bin/systemctl", "test $1 != status || exit 3; exit 1");
        assert_eq!(suspend("hybrid"), failed("unknown guest suspend mode"));
        if is_ours() {
            let text = "child process has failed to suspend: exit status 1";
            assert_eq!(suspend("ram"), failed(text));
        }
        let nonsense = ask(&agent, "guest-suspend-ram", r#""x":1"#);
        assert_eq!(nonsense, failed("Parameter 'x' is unexpected"));
    });
}

#[test]
fn suspend_by_the_kernel_itself() {
    if !is_ours() {
        return; // it answers nothing
    }
    in_namespace(|| {
        let place = Place::new();
        fs::create_dir(place.path("bin")).expect("dir");
        let Some(agent) = sleepy_agent(&place, "freeze disk\n") else {
            return;
        };
        let text = "the requested suspend mode is not supported by the guest";
        assert_eq!(ask(&agent, "guest-suspend-ram", ""), failed(text));
        assert_eq!(ask(&agent, "guest-suspend-disk", ""), "");
        assert_eq!(place.read("state_file"), "diskze disk\n");
    });
}

#[test]
fn set_time_from_the_hardware_clock_and_refusals() {
    in_namespace(|| {
        let place = Place::new();
        stub(&place, "/sbin/hwclock", "");
        let agent = place.agent(&[]);
        assert_eq!(ask(&agent, "guest-set-time", ""), returned("{}"));
        assert_eq!(place.read("seen"), "hwclock -s\n");
        // None of these comes as far as the clock.
        for (arguments, text) in [
            (r#""time":3155760000000000000"#, "Invalid time"),
            (r#""time":9223372036854775807"#, "Invalid time"),
            (r#""time":-9223372036854775808"#, "Invalid time"),
            (
                r#""time":9223372036854775808"#,
                "Invalid parameter type for 'time', expected: integer",
            ),
            (
                r#""time":1.5"#,
                "Invalid parameter type for 'time', expected: integer",
            ),
            (
                r#""time":null"#,
                "Invalid parameter type for 'time', expected: integer",
            ),
            (r#""now":1"#, "Parameter 'now' is unexpected"),
        ] {
            assert_eq!(
                ask(&agent, "guest-set-time", arguments),
                failed(text),
                "{arguments}"
            );
        }
        detach(Path::new("/sbin/hwclock"));
        stub(&place, "/sbin/hwclock", "echo no clock; exit 1");
        let text = r"child process has failed to set hardware clock to system time: no clock\n";
        assert_eq!(ask(&agent, "guest-set-time", ""), failed(text));
    });
}

#[test]
fn fstrim_tells_of_each_filesystem() {
    in_namespace(|| {
        let place = Place::new();
        let first = Disk::ext4(&place.path("a"));
        let second = Disk::ext4(&place.path("b"));
        let agent = place.agent(&[]);
        let reply = ask(&agent, "guest-fstrim", "");
        let reply: serde_json::Value = serde_json::from_str(&reply).expect("JSON");
        let paths = reply["return"]["paths"].as_array().expect("a list");
        let names: Vec<_> = paths.iter().map(|p| p["path"].as_str()).collect();
        assert_eq!(names, [Some(second.mountpoint()), Some(first.mountpoint())]);
        for path in paths {
            assert!(
                path["trimmed"].as_u64() > Some(1 << 20) && path["minimum"].is_u64(),
                "{path}"
            );
        }
        let refusal = |disk: &Disk| {
            let path = disk.mountpoint();
            format!(r#"{{"path": "{path}", "error": "failed to trim: Invalid argument"}}"#)
        };
        assert_eq!(
            ask(&agent, "guest-fstrim", r#""minimum":-1"#),
            returned(format!(
                r#"{{"paths": [{}, {}]}}"#,
                refusal(&second),
                refusal(&first)
            ))
        );
        let text = "Invalid parameter type for 'minimum', expected: integer";
        assert_eq!(
            ask(&agent, "guest-fstrim", r#""minimum":"1""#),
            failed(text)
        );
    });
}
