//! docs/json.md as data, and JSON of the tools held against it. The unit tests of `src/tools/` and `tests/documents/` use
//! this: the former with every member set, the latter with what the tools really print.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../docs/json.md");

/// A row of a table.
struct Member {
    name: String,
    is_optional: bool,
    types: Vec<String>,
}

/// The tables by their headings, and which members were seen.
pub struct Page {
    tables: BTreeMap<String, Vec<Member>>,
    seen: BTreeSet<(String, String)>,
}

impl Page {
    pub fn read() -> Self {
        let mut tables: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        let mut heading = "";
        for line in PAGE.lines() {
            if let Some(title) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
                heading = title.strip_prefix("Object ").unwrap_or(title);
            }
            let Some(row) = line.strip_prefix("| `") else {
                continue;
            };
            let cells: Vec<&str> = row.split(" | ").collect();
            let (name, mark) = cells[0].split_once('`').unwrap_or((cells[0], ""));
            let member = Member {
                name: name.to_owned(),
                is_optional: mark == "?",
                types: cells[1].split(" or ").map(str::to_owned).collect(),
            };
            tables.entry(heading.to_owned()).or_default().push(member);
        }
        Self {
            tables,
            seen: BTreeSet::new(),
        }
    }

    /// What is wrong with the object that a tool prints, by the table with this heading.
    pub fn check(&mut self, heading: &str, object: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        let Some(members) = object.as_object() else {
            return vec![format!("{heading}: no object: {object}")];
        };
        let mut members = members.clone();
        if members.remove("version") != Some(1.into()) {
            faults.push(format!("{heading}: no version"));
        }
        self.check_object(heading, &members, &mut faults);
        faults
    }

    fn check_object(
        &mut self,
        heading: &str,
        object: &Map<String, Value>,
        faults: &mut Vec<String>,
    ) {
        let Some(table) = self.tables.get(heading) else {
            return faults.push(format!("no table: {heading}"));
        };
        let missing = table
            .iter()
            .filter(|member| !member.is_optional && !object.contains_key(&member.name));
        faults.extend(missing.map(|member| format!("{heading}: no member {}", member.name)));
        let mut known = Vec::new();
        for (name, value) in object {
            match table.iter().find(|member| member.name == *name) {
                Some(member) => known.push((name, value, member.types.clone())),
                None => faults.push(format!("{heading}: {name} is not in the page")),
            }
        }
        for (name, value, types) in known {
            self.seen.insert((heading.to_owned(), name.clone()));
            let results = types.iter().map(|kind| self.check_value(kind, value));
            let results: Vec<Vec<String>> = results.collect();
            if let Some(fewest) = results.into_iter().min_by_key(Vec::len) {
                let about = |fault| format!("{heading}.{name}: {fault}");
                faults.extend(fewest.into_iter().map(about));
            }
        }
    }

    fn check_value(&mut self, kind: &str, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(of) = kind.strip_prefix("list of ") {
            match value.as_array() {
                Some(values) => values
                    .iter()
                    .for_each(|value| faults.extend(self.check_value(of, value))),
                None => faults.push(format!("no list: {value}")),
            }
            return faults;
        }
        let is_fine = match kind.split_once(": ") {
            Some(("word", words)) => words.split(", ").any(|word| *value == *word),
            _ => match kind {
                "text" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "seconds" => value.is_number(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "time" => value.as_str().is_some_and(is_time),
                _ => {
                    let heading = kind.strip_prefix("object ").unwrap_or(kind);
                    match value.as_object() {
                        Some(object) => self.check_object(heading, object, &mut faults),
                        None => faults.push(format!("no object {heading}: {value}")),
                    }
                    true
                }
            },
        };
        if !is_fine {
            faults.push(format!("not {kind}: {value}"));
        }
        faults
    }

    /// Members of the page that were never checked.
    #[allow(dead_code)] // only the unit tests see every member
    pub fn unseen(&self) -> Vec<String> {
        let all = self.tables.iter().flat_map(|(heading, members)| {
            members
                .iter()
                .map(move |member| (heading.clone(), member.name.clone()))
        });
        let unseen = all.filter(|key| !self.seen.contains(key));
        unseen
            .map(|(heading, name)| format!("{heading}: {name}"))
            .collect()
    }
}

/// `2026-11-29T08:45:00Z`, with a fraction or without.
fn is_time(text: &str) -> bool {
    let digits = text.replace(|c: char| c.is_ascii_digit(), "0");
    matches!(
        digits.as_str(),
        "0000-00-00T00:00:00Z" | "0000-00-00T00:00:00.000Z"
    )
}
