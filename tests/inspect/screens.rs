//! What every command prints over the fixtures, held to the files of `tests/inspect/screens`; and the
//! examples of the README, which are run as they stand there.
//!
//! `BRAIDLOG_BLESS=1 cargo test --all-features --test inspect screens` writes the screens anew.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// Every command, by the name of its screen; `damaged` at the beginning asks of the damaged directory.
pub(crate) const COMMANDS: [(&str, &str); 44] = [
    ("info", "info"),
    ("info-json", "info --json"),
    ("runs", "runs"),
    ("runs-deleted-json", "runs ls --deleted --json"),
    ("runs-show", "runs show packed"),
    ("runs-show-json", "runs show closed --json"),
    ("streams", "streams both"),
    ("streams-json", "streams both --json"),
    ("records", "records both --where"),
    ("records-json", "records trimmed --json"),
    ("records-hex", "records late out --index 0..2 --format hex"),
    ("segments", "segments"),
    ("segments-show", "segments show 0 --blocks"),
    ("segments-of-json", "segments of both --parts --json"),
    ("journal", "journal"),
    ("journal-show", "journal show slot-06 --frames"),
    ("journal-json", "journal --json"),
    ("verify", "verify"),
    ("verify-deep-json", "verify --deep --json"),
    ("verify-damaged", "damaged verify"),
    ("verify-damaged-json", "damaged verify --json"),
    ("explain", "explain journal/slot-06@0x1040"),
    ("explain-damaged", "damaged explain journal/slot-06@0x308c"),
    ("explain-damaged-pack", "damaged explain packs/0000000000000000.pack@0x1000"),
    ("explain-json", "explain CURRENT --json"),
    ("inbox", "inbox both"),
    ("history", "history both"),
    ("grep", "grep late"),
    ("grep-json", "grep -F packed --json"),
    ("simulate-open", "simulate-open"),
    ("simulate-open-damaged", "damaged simulate-open"),
    ("export", "export --run closed"),
    ("stats", "stats"),
    ("stats-json", "stats --json"),
    ("stats-by-tag", "stats --by tag"),
    ("index-check", "index check"),
    ("diff", "diff braidlog-data damaged"),
    ("diff-json", "diff braidlog-data braidlog-data --json"),
    ("history-at-json", "history both --at 4 --json"),
    ("history-diff", "history both --at 2 --diff 9"),
    ("inbox-why", "inbox trimmed --why"),
    ("records-nobody", "records nobody"),
    ("explain-nowhere", "explain journal/slot-77@12 --json"),
    ("recover-damaged", "damaged recover --to recovered"),
];

/// A folder with the fixture, and with a damaged copy of it.
pub(crate) struct Folder(TempDir);

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("entry");
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => drop(fs::copy(&path, to.join(name)).expect("copied")),
        }
    }
}

fn flip(file: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(file).expect("file");
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).expect("written");
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
        for name in ["braidlog-data", "damaged"] {
            copy(&fixture, &folder.path().join(name));
        }
        let damaged = folder.path().join("damaged");
        flip(&damaged.join("journal/slot-06"), 0x308c, 2);
        flip(&damaged.join("packs/0000000000000000.pack"), 0x10c8, 2);
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What a command prints, on both outputs, and how it ends.
    pub(crate) fn screen(&self, command: &str) -> String {
        let (dir, command) = match command.strip_prefix("damaged ") {
            Some(command) => ("damaged", command),
            None => ("braidlog-data", command),
        };
        let ended = Command::new(env!("CARGO_BIN_EXE_braidlog-inspect"))
            .current_dir(self.path())
            .env_clear()
            .env("BRAIDLOG_DATA_DIR", format!("./{dir}"))
            .args(command.split(' '))
            .output()
            .expect("runs");
        let out = String::from_utf8(ended.stdout).expect("text");
        let err = String::from_utf8(ended.stderr).expect("text");
        let code = ended.status.code().expect("a status");
        without_times(&format!("{out}{err}(exit {code})\n"))
    }
}

/// How long something took is another thing every time.
fn without_times(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &mut lines {
        if let (Some(from), Some(to)) = (line.find(" files"), line.find(" s  ")) {
            let took = line[from..to].rfind(" in ").map(|at| from + at + 4);
            if let Some(took) = took {
                line.replace_range(took..to, "0.00");
            }
        }
        if let Some(from) = line.find("\"ms\":") {
            let end = line[from + 5..].find([',', '}']).map_or(line.len(), |end| from + 5 + end);
            line.replace_range(from + 5..end, "0");
        }
    }
    lines.join("\n") + "\n"
}

fn screens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inspect/screens")
}

#[test]
fn every_command_prints_what_it_printed() {
    let folder = Folder::new();
    let mut wrong = Vec::new();
    for (name, command) in COMMANDS {
        let file = screens().join(format!("{name}.txt"));
        let found = format!("$ braidlog-inspect {command}\n{}", folder.screen(command));
        if env::var_os("BRAIDLOG_BLESS").is_some() {
            fs::create_dir_all(screens()).expect("folder");
            fs::write(&file, &found).expect("written");
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{name}:\n{found}\nand not:\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_screen_is_of_a_command_that_is_gone() {
    for entry in fs::read_dir(screens()).expect("screens") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        let is_known = COMMANDS.iter().any(|(known, _)| format!("{known}.txt") == name);
        assert!(is_known, "{name} is the screen of nothing");
    }
}

/// The commands in the README's examples, with what stands behind them.
fn examples(readme: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut is_open = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            is_open = line == "```console";
            continue;
        }
        match line.strip_prefix("$ ").filter(|_| is_open) {
            Some(command) => found.push((command.to_owned(), String::new())),
            None if is_open => {
                let said = &mut found.last_mut().expect("a command first").1;
                said.push_str(line);
                said.push('\n');
            }
            None => {}
        }
    }
    found.retain(|(command, _)| command.starts_with("braidlog-inspect "));
    found
}

#[test]
fn the_examples_of_the_readme_are_what_the_tool_prints() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let examples = examples(&fs::read_to_string(readme).expect("README.md"));
    assert!(3 <= examples.len(), "the README has examples of the tool");
    let folder = Folder::new();
    for (command, said) in examples {
        let args = command.strip_prefix("braidlog-inspect ").expect("a command of the tool");
        let found = folder.screen(&match args.strip_prefix("--data-dir damaged ") {
            Some(args) => format!("damaged {args}"),
            None => args.to_owned(),
        });
        let found = found.rsplit_once("(exit ").map_or("", |(found, _)| found);
        assert_eq!(found, without_times(&said), "{command}");
    }
}
