//! Properties of any input.

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::protocol::{base64, text};

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "'", "\\", "\\u", "D83D", "\\uDE00", "12", "-", ".",
            "0", "e", "E+", "true", "null", "nul", " ", "\n", "\t", "\0", "@", "\"execute\"", "id",
            "\"guest-ping\"", "{\"execute\":\"guest-ping\"}", "\"arguments\":{", "\u{FFFF}", "\u{E9}",
        ]).prop_map(|piece| piece.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 1..4),
        1 => Just(vec![0xFF]),
    ];
    vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // A double that prints like an integer comes back as one.
        any::<f64>()
            .prop_filter("fraction", |n| n.is_finite()
                && (n.abs() >= 1e17 || n.fract() != 0.0))
            .prop_map(Value::from),
        wire_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::from),
            vec((wire_text(), inner), 0..12)
                .prop_map(|members| members.into_iter().collect::<Dict>().into()),
        ]
    })
}

fn wire_text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(|chars| {
        chars
            .into_iter()
            .filter(|&c| !text::is_noncharacter(c))
            .collect()
    })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sample {
    some_text: String,
    flag: bool,
    number: i64,
    phys_index: u64,
    maybe: Option<i64>,
    list: Vec<Inner>,
    kind: SampleKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inner {
    inner: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SampleKind {
    OnlyOne,
    Other,
}

fn sample() -> impl Strategy<Value = Sample> {
    let kind = proptest::sample::select(vec![SampleKind::OnlyOne, SampleKind::Other]);
    let inner = proptest::option::of(wire_text()).prop_map(|inner| Inner { inner });
    let list = vec(inner, 0..5);
    let scalars = any::<(bool, i64, u64, Option<i64>)>();
    (wire_text(), scalars, list, kind).prop_map(
        |(some_text, (flag, number, phys_index, maybe), list, kind)| Sample {
            some_text,
            flag,
            number,
            phys_index,
            maybe,
            list,
            kind,
        },
    )
}

fn line(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    reply::write(&mut out, None, Ok(value), false);
    out
}

fn message(bytes: &[u8]) -> Option<Value> {
    match Framer::default().next_event(&mut &bytes[..]) {
        Some(Event::Message(value)) => Some(value),
        _ => None,
    }
}

fn events(input: &[u8], cuts: &[usize]) -> Vec<Event> {
    let mut framer = Framer::default();
    let mut events = Vec::new();
    let mut cuts: Vec<_> = cuts.iter().map(|&cut| cut % (input.len() + 1)).collect();
    cuts.extend([0, input.len()]);
    cuts.sort_unstable();
    for window in cuts.windows(2) {
        let mut piece = &input[window[0]..window[1]];
        while let Some(event) = framer.next_event(&mut piece) {
            events.push(event);
        }
        assert!(piece.is_empty());
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn the_pieces_do_not_matter(input in hostile(), cuts in vec(any::<usize>(), 0..20)) {
        let whole = events(&input, &[]);
        prop_assert_eq!(&events(&input, &cuts), &whole);
        let bytewise: Vec<_> = (0..input.len()).collect();
        prop_assert_eq!(&events(&input, &bytewise), &whole);
    }

    #[test]
    fn any_bytes_are_answered_in_ascii_json_lines(input in vec(any::<u8>(), 0..300)) {
        let answers = converse(&mut Framer::default(), &input, 7);
        prop_assert!(answers.is_ascii());
        for answer in answers.split_inclusive(|&byte| byte == b'\n') {
            let value: serde_json::Value = serde_json::from_slice(answer).unwrap();
            prop_assert!(value.get("return").is_some() || value.get("error").is_some());
            prop_assert_eq!(answer.last(), Some(&b'\n'));
        }
    }

    #[test]
    fn hostile_bytes_are_answered_in_ascii_json_lines(input in hostile()) {
        let answers = converse(&mut Framer::default(), &input, 7);
        prop_assert!(answers.is_ascii());
        for answer in answers.split_inclusive(|&byte| byte == b'\n') {
            serde_json::from_slice::<serde_json::Value>(answer).unwrap();
        }
    }

    #[test]
    fn after_the_sentinel_a_good_request_is_answered(input in hostile(), id in any::<i64>()) {
        let request = format!(
            "\n{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{id}}}}}"
        );
        let input = [&input[..], b"\xFF", request.as_bytes()].concat();
        let answers = converse(&mut Framer::default(), &input, 5);
        let expected = [b"\xFF", format!("{{\"return\": {id}}}\n").as_bytes()].concat();
        prop_assert!(answers.ends_with(&expected));
    }

    #[test]
    fn what_is_written_reads_back(value in json()) {
        let line = line(&value);
        prop_assert!(line.is_ascii());
        serde_json::from_slice::<serde_json::Value>(&line).unwrap();
        let Some(Value::Object(mut answer)) = message(&line) else { panic!("no object") };
        prop_assert_eq!(answer.remove("return"), Some(value));
    }

    #[test]
    fn structs_come_back_from_their_values(sample in sample()) {
        let Value::Object(members) = value::to_value(&sample) else { panic!("no object") };
        prop_assert_eq!(members.get("maybe").is_some(), sample.maybe.is_some());
        prop_assert_eq!(arguments::decode::<Sample>(members).unwrap(), sample);
    }

    #[test]
    fn system_text_is_always_sendable(bytes in vec(any::<u8>(), 0..40)) {
        let text = text::from_os_bytes(&bytes);
        prop_assert_eq!(message(&line(&Value::from(text.as_str()))).is_some(), true);
        prop_assert_eq!(text::from_os_bytes(&text::to_os_bytes(&text)), text);
    }

    #[test]
    fn base64_round_trip(bytes in vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(base64::decode(&base64::encode(&bytes)).unwrap(), bytes);
    }
}
