//! Memory: whatever the files say, no command takes more than its budget, and none panics.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Command, Output},
};

use braidlog::platform::sim::SimRng;

use super::{
    damage::damages,
    scene::{Scene, spoiled},
};

/// Memory that a command may have, code and stacks left out.
const BUDGET_KIB: usize = 128 << 10;
/// Bytes of a file that is all promise: nearly all of it is a hole.
const HUGE_BYTES: u64 = 2 << 30;
/// Every command that looks into a directory.
const COMMANDS: [&[&str]; 21] = [
    &["info"],
    &["runs", "--deleted"],
    &["runs", "show", "run-1"],
    &["streams", "run-1"],
    &["records", "run-1"],
    &["segments"],
    &["journal"],
    &["grep", "."],
    &["verify", "--jobs", "2"],
    &["verify", "--deep"],
    &["explain", "FILE@4096"],
    &["explain", "FILE@8300"],
    &["inbox", "run-1", "--why"],
    &["history", "run-1"],
    &["stats", "--by", "tag"],
    &["index", "check"],
    &["simulate-open"],
    &["diff", "SOUND", "DIR"],
    &["export"],
    &["recover", "--to", "NEW"],
    &["watch", "--count", "1"],
];

fn write(scene: &Scene, dir: &Path) {
    for (path, bytes) in &scene.files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

/// Runs a command on a directory of which `file` was damaged.
fn run(dir: &Path, sound: &Path, file: &str, command: &[&str]) -> Output {
    let new = tempfile::tempdir().expect("folder");
    let fill = |arg: &&str| {
        arg.replace("FILE", file)
            .replace("DIR", &dir.display().to_string())
            .replace("SOUND", &sound.display().to_string())
            .replace("NEW", &new.path().join("new").display().to_string())
    };
    // The limit is the system's: memory that can be written to and is the process's own, see
    // getrlimit(2). More than that is refused, and the command aborts.
    Command::new("sh")
        .args(["-c", "ulimit -d $0 && exec \"$@\"", &BUDGET_KIB.to_string()])
        .arg(env!("CARGO_BIN_EXE_braidlog-inspect"))
        .arg("--data-dir")
        .arg(dir)
        .args(command.iter().map(fill))
        .output()
        .expect("runs")
}

fn demand_an_answer(dir: &Path, sound: &Path, file: &str, what: &str) -> BTreeSet<i32> {
    let mut statuses = BTreeSet::new();
    for command in COMMANDS {
        let Output { status, stderr, .. } = run(dir, sound, file, command);
        let said = String::from_utf8_lossy(&stderr);
        let code = status.code();
        assert!(
            matches!(code, Some(0 | 1 | 3 | 4 | 10 | 11 | 12)) && !said.contains("panicked"),
            "{command:?}, {file} {what}: {status}, {said}"
        );
        statuses.extend(code);
    }
    statuses
}

#[test]
fn no_command_takes_more_memory_than_its_budget_whatever_the_files_say() {
    let scene = Scene::killed();
    let (folder, sound) = (tempfile::tempdir(), tempfile::tempdir());
    let (folder, sound) = (folder.expect("folder"), sound.expect("folder"));
    write(&scene, sound.path());
    write(&scene, folder.path());
    let found = demand_an_answer(folder.path(), sound.path(), "journal/slot-00", "as it was");
    assert_eq!(found, [0, 12].into(), "all is well, and there is no index");

    let files: Vec<_> = scene.files.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    let mut statuses = BTreeSet::new();
    let put = |file: &str, bytes: &[u8]| fs::write(folder.path().join(file), bytes).expect("put");
    for (file, bytes) in &files {
        let open = File::options().write(true).open(folder.path().join(file)).expect("opens");
        open.set_len(HUGE_BYTES).expect("grown");
        drop(open);
        statuses.extend(demand_an_answer(folder.path(), sound.path(), file, "huge"));
        put(file, bytes);
    }
    let mut rng = SimRng::new(7);
    let mut file_of = || rng.below(files.len() as u64) as usize;
    let picks: Vec<_> = (0..damages() / 2_000).map(|_| (file_of(), file_of())).collect();
    let rounds = picks.len();
    let mut rng = SimRng::new(8);
    for (one, other) in picks {
        let (file, bytes) = files[one];
        let (damaged, at) = spoiled(&mut rng, bytes, files[other].1);
        put(file, &damaged);
        let what = format!("damaged at {at}");
        statuses.extend(demand_an_answer(folder.path(), sound.path(), file, &what));
        put(file, bytes);
    }
    assert!(statuses.contains(&10), "nothing was found to be damaged: {statuses:?}");
    println!(
        "{} huge and {rounds} damaged files, {} commands each, within {BUDGET_KIB} KiB",
        files.len(),
        COMMANDS.len()
    );
}

#[test]
fn every_command_is_held_to_its_budget() {
    let tool = || Command::new(env!("CARGO_BIN_EXE_braidlog-inspect"));
    let help = tool().arg("--help").output().expect("runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed: BTreeSet<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty())
        })
        .collect();
    let tried: BTreeSet<&str> = COMMANDS.iter().map(|command| command[0]).collect();
    // These read no directory.
    let left_out: BTreeSet<&str> = ["completions", "man", "help", "import"].into();
    assert_eq!(listed, tried.union(&left_out).copied().collect());
}
