//! Requests and replies as they go over the wire.

/// `{"execute":NAME}`.
pub fn cmd(name: &str) -> String {
    format!(r#"{{"execute":"{name}"}}"#)
}

/// guest-fsfreeze-freeze-list of these mountpoints.
pub fn freeze_list(mountpoints: &[&str]) -> String {
    format!(
        r#"{{"execute":"guest-fsfreeze-freeze-list","arguments":{{"mountpoints":{mountpoints:?}}}}}"#
    )
}

/// A reply that holds `value`.
pub fn returned(value: impl std::fmt::Display) -> String {
    format!(r#"{{"return": {value}}}"#)
}

/// An error reply of the class GenericError; `text` is written as in JSON.
pub fn failed(text: &str) -> String {
    format!(r#"{{"error": {{"class": "GenericError", "desc": "{text}"}}}}"#)
}

/// The refusal of a command that is blocked, or does not work while frozen.
pub fn disabled(name: &str) -> String {
    format!(
        r#"{{"error": {{"class": "CommandNotFound", "desc": "Command {name} has been disabled: the command is not allowed"}}}}"#
    )
}
