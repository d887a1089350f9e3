//! Where an adapter must be named beside its own file. A list that is made from `ADAPTERS` is not here: the groups of
//! the settings, the reference of the configuration, `hook list` and the report.

use std::fs;
use std::path::Path;

use qemu_ga::adapters::ADAPTERS;

const MIGRATING: &str = "hooks/MIGRATING.md";

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_default()
}

/// The system's name in the table of MIGRATING.md, whose link begins with the adapter's name.
fn title(migrating: &str, name: &str) -> Option<String> {
    let rows = migrating.lines().filter_map(|row| row.strip_prefix("| ["));
    let mut rows = rows.filter_map(|row| row.split_once("](#"));
    let row = rows.find(|(_, link)| link.starts_with(name))?;
    Some(row.0.to_owned())
}

/// What is missing for one adapter: the file, and what to add.
fn missing_of(name: &str, migrating: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut expect = |is_there: bool, file: &str, what: String| {
        if !is_there {
            missing.push(format!("{file}: add {what}"));
        }
    };
    let lines = |file: &str, line: String| read(file).lines().any(|known| known == line);
    let settings = "xtask/pages/settings.md";
    let section = format!("## {name}");
    expect(
        lines(settings, section.clone()),
        settings,
        format!("a section \"{section}\" with the keys of its group"),
    );
    let page = "xtask/pages/fsfreeze-hook.md";
    let group = format!("`[{name}]`");
    expect(
        read(page).contains(&group),
        page,
        format!("{group} to the groups of other systems"),
    );
    let tests = format!("tests/hooks/adapters/{name}.rs");
    expect(
        read(&tests).contains("#[test]"),
        &tests,
        "the tests of its contract".to_owned(),
    );
    expect(
        lines("tests/hooks/adapters/mod.rs", format!("mod {name};")),
        "tests/hooks/adapters/mod.rs",
        format!("mod {name};"),
    );
    let places = "tests/hooks/adapters/places.rs";
    expect(
        read(places).contains(name),
        places,
        format!("whether {name} is found without configuration"),
    );
    let title = title(migrating, name);
    expect(
        title.is_some(),
        MIGRATING,
        format!("a row of the table: | [SYSTEM](#{name}) | …"),
    );
    let Some(title) = title else {
        return missing;
    };
    expect(
        lines(MIGRATING, format!("## {title}")),
        MIGRATING,
        format!("a section \"## {title}\" with the steps for an operator"),
    );
    for file in ["README.md", "MIGRATING.md", "hooks/README.md"] {
        let text = read(file);
        // A page that lists other systems lists all.
        let others = ["VMware", "Azure", "Nutanix"];
        let is_list = others.iter().all(|other| text.contains(other));
        expect(
            !is_list || text.contains(&title),
            file,
            format!("{title} to the list of other systems"),
        );
    }
    missing
}

#[test]
fn an_adapter_is_in_every_list() {
    let migrating = read(MIGRATING);
    let mut missing: Vec<String> = ADAPTERS
        .iter()
        .flat_map(|adapter| missing_of(adapter.name, &migrating))
        .collect();
    let order = migrating
        .split_once("Within a stage the order is ")
        .and_then(|(_, rest)| rest.split_once(", then"));
    let order = order.map_or("", |(order, _)| order).to_lowercase();
    let names: Vec<&str> = ADAPTERS.iter().map(|adapter| adapter.name).collect();
    if order.split(", ").ne(names.iter().copied()) {
        missing.push(format!(
            "{MIGRATING}: the order within a stage is {}",
            names.join(", ")
        ));
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/adapters");
    for entry in fs::read_dir(dir).expect("src/adapters") {
        let path = entry.expect("entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(&path).expect("source");
        if text.contains("const ADAPTER: Adapter") && !names.contains(&&*name) {
            missing.push(format!(
                "src/adapters/mod.rs: add mod {name}; and {name}::ADAPTER"
            ));
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}
