//! The texts that are made from the table of options: help, version, dump.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::options::{Arg, Group, Id, OPTIONS, Spec};
use super::{Config, RpcList};
use crate::freeze::policy::Pattern;
use crate::keyfile;
use crate::protocol::text::wrap_words;
use crate::version::{AGENT_VERSION, PROTOCOL_VERSION};

/// Width of the help, and where its second column starts.
const WIDTH: usize = 79;
const COLUMN: usize = 28;

/// The version line, without a line end.
pub(super) fn version() -> String {
    format!("QEMU Guest Agent {PROTOCOL_VERSION} (qemu-ga-rs {AGENT_VERSION})")
}

/// The help, for a program of that name.
pub(super) fn help(program: &str) -> String {
    let mut text = format!(
        "Usage: {program} [-m <method> -p <path>] [<options>]\n{}\n\n\
         Runs in a virtual machine and answers the requests of its host.\n\n",
        version()
    );
    for spec in OPTIONS.iter().filter(|spec| !spec.help.is_empty()) {
        let mut left = names(spec);
        let mut right = spec.help.to_owned();
        if let Some(default) = spec.default {
            right += &format!(" (default: {default})");
        }
        for line in wrap_words(&right, WIDTH - COLUMN, WIDTH - COLUMN) {
            if left.len() + 2 > COLUMN {
                text += &left;
                text.push('\n');
                left.clear();
            }
            text += &format!("{left:<COLUMN$}{line}\n");
            left.clear();
        }
    }
    text += "\nThe configuration file takes the long names as keys of its group [general];\n\
             only --daemonize is called daemon there. Those without a short name are keys\n\
             of its group [qemu-ga-rs]. --dump-conf shows an example.\n";
    text
}

/// `  -x, --long=ARG` and the older spellings.
fn names(spec: &Spec) -> String {
    let short = spec
        .short
        .map(|letter| format!("-{}", letter.escape_ascii()));
    let value = match spec.arg {
        Arg::Switch => String::new(),
        Arg::Value(name) | Arg::List(name) => format!("={name}"),
        Arg::Attached(name) => format!("[={name}]"),
    };
    let long = [spec.long].into_iter().chain(spec.old.iter().copied());
    let all: Vec<String> = short
        .into_iter()
        .chain(long.map(|long| format!("--{long}{value}")))
        .collect();
    format!("  {}", all.join(", "))
}

impl Config {
    /// The configuration in the file's format: known keys in the table's order, scalars that are
    /// not set left out, and of each option of a list its entries in reverse, as the original
    /// prints them. What it knows is as in its own dump, up to our group: all of that is shown, for a
    /// limit at its default ends a freeze as well.
    pub fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for group in Group::ALL {
            let keys: Vec<_> = OPTIONS
                .iter()
                .filter_map(|spec| {
                    spec.key
                        .filter(|(g, _)| *g == group)
                        .map(|(_, k)| (k, spec.id))
                })
                .filter_map(|(key, id)| Some((key, self.value(id)?)))
                .collect();
            out.extend_from_slice(format!("{group}\n").as_bytes());
            for (key, value) in keys {
                out.extend_from_slice(key.as_bytes());
                out.push(b'=');
                out.extend_from_slice(&keyfile::escape(&value));
                out.push(b'\n');
            }
        }
        out
    }

    /// The value of an option as it is written in the file.
    fn value(&self, id: Id) -> Option<Vec<u8>> {
        let switch = |on: bool| Some(if on { &b"true"[..] } else { b"false" }.to_vec());
        let text = |text: &OsStr| text.as_bytes().to_vec();
        match id {
            Id::Daemon => switch(self.daemon),
            Id::Verbose => switch(self.verbose),
            Id::RetryPath => switch(self.retry_path),
            Id::Method => Some(text(self.method.name().as_ref())),
            Id::Path => self.path.as_ref().map(|path| text(path.as_ref())),
            Id::LogFile => self.logfile.as_ref().map(|path| text(path.as_ref())),
            Id::PidFile => Some(text(self.pidfile.as_ref())),
            Id::FsfreezeHook => self.fsfreeze_hook.as_ref().map(|path| text(path.as_ref())),
            Id::StateDir => Some(text(self.statedir.as_ref())),
            Id::BlockRpcs => Some(reversed(&self.block_rpcs).into_bytes()),
            Id::AllowRpcs => Some(reversed(&self.allow_rpcs).into_bytes()),
            Id::FsfreezeMode => Some(self.policy.freeze.name().into()),
            Id::FsfreezeInclude => patterns(&self.policy.include),
            Id::FsfreezeExclude => patterns(&self.policy.exclude),
            Id::FsfreezeOptional => patterns(&self.policy.optional),
            Id::FsfreezeStrict => switch(self.policy.strict),
            Id::FsfreezeIgnoreFrozen => switch(self.policy.ignore_frozen),
            Id::FsfreezeNormalRcu => switch(self.policy.normal_rcu),
            Id::FsfreezeHoldLimit => Some(seconds(self.limits.hold)),
            Id::FsfreezeStepLimit => Some(seconds(self.limits.step)),
            Id::Config | Id::DumpConf | Id::Version | Id::Help | Id::Service => None,
        }
    }
}

fn seconds(limit: Option<Duration>) -> Vec<u8> {
    let number = limit.unwrap_or_default().as_secs_f64();
    number.to_string().into_bytes()
}

fn patterns(list: &[Pattern]) -> Option<Vec<u8>> {
    let texts: Vec<String> = list.iter().map(Pattern::to_string).collect();
    Some(texts.join(",").into_bytes())
}

fn reversed(list: &RpcList) -> String {
    let entries = list.0.iter().flat_map(|option| option.iter().rev());
    entries.map(String::as_str).collect::<Vec<_>>().join(",")
}
