//! The hooks that docs/clouds.md shows do what it says: each is run.

use std::fs;

use qemu_ga::hooks::ThawReason;

use crate::support::{Place, executable, script, text};

const GUIDE: &str = include_str!("../../docs/clouds.md");

/// The hooks of the guide, without their indentation.
fn examples() -> Vec<String> {
    let blocks = GUIDE.split("```sh\n").skip(1);
    let block = |block: &str| -> String {
        let block = block.split("```").next().expect("an end");
        block
            .lines()
            .map(|line| line.trim().to_owned() + "\n")
            .collect()
    };
    blocks.map(block).collect()
}

/// A place with one example, whose scripts write down what they are called with and then do `body`.
fn place(example: &str, body: &str) -> Place {
    let place = Place::new();
    let bin = place.path.join("bin");
    fs::create_dir(&bin).expect("dir");
    let calls = place.path.join("calls");
    for name in [
        "dlm-script",
        "veeam-pre-freeze",
        "veeam-post-thaw",
        "quiesce",
    ] {
        let text = format!("echo $(basename \"$0\") $* >>'{}'\n{body}", calls.display());
        script(&bin.join(name), &text);
    }
    let at = format!("'{}'/", bin.display());
    let example = example.replace("/usr/local/sbin/", &at);
    executable(&place.dir().join("50-it"), &example);
    place
}

fn calls(place: &Place) -> String {
    let bytes = fs::read(place.path.join("calls")).unwrap_or_default();
    text(&bytes).replace('\n', "; ")
}

#[test]
fn every_example_calls_what_it_names() {
    let expected = [
        "dlm-script pre-script; dlm-script post-script; ",
        "veeam-pre-freeze; veeam-post-thaw; ",
        "quiesce backup-start; quiesce backup-end; ",
    ];
    let examples = examples();
    assert_eq!(examples.len(), expected.len());
    for (example, expected) in examples.iter().zip(expected) {
        let place = place(example, "");
        let report = place.freeze();
        assert_eq!(report.failure, None, "{:?}", place.log());
        assert!(report.hooks[0].is_success(), "{:?}", place.log());
        assert_eq!(place.thaw(ThawReason::Ok).failure, None);
        assert_eq!(calls(&place), expected);
    }
}

#[test]
fn a_failure_does_what_the_guide_says() {
    let examples = examples();
    // AWS: three further tries, and the freeze goes on.
    let dlm = place(&examples[0], "exit 1");
    dlm.conf("[hook 50-it]\nretry-pause=0\n");
    let report = dlm.freeze();
    assert_eq!((report.failure, report.hooks[0].tries), (None, Some(4)));
    assert!(!report.hooks[0].is_success());
    // Veeam: the freeze fails, unless failures are ignored.
    let veeam = place(&examples[1], "exit 1");
    assert!(veeam.freeze().failure.is_some());
    veeam.thaw(ThawReason::Failed);
    veeam.conf("[hook 50-it]\non-failure=continue\n");
    assert_eq!(veeam.freeze().failure, None);
}
