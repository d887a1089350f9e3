//! The configuration that the tools go by: what the command line of the tool names, or else that of
//! the running agent, or else that of the service's unit, each with the configuration file and
//! QGA_CONF by the agent's own rules.

use super::args::ParsedArgs;
use super::systemd_unit;
use crate::cli::{Arg, OptionSpec, ValueKind};
use crate::config::{self, Action, Config};
use crate::hooks::trust;
use nix::unistd::geteuid;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The options by which a tool is told another configuration.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "config",
        Arg::Value("FILE", ValueKind::File),
        "use this configuration file",
    )
    .short(b'c')
    .default(
        "that of the running agent, else that of qemu-guest-agent.service, else the agent's \
         default file",
    ),
    OptionSpec::new(
        "statedir",
        Arg::Value("DIR", ValueKind::Directory),
        "the state directory",
    )
    .short(b't')
    .default("that of the configuration"),
];

/// A configuration, and where it is from.
#[derive(Debug)]
pub struct ToolContext {
    /// In effect.
    pub config: Config,
    /// Where it is from, for people.
    pub origin: String,
}

/// An agent that runs, ours or the original.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub pid: i32,
    /// What it runs with; `None` if its command line makes no sense to us.
    pub config: Option<Config>,
}

impl ToolContext {
    /// What holds for a tool that was called with `given`.
    ///
    /// # Errors
    /// The configuration cannot be understood; the text is the agent's own.
    pub fn of(given: &ParsedArgs) -> Result<Self, String> {
        let env = |name: &str| std::env::var_os(name);
        let statedir = given.value("--statedir");
        let told = |mut args: Vec<OsString>| {
            args.extend(
                statedir
                    .map(|dir| [OsString::from("--statedir"), dir.to_owned()])
                    .into_iter()
                    .flatten(),
            );
            read(&args, &env)
        };
        let named = given.value("--config").map(ToOwned::to_owned);
        if let Some(file) = named.clone().or(env("QGA_CONF")) {
            let option = named.map(|file| vec!["--config".into(), file]);
            return Ok(Self {
                config: told(option.unwrap_or_default())?,
                origin: format!("of {}", Path::new(&file).display()),
            });
        }
        let mut running = agents();
        running.retain(|agent| statedir.is_none_or(|dir| agent.uses(Path::new(dir))));
        if let [agent] = &mut running[..] {
            if let Some(config) = agent.config.take() {
                let origin = format!("of the running agent, process {}", agent.pid);
                return Ok(Self { config, origin });
            }
        }
        if let Some((path, args)) = systemd_unit::command_line(Path::new("/")) {
            if let Ok(config) = told(args) {
                let origin = format!("of {}; its agent does not run", path.display());
                return Ok(Self { config, origin });
            }
        }
        Ok(Self {
            config: told(Vec::new())?,
            origin: "of the agent's default file; no running agent and no unit was found".into(),
        })
    }
}

impl Agent {
    /// Whether it has this state directory.
    pub fn uses(&self, statedir: &Path) -> bool {
        let theirs = self.config.as_ref().map(|config| &config.statedir);
        let real = |dir: &Path| dir.canonicalize().ok();
        theirs.is_some_and(|dir| real(dir).is_some() && real(dir) == real(statedir))
    }
}

/// The configuration that an agent with these arguments has.
fn read(args: &[OsString], env: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, String> {
    let mut all = vec![OsString::from("qemu-ga")];
    all.extend(args.iter().cloned());
    match config::parse(&all, env) {
        Ok(Action::Run(config) | Action::DumpConf(config)) => Ok(config),
        Ok(_) => Err("its command line only asks for help".into()),
        // A method without a path is the channel's trouble, not ours.
        Err(error) => Err(error.stderr.trim_end().to_owned()),
    }
}

/// The agents of our mount namespace.
pub fn agents() -> Vec<Agent> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others = numbers.filter(|&pid: &i32| u32::try_from(pid) != Ok(own));
    let mut others: Vec<i32> = others.collect();
    others.sort_unstable();
    others.into_iter().filter_map(agent).collect()
}

/// The process ids of the agents with this state directory.
pub fn pids(statedir: &Path) -> Vec<i32> {
    let mut agents = agents();
    agents.retain(|agent| agent.uses(statedir));
    agents.iter().map(|agent| agent.pid).collect()
}

/// The process `pid` if it is an agent that sees what we see, and is root's or ours. Another user's may
/// call itself an agent and show anything; its very command line may be a page that never comes.
fn agent(pid: i32) -> Option<Agent> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    if !is_trusted(&dir) {
        return None;
    }
    let words = |name: &str| -> Option<Vec<OsString>> {
        let bytes = fs::read(dir.join(name)).ok()?;
        let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        let word = |word: &[u8]| OsString::from_vec(word.to_vec());
        Some(words.split(|&byte| byte == 0).map(word).collect())
    };
    let command = words("cmdline")?;
    // Who is not root cannot see what root's processes run, only what they call it.
    let called = || PathBuf::from(command.first().cloned().unwrap_or_default());
    let program = fs::read_link(dir.join("exe")).unwrap_or_else(|_| called());
    // After an upgrade it is `qemu-ga (deleted)`.
    let name = program.file_name()?.as_bytes();
    if !name.starts_with(b"qemu-ga") && fs::read_link("/proc/self/exe").ok() != Some(program) {
        return None;
    }
    // Options begin with a dash; a word makes it another tool of the same binary.
    if command
        .get(1)
        .is_some_and(|word| !word.as_bytes().starts_with(b"-"))
    {
        return None;
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace(&pid.to_string()) != namespace("self") {
        return None;
    }
    let environment = words("environ").unwrap_or_default();
    let env = |name: &str| {
        let is_meant = |entry: &&OsString| {
            let rest = entry.as_bytes().strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        };
        let found = environment.iter().find(is_meant)?;
        let value = &found.as_bytes()[name.len() + 1..];
        // The socket of activation is that of the agent, which only it can tell by its number.
        let name_is_pid = name == "LISTEN_PID" && value == pid.to_string().as_bytes();
        Some(if name_is_pid {
            std::process::id().to_string().into()
        } else {
            OsStr::from_bytes(value).to_owned()
        })
    };
    let args = &command[1..];
    let file = config::named_file(args).or_else(|| env("QGA_CONF").map(PathBuf::from));
    let is_safe = |file: &PathBuf| !file.exists() || trust::check(file).is_ok();
    let config = match file.is_none_or(|file| is_safe(&file)) {
        true => read(args, &env).ok(),
        false => None,
    };
    Some(Agent { pid, config })
}

/// Whether all users of the process with this directory in /proc, the real one included, are root or we.
pub(super) fn is_trusted(dir: &Path) -> bool {
    let own = geteuid().to_string();
    let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let is_trusted = |user| user == "0" || user == own;
    users.is_some_and(|users| users.split_ascii_whitespace().all(is_trusted))
}
