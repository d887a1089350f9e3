use super::*;
use crate::hooks::adapter::Adapter;
use crate::hooks::settings::HookSettings;
use crate::hooks::settings::OnFailure;
use crate::hooks::task::CommandLine;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

static ADAPTERS: [Adapter; 1] = [Adapter {
    name: "made-up",
    ..Adapter::DEFAULT
}];

fn opened(dir: &Path, phase: Phase) -> (Journal, JournalContent) {
    let mut memory = Journal::in_dir(dir);
    let known = memory.open(phase, &|| true).unwrap();
    (memory, known)
}

fn step(name: &str) -> StartedTask {
    StartedTask::named("vmware", name)
}

fn names(steps: &[StartedTask]) -> Vec<&str> {
    steps.iter().map(|step| step.name.as_str()).collect()
}

#[test]
fn what_was_started_is_known_until_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut memory, known) = opened(dir.path(), Phase::Freeze);
    assert_eq!(known.warning, None);
    let run = RunInfo {
        id: "7".into(),
        ..RunInfo::default()
    };
    memory.begin(&run).unwrap();
    for name in ["a", "b", "c"] {
        memory.start(step(name)).unwrap();
    }
    memory.mark_done(&step("a")).unwrap();
    assert!(
        Journal::in_dir(dir.path())
            .open(Phase::Thaw, &|| true)
            .is_err(),
        "locked"
    );
    assert_eq!(owed(dir.path()), [], "somebody is at work");
    drop(memory);
    assert_eq!(names(&owed(dir.path())), ["b", "c"]);

    let (mut memory, known) = opened(dir.path(), Phase::Thaw);
    assert_eq!((&known.run, known.is_whole), (&run, true));
    assert_eq!(names(&known.started), ["b", "c"]);
    memory.mark_owed(&step("b"), "gone").unwrap();
    memory.mark_done(&step("c")).unwrap();
    assert_eq!(owed(dir.path())[0].why, "gone");
    memory.close().unwrap();
    drop(memory);

    // The next freeze keeps it, and so does one after a damage.
    for damage in ["", "{\"sta"] {
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + damage).unwrap();
        let (mut memory, known) = opened(dir.path(), Phase::Freeze);
        assert_eq!(known.is_whole, damage.is_empty());
        memory.begin(&RunInfo::default()).unwrap();
        memory.start(step("d")).unwrap();
        drop(memory);
        let (mut memory, known) = opened(dir.path(), Phase::Thaw);
        assert_eq!((known.run, known.is_whole), (RunInfo::default(), true));
        assert_eq!(names(&known.started), ["b", "d"]);
        memory.mark_done(&step("d")).unwrap();
    }
    assert_eq!(dismiss(dir.path(), Some("d")).unwrap(), [""; 0]);
    assert_eq!(dismiss(dir.path(), None).unwrap(), ["b"]);
    assert!(!dir.path().join(FILE).exists());
}

#[test]
fn a_step_comes_back_as_it_was() {
    let call = |words: &[&[u8]]| CommandLine {
        program: OsString::from_vec(words[0].to_vec()).into(),
        args: words[1..]
            .iter()
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect(),
        timeout: None,
        retries: 3,
    };
    let mut was = HookTask::new("/h".into(), HookSettings::default());
    was.set_adapter(&ADAPTERS[0]);
    was.policy.on_failure = OnFailure::Abort;
    was.policy.user = Some("db".into());
    was.thaw = Some(call(&[b"/a \xff\\040", b"", b"\n\xc3\xa9"]));
    was.undo = Some(call(&[b"/u"]));
    was.budget = Some(Duration::from_millis(2500));
    let started = StartedTask::of(&was, None);
    let now = StartedTask::from_value(&started.to_value()).step(&mut Vec::new(), &ADAPTERS);
    assert_eq!(now.adapter.map(|known| known.name), Some("made-up"));
    assert_eq!(
        (&now.source[..], &now.thaw, &now.undo),
        ("made-up", &was.thaw, &was.undo)
    );
    was.policy.timeout = None;
    was.policy.retries = 3;
    assert_eq!((now.policy, now.budget), (was.policy, was.budget));
    assert_eq!(now.started, Some(started));
}

#[test]
fn an_adapter_that_this_version_does_not_have_keeps_its_name() {
    let task = step("/h").step(&mut Vec::new(), &ADAPTERS);
    assert_eq!((&task.source[..], task.adapter.is_none()), ("vmware", true));
}

#[test]
fn an_older_version_s_hook_is_called_as_it_is_found_or_by_its_name() {
    let old = StartedTask::named("", "/h");
    let program = |step: HookTask| step.thaw.unwrap().program;
    assert_eq!(
        program(old.clone().step(&mut Vec::new(), &ADAPTERS)),
        Path::new("/h")
    );
    let mut found = HookTask::new("/h".into(), HookSettings::default());
    found.policy.user = Some("db".into());
    found.thaw = Some(CommandLine {
        program: "/there".into(),
        args: Vec::new(),
        timeout: None,
        retries: 0,
    });
    let step = old.step(&mut vec![found], &ADAPTERS);
    assert_eq!(step.policy.user.as_deref(), Some("db"));
    assert_eq!(program(step), Path::new("/there"));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let (mut memory, known) = opened(Path::new("/nonexistent"), Phase::Freeze);
    assert_eq!((known.is_whole, known.warning), (false, None));
    let told = memory.begin(&RunInfo::default()).unwrap_err().to_string();
    assert!(
        told.starts_with("cannot write /nonexistent/qga.hooks: "),
        "{told}"
    );
    assert!(!memory.is_kept());
    memory.start(StartedTask::default()).unwrap();
}
