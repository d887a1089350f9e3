//! What the master started on freeze, so that the master of the thaw, another process, undoes just
//! that: `qga.hooks` in the agent's state directory, one JSON object a line, written before each
//! start.
//!
//! Without it (the directory cannot be written, or nobody froze) a thaw calls every hook.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::trust;
use crate::sys::strerror;

/// The file's name.
const FILE: &str = "qga.hooks";
/// Where it is if the master is called by hand: the agent's own default.
pub const DEFAULT_DIR: &str = "/run";

/// What hooks are told about the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Run {
    /// The run's id, as in the report.
    pub id: String,
    /// The mountpoints, as the variable has them.
    pub mountpoints: String,
    /// Their devices, as the variable has them.
    pub devices: String,
    /// Seconds after which the agent thaws; 0: never.
    pub hold_limit: f64,
}

/// One line: one of these.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Started>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled: Option<Started>,
}

/// A step that was started, and is to be undone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Its source.
    pub source: String,
    /// Its name.
    pub name: String,
    /// Where its keeper is reached, if it is a holding hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub door: Option<PathBuf>,
}

/// The memory of one freeze.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    file: Option<File>,
}

/// What a thaw finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    /// The freeze's own facts.
    pub run: Run,
    /// What is to be undone, in the order of starting.
    pub started: Vec<Started>,
}

impl Memory {
    /// The memory in the state directory `dir`; nothing is read or written yet.
    pub fn in_dir(dir: &Path) -> Memory {
        Memory {
            path: dir.join(FILE),
            file: None,
        }
    }

    /// Begins anew, for a freeze.
    ///
    /// # Errors
    /// One line: nothing will be remembered, so the thaw will call every hook.
    pub fn begin(&mut self, run: &Run) -> Result<(), String> {
        self.forget()?;
        let opened = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path);
        self.file = Some(opened.map_err(|error| self.trouble(&error))?);
        self.add(&Line {
            run: Some(run.clone()),
            ..Line::default()
        })
    }

    /// Notes a step that is about to be started; without [`Memory::begin`] nothing happens.
    ///
    /// # Errors
    /// One line, as there.
    pub fn start(&mut self, step: Started) -> Result<(), String> {
        self.add(&Line {
            started: Some(step),
            ..Line::default()
        })
    }

    /// Notes that a step which was started is not to be undone: it failed, and its contract wants it
    /// so.
    ///
    /// # Errors
    /// As [`Memory::start`].
    pub fn settle(&mut self, step: Started) -> Result<(), String> {
        self.add(&Line {
            settled: Some(step),
            ..Line::default()
        })
    }

    fn add(&mut self, line: &Line) -> Result<(), String> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let write = |file: &mut File| -> io::Result<()> {
            let mut line = serde_json::to_vec(line)?;
            line.push(b'\n');
            file.write_all(&line)
        };
        write(file).map_err(|error| {
            // Half a memory would leave hooks without their thaw.
            self.file = None;
            fs::remove_file(&self.path).ok();
            self.trouble(&error)
        })
    }

    fn trouble(&self, error: &io::Error) -> String {
        format!(
            "cannot write {}: {}; the thaw will call every hook, and holding hooks cannot be used",
            self.path.display(),
            strerror(error)
        )
    }

    /// Whether a holding hook could be found again.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// What the last freeze left; None if there was none, or its thaw has been.
    pub fn recall(&self) -> Option<Remembered> {
        // It says which process is spoken to and what is undone: root's word alone counts.
        trust::check(&self.path).ok()?;
        let text = fs::read(&self.path).ok()?;
        let mut remembered = Remembered::default();
        let lines = text.split(|&byte| byte == b'\n');
        for line in lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()) {
            remembered.run = line.run.unwrap_or(remembered.run);
            remembered.started.extend(line.started);
            if let Some(settled) = line.settled {
                let is_it = |s: &Started| s.source == settled.source && s.name == settled.name;
                remembered.started.retain(|step| !is_it(step));
            }
        }
        Some(remembered)
    }

    /// Forgets the freeze; that there was none is fine.
    ///
    /// # Errors
    /// One line: the next thaw may believe in an old freeze.
    pub fn forget(&self) -> Result<(), String> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
                "cannot remove {}: {}; remove it by hand",
                self.path.display(),
                strerror(&error)
            )),
            _ => Ok(()),
        }
    }

    /// Where the keeper of the run's holding hook number `number` is to be reached.
    pub fn door(&self, number: usize) -> PathBuf {
        self.path.with_extension(format!("hooks.{number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_started_is_recalled_and_what_was_settled_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::in_dir(dir.path());
        assert_eq!(memory.recall(), None);
        let run = Run {
            id: "7".into(),
            ..Run::default()
        };
        memory.begin(&run).unwrap();
        let step = |name: &str, door: Option<&str>| Started {
            source: "vmware".into(),
            name: name.into(),
            door: door.map(PathBuf::from),
        };
        memory.start(step("a", None)).unwrap();
        memory.start(step("b", Some("/d"))).unwrap();
        memory.settle(step("a", None)).unwrap();
        let recalled = Memory::in_dir(dir.path()).recall().unwrap();
        assert_eq!(recalled.run, run);
        let names: Vec<_> = recalled.started.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["b"]);
        memory.begin(&Run::default()).unwrap();
        assert_eq!(memory.recall(), Some(Remembered::default()));
        memory.forget().unwrap();
        memory.forget().unwrap();
        assert_eq!(memory.recall(), None);
    }

    #[test]
    fn a_torn_line_and_strange_ones_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::in_dir(dir.path());
        let text = "{\"unheard\":1}\n{\"started\":{\"source\":\"\",\"name\":\"a\",\"door\":null}}\n{\"star";
        fs::write(&memory.path, text).unwrap();
        assert_eq!(memory.recall().unwrap().started.len(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let mut memory = Memory::in_dir(Path::new("/nonexistent"));
        let told = memory.begin(&Run::default()).unwrap_err();
        assert!(
            told.starts_with("cannot write /nonexistent/qga.hooks: "),
            "{told}"
        );
        assert!(!memory.is_kept());
        memory.start(Started::default()).unwrap();
    }
}
