//! A sample of the configuration file: every key, each commented out with its default.

use crate::options::shown;
use qemu_ga::config::options::{Arg, CONF_DIRS, CONF_FILE, Group, HOOK_FILE, Id, Spec};
use qemu_ga::config::options::{PIDFILE, STATEDIR};

/// The file.
pub fn conf() -> String {
    let mut text = format!(
        "# {CONF_FILE}: the QEMU guest agent's configuration; see qemu-ga(8).\n\
         # Without this file, or with nothing set, the agent goes by its defaults. Options of its\n\
         # command line come on top of what is set here.\n"
    );
    for group in Group::ALL {
        if group == Group::Own {
            text += "\n# The original agent passes this group over: one file serves both.";
        }
        text += &format!("\n[{}]\n", group.name());
        for spec in shown() {
            if let Some((_, key)) = spec.key.filter(|&(of, _)| of == group) {
                text += &format!("\n{}#{key}={}\n", comment(spec), example(spec));
            }
        }
    }
    text
}

fn comment(spec: &Spec) -> String {
    let mut lines = vec![String::from("#")];
    for word in spec.help.split_whitespace() {
        if lines
            .last()
            .is_some_and(|line| line.len() + 1 + word.len() > 98)
        {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A value that changes nothing or, where there is no default, shows what one looks like.
fn example(spec: &Spec) -> String {
    match spec.id {
        Id::Path => "/dev/virtio-ports/org.qemu.guest_agent.0".to_owned(),
        Id::LogFile => "/var/log/qemu-ga.log".to_owned(),
        Id::PidFile => PIDFILE.to_owned(),
        Id::StateDir => STATEDIR.to_owned(),
        Id::FsfreezeHook => format!("{}/{HOOK_FILE}", CONF_DIRS[0]),
        _ => match spec.arg {
            Arg::Switch => "false".to_owned(),
            _ => spec.default.unwrap_or("").to_owned(),
        },
    }
}
