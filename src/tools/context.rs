//! The configuration that a tool works with: of its `--config` or `QGA_CONF`, else of the running agent, else of the
//! service's unit, each read by the agent's own rules. Processes of other users are never trusted.

use super::args::ParsedArgs;
use super::systemd_unit;
use crate::cli::{Arg, OptionSpec, ValueKind};
use crate::config::{self, Action, Config};
use crate::hooks::trust;
use nix::unistd::geteuid;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

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

#[derive(Debug)]
pub(super) struct ToolContext {
    pub config: Config,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    File(PathBuf),
    Agent(i32),
    Unit(PathBuf),
    DefaultFile,
    BuiltIn,
}

impl Origin {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Agent(_) => "agent",
            Self::Unit(_) => "unit",
            Self::DefaultFile => "default-file",
            Self::BuiltIn => "built-in",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "of {}", path.display()),
            Self::Agent(pid) => write!(f, "of the running agent, process {pid}"),
            Self::Unit(path) => write!(f, "of {} (agent not running)", path.display()),
            Self::DefaultFile => {
                f.write_str("of the agent's default file (no agent or unit found)")
            }
            Self::BuiltIn => f.write_str("built-in defaults"),
        }
    }
}

/// A running agent, ours or the original.
#[derive(Debug)]
pub(super) struct Agent {
    pub pid: i32,
    /// `None`: its command line cannot be read.
    pub config: Option<Config>,
}

impl ToolContext {
    pub(super) fn of(args: &ParsedArgs) -> Result<Self, String> {
        let env = |name: &str| std::env::var_os(name);
        let statedir = args.value("--statedir");
        let read_with = |mut args: Vec<OsString>| {
            if let Some(dir) = statedir {
                args.extend([OsString::from("--statedir"), dir.to_owned()]);
            }
            read(&args, &env)
        };
        let named = args.value("--config").map(ToOwned::to_owned);
        if let Some(file) = named.clone().or(env("QGA_CONF")) {
            let option = named.map(|file| vec!["--config".into(), file]);
            return Ok(Self {
                config: read_with(option.unwrap_or_default())?,
                origin: Origin::File(file.into()),
            });
        }
        let mut running = agents();
        running.retain(|agent| statedir.is_none_or(|dir| agent.uses(Path::new(dir))));
        // Of several agents none is more likely to be meant.
        if let [agent] = &mut running[..] {
            if let Some(config) = agent.config.take() {
                let origin = Origin::Agent(agent.pid);
                return Ok(Self { config, origin });
            }
        }
        if let Some((path, args)) = systemd_unit::command_line(Path::new("/")) {
            if let Ok(config) = read_with(args) {
                let origin = Origin::Unit(path);
                return Ok(Self { config, origin });
            }
        }
        Ok(Self {
            config: read_with(Vec::new())?,
            origin: Origin::DefaultFile,
        })
    }

    /// For a tool that must work even if the configuration cannot be read.
    pub(super) fn built_in() -> Self {
        Self {
            config: Config::default(),
            origin: Origin::BuiltIn,
        }
    }
}

impl Agent {
    pub(super) fn uses(&self, statedir: &Path) -> bool {
        let theirs = self.config.as_ref().map(|config| &config.statedir);
        let real = |dir: &Path| dir.canonicalize().ok();
        theirs.is_some_and(|dir| real(dir).is_some() && real(dir) == real(statedir))
    }
}

fn read(args: &[OsString], env: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, String> {
    let mut all = vec![OsString::from("qemu-ga")];
    all.extend(args.iter().cloned());
    match config::parse(&all, env) {
        Ok(Action::Run(config) | Action::DumpConf(config)) => Ok(config),
        Ok(_) => Err("its command line only prints help".into()),
        Err(error) => Err(error.stderr.trim_end().to_owned()),
    }
}

/// Those of our mount namespace, by process id.
pub(super) fn agents() -> Vec<Agent> {
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

pub(super) fn pids(statedir: &Path) -> Vec<i32> {
    let mut agents = agents();
    agents.retain(|agent| agent.uses(statedir));
    agents.iter().map(|agent| agent.pid).collect()
}

/// The process `pid` if it is an agent in our mount namespace that runs as root or as our user. Another user's process
/// could claim to be an agent; even reading its command line may block, on a page that never arrives.
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
    // Only root can read the program of root's processes; others see its name only.
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
        // config::parse compares LISTEN_PID with our own process id, but the socket is the agent's.
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

/// Whether all user ids of the process are root's or ours.
pub(super) fn is_trusted(dir: &Path) -> bool {
    let own = geteuid().to_string();
    let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let is_trusted = |user| user == "0" || user == own;
    users.is_some_and(|users| users.split_ascii_whitespace().all(is_trusted))
}
