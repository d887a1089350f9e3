//! The texts that are made from the table of options: help, version, dump.

use super::Config;
use super::options::{Effect, Group, OPTIONS};
use crate::cli::help;
use crate::keyfile;
use crate::version::{AGENT_VERSION, PROTOCOL_VERSION};

pub(super) fn version() -> String {
    format!("QEMU Guest Agent {PROTOCOL_VERSION} (qemu-ga-rs {AGENT_VERSION})")
}

pub(crate) fn help(program: &str) -> String {
    let shown = OPTIONS.iter().map(|option| &option.spec);
    let shown = shown.filter(|spec| !spec.help.is_empty());
    let rows: Vec<_> = shown.map(help::row).collect();
    format!(
        "Usage: {program} [-m <method> -p <path>] [<options>]\n{}\n\n\
         Runs in a virtual machine and answers the requests of its host.\n\n\
         {}\n\
         The configuration file takes the long names as keys of its group [general];\n\
         only --daemonize is called daemon there. Those without a short name are keys\n\
         of its group [qemu-ga-rs]. --dump-conf shows an example.\n",
        version(),
        help::columns(&rows)
    )
}

impl Config {
    /// The configuration in the file's format. The group `[general]` is as in the original's own dump. All of our group
    /// is shown, because a limit at its default ends a freeze as well.
    pub fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for group in Group::ALL {
            out.extend_from_slice(format!("{group}\n").as_bytes());
            for option in OPTIONS {
                let Some((_, key)) = option.key.filter(|(of, _)| *of == group) else {
                    continue;
                };
                let Some(value) = self.value(option.effect) else {
                    continue;
                };
                out.extend_from_slice(key.as_bytes());
                out.push(b'=');
                out.extend_from_slice(&keyfile::escape(&value));
                out.push(b'\n');
            }
        }
        out
    }

    /// The value of an option as it is written in the file.
    pub fn value(&self, effect: Effect) -> Option<Vec<u8>> {
        match effect {
            Effect::Switch { get, .. } => Some(get(self).to_string().into_bytes()),
            Effect::Value { get, .. } => get(self),
            Effect::ConfigFile
            | Effect::DumpConf
            | Effect::Version
            | Effect::Help
            | Effect::Nothing => None,
        }
    }
}
