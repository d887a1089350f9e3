//! Adapter for Azure's Linux VM backup: the scripts in `VMSnapshotScriptPluginConfig.json`.
//!
//! The file and both scripts are checked before either runs. Each problem has the name that Azure uses for it, and the
//! file itself says whether the freeze then fails. Values that Azure's reader ignores or converts are ignored or
//! converted in the same way here. The group `[azure]` of the hooks' settings replaces Azure's plugin host file.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::script::{self, Group, GroupSettings, ScriptError, ScriptErrorKind};
use crate::diagnostic::Diagnostic;
use crate::hooks::adapter::{Adapter, Discovered, DiscoveryContext, Enabled};
use crate::hooks::settings::OnFailure;
use crate::hooks::task::{CommandLine, Eligibility, HookTask};
use crate::hooks::{self, HookStatus, Phase};
use crate::keyfile::excerpt;
use crate::sys::strerror;

pub(super) const ADAPTER: Adapter = Adapter {
    name: NAME,
    tags: &[
        ("crash", "crashConsistent"),
        ("filesystem", "fileSystemConsistent"),
        ("application", "applicationConsistent"),
    ],
    discover: find,
    error_name,
    ..Adapter::DEFAULT
};

const NAME: &str = "azure";
const PLACE: &str = "etc/azure/VMSnapshotScriptPluginConfig.json";
/// The file's parameters may contain passwords.
const REQUIRED_MODE: u32 = 0o600;
const MAX_FILE_BYTES: u64 = 1 << 20;
const DEFAULT_TIMEOUT_SECONDS: f64 = 30.0;
const MAX_TIMEOUT_SECONDS: f64 = 1800.0;
/// Keys without effect here: labels, and the interval at which Azure checks whether a script has ended.
const LABELS: [&str; 3] = ["pluginName", "appName", "ScriptsExecutionPollTimeSeconds"];
/// Success with a warning.
const WARNING: i32 = 2;

const BAD_HOST: &str = "IncorrectPluginhostFile";
const BAD_FILE: &str = "IncorrectJSONConfigFile";

const GROUP: Group = Group {
    name: NAME,
    on_failure: OnFailure::Continue,
    // A path that is not absolute has a name of its own in Azure's contract.
    paths: &[],
    has_timeout: false,
};

fn find(context: &DiscoveryContext<'_>) -> Discovered {
    let mut config = None;
    let settings = GROUP.read(context, &mut |key, value| {
        if key != "config" {
            return script::unknown(key, value);
        }
        config = Some(PathBuf::from(value));
        Ok(())
    });
    let is_named = config.is_some();
    let path = config.unwrap_or_else(|| context.root.join(PLACE));
    let mut found = settings.discovered();
    let wanted = is_named || settings.used == Enabled::Yes;
    if settings.used == Enabled::No || (!wanted && !path.exists()) {
        return found;
    }
    let (task, leaves_filesystems) = task(&path, &settings, &mut found.warnings);
    found.leaves_filesystems = leaves_filesystems && task.eligibility == Eligibility::Fit;
    found.tasks.push(task);
    found
}

/// The second value: whether the task asks for no filesystem to be frozen.
fn task(path: &Path, settings: &GroupSettings, warnings: &mut Vec<String>) -> (HookTask, bool) {
    let shown = path.display().to_string();
    let mut task = HookTask::new(shown, settings.policy.clone());
    task.policy.success.push(WARNING);
    let unfit = |reason, error| Eligibility::Unfit {
        reason,
        error: Some(error),
    };
    if !path.is_absolute() {
        let reason = Diagnostic::new(
            "",
            "config= in [azure] is not an absolute path",
            "correct fsfreeze-hook.conf",
        );
        task.eligibility = unfit(reason, BAD_HOST);
        return (task, false);
    }
    let text = match read(path) {
        Ok(text) => text,
        Err(reason) => {
            task.eligibility = unfit(reason, BAD_FILE);
            return (task, false);
        }
    };
    let (plugin, continues) = Plugin::parse(&text);
    if !continues && settings.on_failure.is_none() {
        task.policy.on_failure = OnFailure::Abort;
    }
    let plugin = match plugin {
        Ok(plugin) => plugin,
        Err(wrong) => {
            let what = path.display().to_string();
            let reason = Diagnostic { what, ..wrong };
            task.eligibility = unfit(reason, BAD_FILE);
            return (task, false);
        }
    };
    let halves = [(Phase::Freeze, &plugin.pre), (Phase::Thaw, &plugin.post)];
    let rejected = halves.map(|(phase, half)| half.check().err().map(|error| (phase, error)));
    if let Some((phase, rejected)) = rejected.into_iter().flatten().next() {
        let error = match rejected.kind {
            ScriptErrorKind::Missing => not_found(phase),
            ScriptErrorKind::NotExecutable | ScriptErrorKind::Forbidden => forbidden(phase),
        };
        task.eligibility = unfit(rejected.reason, error);
    }
    let notes = plugin.notes.iter();
    warnings.extend(notes.map(|note| format!("{}: {note}", path.display())));
    // The timeout is for all tries of a script together.
    task.budget = Some(plugin.timeout);
    task.freeze = Some(plugin.pre.into_command(plugin.timeout));
    task.thaw = Some(plugin.post.into_command(plugin.timeout));
    (task, !plugin.freezes_filesystems)
}

/// Reads from the descriptor that was checked.
fn read(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    let place = script::open_checked(path, REQUIRED_MODE).map_err(|rejected| rejected.reason)?;
    let mut text = Vec::new();
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut text))
        .map_err(|error| {
            let what = format!("{} cannot be read", path.display());
            Diagnostic::new(what, strerror(&error), "")
        })?;
    Ok(text)
}

/// The first problem of a plugin configuration file's content, for the fuzzer.
pub fn check(text: &[u8]) -> Result<(), Diagnostic> {
    Plugin::parse(text).0.map(drop)
}

#[derive(Debug, PartialEq)]
struct Half {
    location: PathBuf,
    params: Vec<String>,
    retries: u32,
}

impl Half {
    fn check(&self) -> Result<(), ScriptError> {
        if self.location.is_absolute() {
            return script::open_checked(&self.location, script::MAX_MODE_PRIVATE).map(drop);
        }
        let why = format!("'{}' is not an absolute path", self.location.display());
        Err(ScriptErrorKind::Missing.error(why, "write the whole path of the script"))
    }

    fn into_command(self, timeout: Duration) -> CommandLine {
        CommandLine {
            program: self.location,
            args: self.params.into_iter().map(Into::into).collect(),
            timeout: Some(timeout),
            retries: self.retries,
        }
    }
}

#[derive(Debug, PartialEq)]
struct Plugin {
    pre: Half,
    post: Half,
    timeout: Duration,
    freezes_filesystems: bool,
    /// Values that are ignored or limited, as Azure does.
    notes: Vec<String>,
}

impl Plugin {
    /// The second value: whether a failure lets the backup continue, as far as the file says so.
    fn parse(text: &[u8]) -> (Result<Plugin, Diagnostic>, bool) {
        let keys = match serde_json::from_slice(text) {
            Ok(Value::Object(keys)) => keys,
            Ok(_) => return (Err(wrong("is not a JSON object")), true),
            Err(error) => return (Err(wrong(format!("is not JSON: {error}"))), true),
        };
        // A value that is not a boolean does not permit the backup to continue.
        let continues = keys.get("continueBackupOnFailure");
        let continues = continues.is_none_or(|value| *value == Value::Bool(true));
        (Plugin::parse_keys(Keys(keys)), continues)
    }

    fn parse_keys(mut keys: Keys) -> Result<Plugin, Diagnostic> {
        let mut notes = Vec::new();
        keys.boolean("continueBackupOnFailure", true)?;
        for label in LABELS {
            keys.0.remove(label);
        }
        let is_time = |v: &Value| v.as_f64().is_some_and(|seconds| seconds > 0.0);
        let timeout = keys.take(
            "timeoutInSeconds",
            "a number of seconds greater than 0",
            &is_time,
        )?;
        let mut timeout = timeout
            .and_then(|v| v.as_f64())
            .unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        if timeout > MAX_TIMEOUT_SECONDS {
            notes.push(format!(
                "timeoutInSeconds is {timeout}; it is cut to {MAX_TIMEOUT_SECONDS}, the most that Azure gives"
            ));
            timeout = MAX_TIMEOUT_SECONDS;
        }
        let mut plugin = Plugin {
            pre: keys.half("pre")?,
            post: keys.half("post")?,
            timeout: Duration::from_secs_f64(timeout),
            freezes_filesystems: keys.boolean("fsFreezeEnabled", true)?,
            notes,
        };
        let unknown = keys.0.keys();
        plugin.notes.extend(unknown.map(|key| {
            let key = excerpt(key);
            format!("the key {key} means nothing; take it out, or look at its spelling")
        }));
        Ok(plugin)
    }
}

fn wrong(why: impl Into<String>) -> Diagnostic {
    Diagnostic::new("", why, "")
}

/// The keys that are not yet evaluated.
struct Keys(Map<String, Value>);

impl Keys {
    fn take(
        &mut self,
        key: &str,
        what: &str,
        is_right: &dyn Fn(&Value) -> bool,
    ) -> Result<Option<Value>, Diagnostic> {
        match self.0.remove(key) {
            Some(value) if !is_right(&value) => {
                Err(wrong(format!("{key} must be {what}, not {value}")))
            }
            other => Ok(other),
        }
    }

    fn boolean(&mut self, key: &str, default: bool) -> Result<bool, Diagnostic> {
        let value = self.take(key, "true or false", &Value::is_boolean)?;
        Ok(value.and_then(|v| v.as_bool()).unwrap_or(default))
    }

    fn half(&mut self, which: &str) -> Result<Half, Diagnostic> {
        let key = format!("{which}ScriptLocation");
        let location = self.take(&key, "a path", &|v| is_param(v) && v.is_string())?;
        let location =
            location.ok_or_else(|| Diagnostic::new("", format!("{key} is missing"), "add it"))?;
        let is_list = |v: &Value| v.as_array().is_some_and(|list| list.iter().all(is_param));
        let params = format!("{which}ScriptParams");
        let params = match self.take(&params, "a list of strings", &is_list)? {
            Some(Value::Array(params)) => params,
            _ => Vec::new(),
        };
        let retries = format!("{which}ScriptNoOfRetries");
        let retries = self.take(&retries, "a whole number", &|v| v.is_i64() || v.is_u64())?;
        let retries = retries.and_then(|v| v.as_i64()).unwrap_or_default();
        Ok(Half {
            location: location.as_str().unwrap_or_default().into(),
            params: params.iter().map(text_of).collect(),
            retries: u32::try_from(retries.max(0)).unwrap_or(u32::MAX - 1),
        })
    }
}

/// As Azure's reader, written in Python, passes a parameter.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        other => other.to_string(),
    }
}

fn is_param(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        value => value.is_number() || value.is_boolean(),
    }
}

fn not_found(phase: Phase) -> &'static str {
    match phase {
        Phase::Freeze => "Pre-ScriptNotFound",
        Phase::Thaw => "Post-ScriptNotFound",
    }
}

fn forbidden(phase: Phase) -> &'static str {
    match phase {
        Phase::Freeze => "InsufficientPermissionforPre-Script",
        Phase::Thaw => "InsufficientPermissionforPost-Script",
    }
}

fn error_name(phase: Phase, status: &HookStatus) -> Option<&'static str> {
    let (timeout, failed) = match phase {
        Phase::Freeze => ("Pre-ScriptTimeout", "Pre-ScriptExecutionFailed"),
        Phase::Thaw => ("Post-ScriptTimeout", "Post-ScriptExecutionFailed"),
    };
    Some(match status {
        HookStatus::Exited(0 | WARNING) | HookStatus::Skipped(_) => return None,
        HookStatus::TimedOut
        | HookStatus::NotRun {
            status: hooks::TIMED_OUT,
            ..
        } => timeout,
        HookStatus::NotRun {
            status: hooks::NOT_FOUND,
            ..
        } => not_found(phase),
        HookStatus::NotRun { .. } => forbidden(phase),
        HookStatus::Exited(_) | HookStatus::Signaled(_) | HookStatus::Cancelled => failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#""preScriptLocation":"/a/pre","postScriptLocation":"/a/post""#;

    fn parse(keys: &str) -> Result<Plugin, Diagnostic> {
        Plugin::parse(format!("{{{LEAST}{keys}}}").as_bytes()).0
    }

    #[test]
    fn every_key_and_its_default() {
        let least = parse("").unwrap();
        let half = |path: &str| Half {
            location: path.into(),
            params: vec![],
            retries: 0,
        };
        let expected = Plugin {
            pre: half("/a/pre"),
            post: half("/a/post"),
            timeout: Duration::from_secs(30),
            freezes_filesystems: true,
            notes: vec![],
        };
        assert_eq!(least, expected);
        let all = parse(
            r#","pluginName":"ScriptRunner","preScriptParams":["a","b c"],"postScriptParams":[],
            "preScriptNoOfRetries":2,"postScriptNoOfRetries":3,"timeoutInSeconds":1800,
            "continueBackupOnFailure":false,"fsFreezeEnabled":false,"ScriptsExecutionPollTimeSeconds":5"#,
        )
        .unwrap();
        assert_eq!(all.pre.params, ["a", "b c"]);
        assert_eq!((all.pre.retries, all.post.retries), (2, 3));
        assert_eq!(all.timeout, Duration::from_secs(1800));
        assert!(!all.freezes_filesystems);
    }

    #[test]
    fn what_is_of_another_type_is_named() {
        let wrong = [
            r#""timeoutInSeconds":0"#,
            r#""timeoutInSeconds":"30""#,
            r#""postScriptNoOfRetries":"1""#,
            r#""preScriptParams":"a""#,
            r#""postScriptParams":[[]]"#,
            r#""preScriptParams":["a\u0000b"]"#,
            r#""continueBackupOnFailure":"false""#,
            r#""fsFreezeEnabled":0"#,
        ];
        for key in wrong {
            let name = key.split('"').nth(1).unwrap();
            let why = parse(&format!(",{key}")).unwrap_err().to_string();
            assert!(why.contains(name), "{key}: {why}");
        }
        let why = Plugin::parse(br#"{"preScriptLocation":"/a"}"#)
            .0
            .unwrap_err();
        assert_eq!(why.to_string(), "postScriptLocation is missing; add it");
        for text in ["", "[]", "{", "null", "\u{feff}{}"] {
            let (plugin, continues) = Plugin::parse(text.as_bytes());
            assert!(plugin.is_err() && continues, "{text}");
        }
    }

    #[test]
    fn what_azure_s_reader_takes_is_taken() {
        let all = parse(
            r#","appName":"x","pluginName":1,"preScriptParams":[1,true,"a"],"preScriptNoOfRetries":-1,
            "timeoutInSeconds":1800.5,"ScriptsExecutionPollTimeSeconds":"9","preScriptlocation":"/b""#,
        )
        .unwrap();
        assert_eq!(all.pre.params, ["1", "True", "a"]);
        assert_eq!(all.pre.location, Path::new("/a/pre"));
        assert_eq!(
            (all.pre.retries, all.timeout),
            (0, Duration::from_secs(1800))
        );
        assert_eq!(all.notes.len(), 2, "{:?}", all.notes);
        assert_eq!(
            parse(r#","timeoutInSeconds":2.5"#).unwrap().timeout,
            Duration::from_millis(2500)
        );
    }

    #[test]
    fn what_a_failure_does_is_known_although_something_else_is_wrong() {
        let text = br#"{"continueBackupOnFailure":false,"timeoutInSeconds":0}"#;
        let (plugin, continues) = Plugin::parse(text);
        assert!(plugin.is_err() && !continues);
    }

    #[test]
    fn ends_have_their_names() {
        let name = |status| error_name(Phase::Thaw, &status);
        let not_run = |status| HookStatus::NotRun {
            status,
            reason: String::new(),
        };
        assert_eq!(name(HookStatus::Exited(0)), None);
        assert_eq!(
            name(HookStatus::Exited(1)),
            Some("Post-ScriptExecutionFailed")
        );
        assert_eq!(name(HookStatus::TimedOut), Some("Post-ScriptTimeout"));
        assert_eq!(name(not_run(124)), Some("Post-ScriptTimeout"));
        assert_eq!(name(not_run(127)), Some("Post-ScriptNotFound"));
        let forbidden = Some("InsufficientPermissionforPost-Script");
        assert_eq!(name(not_run(126)), forbidden);
    }
}
