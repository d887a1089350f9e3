//! Command line and configuration file (floor 5), as a [`Config`].
//!
//! One table ([`options`]) drives both, the help and the dump. The command line is scanned once for `-c`, the file is
//! read, then the command line is applied on top: scalars are replaced, lists add up. Nothing is opened here but the
//! file, and nothing is printed: `app` prints the text of an [`Action`] or a [`ConfigError`], and logs
//! [`Config::warnings`] when the log works. The tools read the running agent's configuration by this module.

mod file;
pub mod options;
mod show;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::adapters;
use crate::cli::scan::{Found, scan};
use crate::cli::{Arg, ValueKind};
use crate::commands::profile::ProfileName;
use crate::freeze::policy::{FreezeLimits, FreezePolicy, Pattern};
use crate::freeze::snapshot;
use crate::hooks::locate;
use crate::keyfile;
use crate::transport;
use options::{CONF_DIRS, Effect, HOOK_FILE, OPTIONS, PIDFILE, STATEDIR};
pub(crate) use show::help;

/// What the command line requests.
#[derive(Debug)]
pub enum Action {
    /// Run the agent.
    Run(Config),
    /// Print [`Config::dump`] and exit, after [`Config::use_activated_socket`].
    DumpConf(Config),
    /// Print this text and exit.
    Help(String),
    /// Print this text and exit.
    Version(String),
    /// Print the names of all commands, one per line, and exit.
    ListCommands,
}

/// The kind of channel to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// A virtio-serial port.
    VirtioSerial,
    /// A serial port.
    IsaSerial,
    /// A listening Unix socket.
    UnixListen,
    /// A listening vsock.
    VsockListen,
    /// Refused when the channel is opened, not before: `--dump-conf` shows it, as with QEMU's agent.
    Unknown(String),
}

impl Method {
    pub(crate) fn from_name(name: &str) -> Method {
        match name {
            "virtio-serial" => Method::VirtioSerial,
            "isa-serial" => Method::IsaSerial,
            "unix-listen" => Method::UnixListen,
            "vsock-listen" => Method::VsockListen,
            other => Method::Unknown(other.into()),
        }
    }

    /// The name for `-m`.
    pub fn name(&self) -> &str {
        match self {
            Method::VirtioSerial => "virtio-serial",
            Method::IsaSerial => "isa-serial",
            Method::UnixListen => "unix-listen",
            Method::VsockListen => "vsock-listen",
            Method::Unknown(name) => name,
        }
    }

    pub(crate) fn default_path(&self) -> Option<&'static Path> {
        match self {
            Method::VirtioSerial => Some(Path::new("/dev/virtio-ports/org.qemu.guest_agent.0")),
            Method::IsaSerial => Some(Path::new("/dev/ttyS0")),
            Method::UnixListen | Method::VsockListen | Method::Unknown(_) => None,
        }
    }
}

/// The entries of each option, those of the file first. Options are kept apart because the dump reverses each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RpcList(Vec<Vec<String>>);

impl RpcList {
    /// An empty value adds none. Nothing is trimmed here, because the dump shows the entries as they were given.
    fn add(&mut self, value: &str) {
        if !value.is_empty() {
            self.0.push(value.split(',').map(str::to_owned).collect());
        }
    }

    fn entries(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().map(str::trim_ascii)
    }
}

/// The configuration in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The kind of channel to the host.
    pub method: Method,
    /// Device, socket or `<cid>:<port>`; `None` only if the service manager passed the socket.
    pub(crate) path: Option<PathBuf>,
    /// `None`: standard error.
    pub(crate) logfile: Option<PathBuf>,
    /// Written only with `daemon`.
    pub(crate) pidfile: PathBuf,
    /// The hook as configured; [`Config::hook`] is the one to run.
    pub(crate) fsfreeze_hook: Option<PathBuf>,
    pub(crate) statedir: PathBuf,
    pub(crate) verbose: bool,
    pub(crate) daemon: bool,
    pub(crate) retry_path: bool,
    pub(crate) policy: FreezePolicy,
    pub(crate) limits: FreezeLimits,
    pub(crate) profile: ProfileName,
    /// `None`: it is switched off.
    pub(crate) snapshot_file: Option<PathBuf>,
    /// `None`: they are switched off.
    pub(crate) restore_hooks: Option<PathBuf>,
    pub(crate) block_rpcs: RpcList,
    /// If not empty, the only commands that are allowed.
    pub(crate) allow_rpcs: RpcList,
    /// Mistakes that do not keep the agent from starting, one line each, for the log.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            method: Method::VirtioSerial,
            path: None,
            logfile: None,
            pidfile: PIDFILE.into(),
            fsfreeze_hook: None,
            statedir: STATEDIR.into(),
            verbose: false,
            daemon: false,
            retry_path: false,
            policy: FreezePolicy::default(),
            limits: FreezeLimits::default(),
            profile: ProfileName::default(),
            snapshot_file: Some(snapshot::DEFAULT_PATH.into()),
            restore_hooks: Some(locate::restore_dir()),
            block_rpcs: RpcList::default(),
            allow_rpcs: RpcList::default(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// `None` also for `/dev/null`, by which the configuration file of RHEL and Fedora switches the hook off.
    pub(crate) fn hook(&self) -> Option<&Path> {
        self.fsfreeze_hook
            .as_deref()
            .filter(|hook| *hook != Path::new("/dev/null"))
    }

    /// A listening socket that the service manager passed replaces method and path, whatever has set them.
    pub(crate) fn use_activated_socket(&mut self, method: Method) {
        self.method = method;
        self.path = None;
    }

    /// Applies other systems' settings of filesystems if their scripts run as hooks: who migrates expects his
    /// exclusions to hold. An error in the hooks' settings is left to the hook master, which fails the freeze.
    fn apply_adapters_settings(&mut self) {
        let Some(master) = self.hook() else {
            return;
        };
        let conf = locate::conf_beside(&locate::dir_of(master));
        for settings in adapters::filesystem_settings(&conf) {
            match settings {
                Ok(settings) => {
                    self.policy.ignore_frozen |= settings.ignore_frozen;
                    self.add_excluded(settings.origin, settings.exclude);
                }
                Err(why) => self.warnings.push(why.to_string()),
            }
        }
    }

    fn add_excluded(&mut self, origin: &str, globs: Vec<String>) {
        for glob in globs {
            match Pattern::parse(&glob) {
                Ok(pattern) => self.policy.exclude.push(pattern),
                Err(why) => self.warnings.push(format!("{origin}: {why}; ignored")),
            }
        }
    }

    /// Ends at the first option that ends the program or is wrong: the original does not read on either.
    fn apply_command_line(
        &mut self,
        found: Vec<Found>,
        program: &str,
        dirs: &[&Path],
    ) -> Result<Option<Action>, ConfigError> {
        for found in found {
            let (option, value) = match found {
                Found::Option(at, value) => (&OPTIONS[at], value),
                // The original ignores them.
                Found::Operand(_) | Found::Program(_) => continue,
                Found::Bad(text) => {
                    return Err(ConfigError {
                        stdout: format!(
                            "Unknown option, try '{program} --help' for more information.\n"
                        ),
                        ..ConfigError::new(program, text)
                    });
                }
            };
            match option.effect {
                Effect::Help => return Ok(Some(Action::Help(help(program)))),
                Effect::Version => return Ok(Some(Action::Version(show::version() + "\n"))),
                Effect::DumpConf | Effect::ConfigFile | Effect::Nothing => {}
                Effect::Switch { set, .. } => set(self, true),
                Effect::Value { set, .. } => {
                    let is_list = matches!(option.spec.arg, Arg::List(_, ValueKind::CommandName));
                    if is_list && value.as_ref().is_some_and(|v| v == "help" || v == "?") {
                        return Ok(Some(Action::ListCommands));
                    }
                    // Only the hook's path may be absent.
                    let value = value
                        .unwrap_or_else(|| file::first_existing(dirs, HOOK_FILE).into_os_string());
                    if let Err(why) = set(self, &value) {
                        let value = keyfile::excerpt(&value.to_string_lossy());
                        let long = option.spec.long;
                        self.warnings.push(format!("--{long}={value} {why}"));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Why the agent cannot start with this configuration: what to print on which stream, line ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub(crate) stderr: String,
    pub(crate) stdout: String,
}

impl ConfigError {
    pub(crate) const EXIT_STATUS: u8 = 1;

    fn new(program: &str, text: impl fmt::Display) -> Self {
        ConfigError {
            stderr: format!("{program}: {text}\n"),
            stdout: String::new(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stderr, self.stdout)
    }
}

impl std::error::Error for ConfigError {}

/// Reads the command line (`args`, the program's name first), the environment and the configuration file. Call it
/// before [`crate::sys::activation::receive`], which removes the variables that announce a socket.
///
/// # Errors
/// An option or the file cannot be understood, or a path is missing.
pub fn parse(
    args: &[OsString],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Action, ConfigError> {
    let mut action = parse_in(args, env, &CONF_DIRS.map(Path::new))?;
    if let Action::Run(config) | Action::DumpConf(config) = &mut action {
        config.apply_adapters_settings();
    }
    Ok(action)
}

fn parse_in(
    args: &[OsString],
    env: &dyn Fn(&str) -> Option<OsString>,
    dirs: &[&Path],
) -> Result<Action, ConfigError> {
    let (program, args) = match args {
        [program, args @ ..] => (program.to_string_lossy(), args),
        [] => ("qemu-ga".into(), args),
    };
    let found = scan(&options::specs(), args);
    let dumps = found.iter().any(|found| match found {
        Found::Option(at, _) => matches!(OPTIONS[*at].effect, Effect::DumpConf),
        _ => false,
    });
    let mut config = Config::default();
    let file = file::choose(named_file(args), env("QGA_CONF").map(PathBuf::from), dirs);
    // Before the options, which are applied on top of it.
    file::load(&mut config, &file).map_err(|error| ConfigError::new(&program, error))?;
    if let Some(action) = config.apply_command_line(found, &program, dirs)? {
        return Ok(action);
    }
    // The variables decide here; the socket itself is received later.
    if is_activated(env) {
        config.path = None;
    } else if config.path.is_none() {
        let path = config.method.default_path().ok_or_else(|| {
            let text = match &config.method {
                // No path would make it work.
                Method::Unknown(name) => transport::unknown_method(name),
                method => format!(
                    "must specify a path for this channel: add -p PATH for the method '{}'",
                    method.name()
                ),
            };
            ConfigError::new(&program, text)
        })?;
        config.path = Some(path.to_owned());
    }
    Ok(if dumps {
        Action::DumpConf(config)
    } else {
        Action::Run(config)
    })
}

/// `args` are without the program's name.
pub(crate) fn named_file(args: &[OsString]) -> Option<PathBuf> {
    let mut found = scan(&options::specs(), args).into_iter().rev();
    found.find_map(|found| match found {
        Found::Option(at, path) if matches!(OPTIONS[at].effect, Effect::ConfigFile) => {
            path.map(PathBuf::from)
        }
        _ => None,
    })
}

/// Whether the service manager passed sockets (sd_listen_fds(3)): then a path is neither needed nor used.
fn is_activated(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let number = |name| env(name).and_then(|value| value.to_str()?.parse::<u32>().ok());
    number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS").is_some_and(|n| n > 0)
}
