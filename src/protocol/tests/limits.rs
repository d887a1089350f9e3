//! The limits of a message and how the stream goes on behind them.

use std::iter;

use super::*;

/// In the first line.
fn parse_error(column: usize, problem: &str) -> String {
    generic(&format!("1:{column}: JSON parse error, {problem}"))
}

fn generic(desc: &str) -> String {
    format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{desc}\"}}}}\n")
}

fn not_an_object() -> String {
    generic("QMP input must be a JSON object")
}

const TOKEN_LIMIT: usize = 64 << 20;

#[test]
fn nesting() {
    assert_eq!(ask(&[[b'['; 1024], [b']'; 1024]].concat()), not_an_object());
    let over = generic("JSON nesting depth limit exceeded");
    for excess in [1, 6] {
        let depth = 1024 + excess;
        let input = [b"[".repeat(depth), b"]".repeat(depth), b"],".to_vec()].concat();
        let rest = parse_error(2 * depth + 1, "expecting value")
            + &parse_error(2 * depth + 2, "expecting value");
        assert_eq!(
            ask(&input),
            over.clone() + &rest,
            "discarded to the end of the message"
        );
    }
    assert_eq!(ask(&b"{\"a\":["[..].repeat(512)), "");
    let mixed = [b"{\"a\":[".repeat(512), b"[".to_vec()].concat();
    assert_eq!(ask(&mixed), over);
    let objects = [
        b"{\"a\":".repeat(1025),
        b"1".to_vec(),
        b"}".repeat(1025),
        b"2 ".to_vec(),
    ];
    assert_eq!(ask(&objects.concat()), over + &not_an_object());
}

#[test]
fn token_count() {
    let list = |elements: usize, last: &str| {
        let mut list = b"[".to_vec();
        list.extend(iter::repeat_n(*b"1,", elements).flatten());
        list.extend_from_slice(last.as_bytes());
        list
    };
    let over = generic("JSON token count limit exceeded");
    let half = 1 << 20;
    assert_eq!(
        ask(&list(half - 2, "[]]")),
        not_an_object(),
        "exactly at the limit"
    );
    assert_eq!(ask(&list(half - 1, "1]")), over);
    assert_eq!(
        ask(&list(half - 1, "1,")),
        over,
        "at once, not at the end of the message"
    );
    // Discarded to the bracket that closes the list.
    let input = list(half - 1, "1,1],'a'");
    let comma = input.len() - 3;
    let tail = parse_error(comma, "expecting value") + &not_an_object();
    assert_eq!(ask(&input), over + &tail);
}

fn string(length: usize) -> Vec<u8> {
    [&b"\""[..], &vec![b'a'; length - 2], b"\""].concat()
}

#[test]
fn token_size_of_one_token() {
    let over = generic("JSON token size limit exceeded");
    assert_eq!(ask(&string(TOKEN_LIMIT - 1)), not_an_object());
    let tail = parse_error(TOKEN_LIMIT + 1, "expecting value") + &not_an_object();
    let text = [string(TOKEN_LIMIT), b",1 ".to_vec()].concat();
    assert_eq!(ask(&text), format!("{over}{tail}"));
    // Given up in its middle, one byte beyond the limit; what is left is read as new tokens, the first of them as if it
    // started where the large one did.
    let text = [string(TOKEN_LIMIT + 10), b"]".to_vec()].concat();
    assert_eq!(
        ask(&text),
        format!("{over}{}", parse_error(1, "invalid keyword 'aaaaaaaa'"))
    );
}

#[test]
fn token_size_of_a_message() {
    let over = generic("JSON token size limit exceeded");
    let list = |a, b| {
        [
            b"[".to_vec(),
            string(a),
            b",".to_vec(),
            string(b),
            b"]".to_vec(),
        ]
        .concat()
    };
    let half = TOKEN_LIMIT / 2;
    assert_eq!(ask(&list(half, half - 4)), not_an_object());
    assert_eq!(
        ask(&list(half, half - 3)),
        over,
        "the bracket is the byte too many"
    );
    assert_eq!(
        ask(&list(half, half - 2)),
        over,
        "the string is, and the bracket ends it"
    );
}

#[test]
fn a_stray_token_is_quoted_up_to_a_limit() {
    let text = [&b"\""[..], &[b'b'; 2000], b"\x01"].concat();
    let quoted = "b".repeat(1023 - "stray '\"".len());
    assert_eq!(ask(&text), parse_error(1, &format!("stray '\\\"{quoted}")));
}

#[test]
fn deep_nesting_needs_little_stack() {
    let deep = |open: &str, close: &str, depth: usize| {
        let id = [open.repeat(depth), "1".to_owned(), close.repeat(depth)].concat();
        format!("{{\"execute\": \"guest-ping\", \"id\": {id}}}")
    };
    for request in [deep("[", "]", 1023), deep("{\"a\": ", "}", 1023)] {
        let echo = request.replacen("\"execute\": \"guest-ping\"", "\"return\": {}", 1) + "\n";
        let answers = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || ask(request.as_bytes()))
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(answers, echo);
    }
}

/// Unoptimized frames are several times larger.
const STACK: usize = if cfg!(debug_assertions) {
    768 << 10
} else {
    128 << 10
};

/// A large object, sent, checked, echoed and refused: quadratic behaviour would take hours.
#[test]
fn very_many_members() {
    let members: Vec<_> = (0..200_000).map(|n| format!("'k{n}':{n}")).collect();
    let request = format!(
        "{{'execute':'guest-ping','arguments':{{{}}}}}",
        members.join(",")
    );
    let answer = ask(request.as_bytes());
    assert_eq!(answer, generic("Parameter 'k199999' is unexpected"));
    let request = format!("{{'execute':'guest-ping','id':{{{}}}}}", members.join(","));
    let answer: serde_json::Value = serde_json::from_str(&ask(request.as_bytes())).unwrap();
    assert_eq!(answer["id"].as_object().unwrap().len(), 200_000);
    let request = format!("{{{}}}", members.join(","));
    assert!(ask(request.as_bytes()).contains("' is unexpected"));
}
