//! Messages to requests. Floor 0.
//!
//! Checks the members `execute`, `arguments` and `id`, in the order and with the texts of the original, and nothing of the
//! command itself. `agent::session` calls it for each message.

use super::error::CommandError;
use super::value::{Dict, Value};

/// Well-formed; its command may not exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub(crate) execute: String,
    /// Empty when none were sent.
    pub arguments: Dict,
    /// Returned in the reply; `Some(Null)` if the client sent `null`.
    pub id: Option<Value>,
}

impl Request {
    /// Fails with the first problem in [`Dict::wire_order`], and the id for the error reply.
    pub fn from_value(value: Value) -> Result<Self, (Option<Value>, CommandError)> {
        let Value::Object(mut members) = value else {
            return Err((None, CommandError::not_an_object()));
        };
        let problem = members
            .wire_order()
            .into_iter()
            .find_map(|(key, value)| check(key, value));
        let id = members.remove("id");
        if let Some(problem) = problem {
            return Err((id, problem));
        }
        let Some(Value::String(execute)) = members.remove("execute") else {
            return Err((id, CommandError::no_command()));
        };
        let arguments = match members.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            _ => Dict::new(),
        };
        Ok(Self {
            execute,
            arguments,
            id,
        })
    }
}

fn check(key: &str, value: &Value) -> Option<CommandError> {
    match (key, value) {
        ("execute", Value::String(_)) | ("arguments", Value::Object(_)) | ("id", _) => None,
        ("execute", _) => Some(CommandError::member_type(key, "a string")),
        ("arguments", _) => Some(CommandError::member_type(key, "an object")),
        _ => Some(CommandError::unexpected_member(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(members: &[(&'static str, Value)]) -> String {
        let value = Value::Object(members.iter().cloned().collect());
        Request::from_value(value).unwrap_err().1.desc
    }

    #[test]
    fn the_first_problem_in_wire_order_wins() {
        let execute = ("execute", Value::Int(1));
        let arguments = ("arguments", Value::Null);
        for members in [[execute.clone(), arguments.clone()], [arguments, execute]] {
            assert_eq!(
                problem(&members),
                "QMP input member 'execute' must be a string"
            );
        }
        let lacking = [("arguments", Value::Null), ("id", Value::Null)];
        assert_eq!(
            problem(&lacking),
            "QMP input member 'arguments' must be an object"
        );
    }

    #[test]
    fn the_id_survives_a_refusal() {
        let dict: Dict = [("id", Value::Null), ("x", Value::Null)]
            .into_iter()
            .collect();
        let (id, _) = Request::from_value(dict.into()).unwrap_err();
        assert_eq!(id, Some(Value::Null));
    }
}
