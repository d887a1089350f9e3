//! A sample of the configuration file: every key, each commented out with its default.

use crate::options::shown;
use qemu_ga::cli::{OptionSpec, help::wrap};
use qemu_ga::config::Config;
use qemu_ga::config::options::{AgentOption, CONF_DIRS, CONF_FILE, Group, HOOK_FILE};

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
        for option in shown() {
            if let Some((_, key)) = option.key.filter(|&(of, _)| of == group) {
                let comment = comment(&option.spec);
                text += &format!("\n{comment}#{key}={}\n", example(option));
            }
        }
    }
    text
}

fn comment(spec: &OptionSpec) -> String {
    let lines = wrap(spec.help, 96).into_iter();
    lines.map(|line| format!("# {line}\n")).collect()
}

/// A value that changes nothing or, where there is no default, shows what one looks like.
fn example(option: &AgentOption) -> String {
    match Config::default().value(option.effect) {
        Some(value) => String::from_utf8_lossy(&value).into_owned(),
        None => match option.spec.long {
            "path" => "/dev/virtio-ports/org.qemu.guest_agent.0".to_owned(),
            "logfile" => "/var/log/qemu-ga.log".to_owned(),
            "fsfreeze-hook" => format!("{}/{HOOK_FILE}", CONF_DIRS[0]),
            _ => String::new(),
        },
    }
}
