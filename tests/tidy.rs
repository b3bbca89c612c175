//! Holds the source to its architecture: which module may name which, and what few may name.
//!
//! It reads `src/**/*.rs` as text, without comments, unit tests and generated code, and sees the
//! paths that are written there: `use crate::engine::Store`, not the type of a value.

use std::{fs, path::Path};

/// The modules, lowest first, and the modules that each may name.
const MODULES: [(&str, &str); 20] = [
    ("sabotage", ""),
    ("record", ""),
    ("proto", ""),
    ("platform", ""),
    ("format", "sabotage record proto"),
    ("core", "sabotage record proto format"),
    ("error", "record format core"),
    ("index", "record platform core"),
    ("journal", "sabotage record platform format error"),
    ("manifest", "sabotage record platform format error journal"),
    ("segment", "sabotage record platform format error"),
    ("recovery", "sabotage record platform format error core journal manifest segment"),
    ("offline", BELOW_ENGINE),
    ("engine", BELOW_ENGINE),
    ("grpc", "sabotage record proto format error core engine"),
    ("client", "sabotage record proto platform format error core engine grpc"),
    ("present", "record proto core engine"),
    ("config", "record format error core engine present"),
    ("cli", "record proto platform core error engine grpc client present config"),
    ("main", "cli"),
];
const BELOW_ENGINE: &str =
    "sabotage record proto platform format error core index journal manifest segment recovery";
/// The one file that may name a path whose module is not open to its own.
const FILE_NAMES: (&str, &str) = ("src/format/file_name.rs", "platform::RelPath");

/// Parts of paths, the only modules that may name them, and why.
const RESERVED: [(&str, &str, &str); 12] = [
    (
        "io::Write tokio tracing time::Instant time::SystemTime rand std::thread",
        "platform error journal manifest segment recovery offline engine grpc client config cli main",
        "a pure module has no I/O, clock, randomness, runtime or log",
    ),
    (
        "Instant::now SystemTime::now getrandom thread::spawn thread::Builder rustix memmap2",
        "platform",
        "the operating system begins at platform",
    ),
    (
        "parking_lot std::sync::atomic std::sync::mpsc",
        "sabotage platform offline grpc client cli",
        "what threads of a store share comes from platform::sync",
    ),
    ("sled", "index", "what is stored in sled is derived, and contained by its guard"),
    ("std::fs", "platform config cli", "files go through platform::Vfs"),
    ("async await", "engine grpc client config cli main", "nothing below engine is async"),
    (
        "tonic tonic_prost tonic_types tonic_health tonic_reflection",
        "grpc client cli main",
        "gRPC stays at the edge",
    ),
    ("prost", "proto format core grpc client", "few modules encode messages"),
    ("std::env tracing_subscriber", "config cli main", "the binary decides, not the library"),
    ("print! println! eprint! eprintln!", "cli main", "a library does not print"),
    ("todo! unimplemented! dbg!", "", "nothing is left half done"),
    ("super::super", "", "a path that leaves its module starts at the root"),
];

fn lists(words: &str, word: &str) -> bool {
    words.split(' ').any(|listed| listed == word)
}

/// Every source file but generated ones: its path from the package's root, and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut found) = (vec![root.join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            let file = path.strip_prefix(root).expect("below the root").display().to_string();
            if path.is_dir() && file != "src/gen" {
                folders.push(path);
            } else if file.ends_with(".rs") {
                found.push((file, fs::read_to_string(path).expect("text")));
            }
        }
    }
    found
}

/// `src/format/frame.rs` belongs to `format`.
fn module_of(file: &str) -> &str {
    file.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs")
}

/// The paths in the code of a file, each with its line. A word is a path; a group is all of its
/// members: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut groups, mut path) = (Vec::new(), Vec::new(), String::new());
    for (row, line) in text.lines().take_while(|line| !line.starts_with("mod tests")).enumerate() {
        let outside_strings = |at: &usize| line[..*at].matches('"').count() % 2 == 0;
        let comment = line.match_indices("//").map(|(at, _)| at).find(outside_strings);
        for c in line[..comment.unwrap_or(line.len())].chars().chain(['\n']) {
            if c.is_alphanumeric() || matches!(c, '_' | ':') || (c == '!' && !path.is_empty()) {
                path.push(c);
                continue;
            }
            let group = groups.last().map_or("", String::as_str);
            let (opens_group, whole) = (path.ends_with("::"), format!("{group}{path}"));
            if !path.is_empty() && !opens_group {
                found.push((row + 1, whole.clone()));
            }
            match c {
                '{' => groups.push(if opens_group { whole } else { String::new() }),
                '}' => drop(groups.pop()),
                _ => {}
            }
            path.clear();
        }
    }
    found
}

/// Whether the path has these segments, one after the other.
fn has(path: &str, part: &str) -> bool {
    format!("::{}::", path.trim_matches(':')).contains(&format!("::{part}::"))
}

fn demand_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_module_may_name_only_lower_ones_so_there_is_no_cycle() {
    for (row, (module, open)) in MODULES.iter().enumerate() {
        for named in open.split_whitespace() {
            let lower = MODULES[..row].iter().any(|(lower, _)| *lower == named);
            assert!(lower, "{module} may name {named}, which is not above it in the table");
        }
    }
}

#[test]
fn no_module_names_one_that_is_not_open_to_it() {
    let mut broken = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| file != "src/lib.rs") {
        let module = module_of(file);
        let Some((_, open)) = MODULES.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{file}:1: {module} is not in the table of modules"));
            continue;
        };
        let top = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")].contains(file);
        let roots = ["crate::", "braidlog::", if top { "super::" } else { "crate::" }];
        for (line, path) in paths(text) {
            let below_root = roots.iter().find_map(|root| path.strip_prefix(root));
            let Some(named) = below_root else { continue };
            let target = named.split("::").next().unwrap_or(named);
            if target != module && !lists(open, target) && (file.as_str(), named) != FILE_NAMES {
                broken.push(format!("{file}:{line}: `{path}`: {target} is not open to {module}"));
            }
        }
    }
    demand_none(&broken);
}

#[test]
fn nothing_is_named_where_it_has_no_place() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let closed = RESERVED.iter().filter(|(_, namers, _)| !lists(namers, module_of(&file)));
        for (line, path) in paths(&text) {
            for (parts, _, why) in closed.clone() {
                if parts.split(' ').any(|part| has(&path, part)) {
                    broken.push(format!("{file}:{line}: `{path}`: {why}"));
                }
            }
        }
    }
    demand_none(&broken);
}

#[test]
fn every_file_says_what_it_promises_and_is_named_for_its_purpose() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        if !text.starts_with("//!") {
            broken.push(format!("{file}:1: starts with `//!`: what it is, what it promises"));
        }
        if file.split(['/', '.']).any(|name| lists("util common types helpers", name)) {
            broken.push(format!("{file}:1: is named for a drawer, not for a purpose"));
        }
    }
    demand_none(&broken);
}

#[test]
fn paths_are_seen_in_groups_and_not_in_comments_or_unit_tests() {
    let text = "use a::{b, c::{d,\n  e}}; // f\nx(\"//\", g::h); k!();\nmod tests { l }";
    let seen: Vec<_> =
        paths(text).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(seen, ["1 use", "1 a::b", "1 a::c::d", "2 a::c::e", "3 x", "3 g::h", "3 k!"]);
    assert!(has("std::time::Instant::now", "Instant::now") && !has("tonic_types::pb", "tonic"));
}
