use serde::Deserialize;

use super::*;
use crate::protocol::framing::{Event, Framer};
use crate::protocol::value::Value;

fn dict(json: &str) -> Dict {
    match Framer::default().next_event(&mut json.as_bytes()) {
        Some(Event::Message(Value::Object(members))) => members,
        other => panic!("{json}: {other:?}"),
    }
}

fn refusal<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
    decode::<T>(dict(json)).unwrap_err().desc
}

fn wrong(path: &str, expected: &str) -> String {
    format!("Invalid parameter type for '{path}', expected: {expected}")
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GuestFileWhence {
    Set,
    Cur,
    End,
    Integer(i64),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GuestExecCaptureOutput {
    None,
    Merged,
    Boolean(bool),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Plain {
    OnlyOne,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Seek {
    handle: i64,
    offset: i64,
    whence: GuestFileWhence,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Exec {
    path: String,
    arg: Option<Vec<String>>,
    capture_output: Option<GuestExecCaptureOutput>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct SetVcpus {
    vcpus: Vec<Vcpu>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vcpu {
    logical_id: i64,
    online: bool,
    can_offline: Option<bool>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Block {
    phys_index: u64,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Typed {
    flag: Option<bool>,
    inner: Option<Block>,
    mode: Option<Plain>,
}

#[test]
fn seek() {
    let seek = |whence: &str| dict(&format!("{{'handle':1,'offset':-2,'whence':{whence}}}"));
    let whence = |text| decode::<Seek>(seek(text)).map(|seek| seek.whence);
    let refusal = |text| whence(text).unwrap_err().desc;
    assert_eq!(whence("2"), Ok(GuestFileWhence::Integer(2)));
    assert_eq!(whence("'end'"), Ok(GuestFileWhence::End));
    for (sent, name) in [("'SET'", "SET"), ("'integer'", "integer"), ("''", "")] {
        let expected = format!("Parameter 'whence' does not accept value '{name}'");
        assert_eq!(refusal(sent), expected);
    }
    assert_eq!(refusal("true"), wrong("whence", "GuestFileWhence"));
    assert_eq!(refusal("null"), wrong("whence", "GuestFileWhence"));
    assert_eq!(refusal("{}"), wrong("whence", "GuestFileWhence"));
    assert_eq!(refusal("1.5"), wrong("whence", "integer"));
    assert_eq!(refusal("18446744073709551615"), wrong("whence", "integer"));
    let missing = decode::<Seek>(dict("{'handle':1,'offset':2}")).unwrap_err();
    assert_eq!(missing, CommandError::missing_parameter("whence"));
}

#[test]
fn exec() {
    let exec = |more: &str| decode::<Exec>(dict(&format!("{{'path':'true'{more}}}")));
    let refusal = |more| exec(more).unwrap_err().desc;
    let bare = Exec {
        path: "true".into(),
        arg: None,
        capture_output: None,
    };
    assert_eq!(exec(""), Ok(bare));
    let capture = |more| exec(more).unwrap().capture_output.unwrap();
    assert_eq!(
        capture(",'capture-output':true"),
        GuestExecCaptureOutput::Boolean(true)
    );
    assert_eq!(
        capture(",'capture-output':'merged'"),
        GuestExecCaptureOutput::Merged
    );
    assert_eq!(
        refusal(",'capture-output':'both'"),
        "Parameter 'capture-output' does not accept value 'both'"
    );
    let expected = wrong("capture-output", "GuestExecCaptureOutput");
    assert_eq!(refusal(",'capture-output':1"), expected);
    assert_eq!(refusal(",'capture-output':1.5"), expected);
    assert_eq!(refusal(",'capture-output':null"), expected);
    assert_eq!(refusal(",'arg':'x'"), wrong("arg", "array"));
    assert_eq!(refusal(",'arg':null"), wrong("arg", "array"));
    assert_eq!(refusal(",'arg':['a',1]"), wrong("arg[1]", "string"));
    assert_eq!(refusal(",'bogus':1"), "Parameter 'bogus' is unexpected");
}

#[test]
fn nested_paths() {
    let refusal = |json: &str| refusal::<SetVcpus>(json);
    assert_eq!(
        refusal("{'vcpus':[{}]}"),
        "Parameter 'vcpus[0].logical-id' is missing"
    );
    assert_eq!(refusal("{'vcpus':[1]}"), wrong("vcpus[0]", "object"));
    let good = "{'logical-id':0,'online':true}";
    assert_eq!(
        refusal(&format!(
            "{{'vcpus':[{good},{{'logical-id':1,'online':1}}]}}"
        )),
        wrong("vcpus[1].online", "boolean")
    );
    assert_eq!(
        refusal("{'vcpus':[{'logical-id':0,'online':true,'x':1},2]}"),
        "Parameter 'vcpus[0].x' is unexpected"
    );
    let vcpu = Vcpu {
        logical_id: 0,
        online: true,
        can_offline: None,
    };
    let decoded = decode::<SetVcpus>(dict(&format!("{{'vcpus':[{good}]}}")));
    assert_eq!(decoded, Ok(SetVcpus { vcpus: vec![vcpu] }));
}

#[test]
fn declared_members_come_first_and_in_order() {
    assert_eq!(
        refusal::<Seek>("{'zzz':1,'whence':true}"),
        "Parameter 'handle' is missing"
    );
    assert_eq!(
        refusal::<Seek>("{'offset':'x','handle':'y'}"),
        wrong("handle", "integer")
    );
    assert_eq!(
        refusal::<Seek>("{'offset':'x','handle':1}"),
        wrong("offset", "integer")
    );
    assert_eq!(
        refusal::<Seek>("{'x':1,'handle':1,'y':1,'offset':1,'whence':1}"),
        "Parameter 'y' is unexpected"
    );
    assert_eq!(
        refusal::<NoArguments>("{'a':1}"),
        "Parameter 'a' is unexpected"
    );
    assert_eq!(decode::<NoArguments>(Dict::new()), Ok(NoArguments {}));
}

#[test]
fn unsigned_numbers_wrap() {
    let index = |text: &str| decode::<Block>(dict(&format!("{{'phys-index':{text}}}")));
    assert_eq!(
        index("18446744073709551615"),
        Ok(Block {
            phys_index: u64::MAX
        })
    );
    assert_eq!(
        index("-1"),
        Ok(Block {
            phys_index: u64::MAX
        })
    );
    for text in ["1.0", "'1'", "null", "18446744073709551616"] {
        assert_eq!(
            index(text).unwrap_err().desc,
            "Parameter 'phys-index' expects uint64"
        );
    }
}

#[test]
fn types() {
    let refusal = |json| refusal::<Typed>(json);
    assert_eq!(refusal("{'flag':null}"), wrong("flag", "boolean"));
    assert_eq!(refusal("{'inner':[]}"), wrong("inner", "object"));
    assert_eq!(
        refusal("{'inner':{}}"),
        "Parameter 'inner.phys-index' is missing"
    );
    assert_eq!(
        refusal("{'inner':{'phys-index':true}}"),
        "Parameter 'inner.phys-index' expects uint64"
    );
    assert_eq!(refusal("{'mode':1}"), wrong("mode", "string"));
    let typed = decode::<Typed>(dict("{'flag':true,'mode':'only-one'}")).unwrap();
    assert_eq!((typed.flag, typed.mode), (Some(true), Some(Plain::OnlyOne)));
}

#[test]
fn a_type_that_the_schema_does_not_have_is_an_error() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Narrow {
        number: i32,
    }
    assert_eq!(
        refusal::<Narrow>("{'number':1}"),
        "an argument of a type that the schema does not have"
    );
}
