//! The machine whose power is cut: disk, loop device, file system, and the store's processes.
//!
//! Every command has a time limit, and whatever was mounted or attached is taken down when it is
//! dropped, also by a panic.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    disk::{Disk, Kept, Random},
    fuse::{FILE, Mounted},
    ledger::Ledger,
};

/// How long a command, or an answer of the store, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long all of it may take, for each cut.
const LIMIT_EACH: Duration = Duration::from_secs(40);
/// Cuts after which a new disk is made.
const CUTS_OF_A_DISK: u64 = 10;
/// Cuts after which a store that does not sync must have lost something.
const CONTROL_CUTS: u64 = 5;

/// A file system that can be made.
#[derive(Debug, Clone, Copy)]
struct FileSystem {
    name: &'static str,
    make: &'static [&'static str],
    options: &'static str,
    disk_bytes: usize,
}

const EXT4: FileSystem = FileSystem {
    name: "ext4",
    make: &["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    options: "noatime",
    disk_bytes: 128 << 20,
};
const XFS: FileSystem = FileSystem {
    name: "xfs",
    make: &["mkfs.xfs", "-q", "-f", "-K"],
    options: "noatime,nouuid",
    disk_bytes: 320 << 20,
};

/// Runs a command to its end; what it wrote to standard output.
fn command(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &PATIENCE.as_secs().to_string()]).args(args);
    let ended = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match ended.status.success() {
        true => Ok(String::from_utf8_lossy(&ended.stdout).into_owned()),
        false => Err(format!("{args:?}: {}", String::from_utf8_lossy(&ended.stderr).trim())),
    }
}

fn is_there(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&paths).chain(["/sbin".into(), "/usr/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).exists())
}

/// The machine while its power is on.
struct Machine {
    fuse_at: PathBuf,
    data_at: PathBuf,
    loop_device: Option<String>,
    is_mounted: bool,
    fuse: Option<Mounted>,
}

impl Machine {
    fn start(
        folder: &Path,
        disk: &Arc<Mutex<Disk>>,
        system: FileSystem,
        is_new: bool,
    ) -> Result<Self, String> {
        let (fuse_at, data_at) = (folder.join("disk"), folder.join("data"));
        for folder in [&fuse_at, &data_at] {
            fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        let fuse =
            Mounted::new(disk.clone(), &fuse_at).map_err(|error| format!("FUSE: {error}"))?;
        let mut machine =
            Self { fuse_at, data_at, loop_device: None, is_mounted: false, fuse: Some(fuse) };
        let file = machine.fuse_at.join(FILE);
        let device = command(&["losetup", "--find", "--show", path(&file)])?;
        let device = device.trim().to_owned();
        machine.loop_device = Some(device.clone());
        if is_new {
            let mut make = system.make.to_vec();
            make.push(&device);
            command(&make)?;
        }
        command(&[
            "mount",
            "-t",
            system.name,
            "-o",
            system.options,
            &device,
            path(&machine.data_at),
        ])?;
        machine.is_mounted = true;
        Ok(machine)
    }

    fn store_at(&self) -> String {
        path(&self.data_at.join("store")).to_owned()
    }

    /// Takes everything down; nothing may be left when the power comes back.
    fn stop(&mut self) {
        if std::mem::take(&mut self.is_mounted)
            && command(&["umount", path(&self.data_at)]).is_err()
        {
            let _ = command(&["umount", "-l", path(&self.data_at)]);
        }
        if let Some(device) = self.loop_device.take() {
            let _ = command(&["losetup", "--detach", &device]);
            // It is detached when nobody has it open any more.
            wait_until(|| command(&["losetup", &device]).map_or(true, |said| !said.contains(FILE)));
        }
        if let Some(fuse) = self.fuse.take() {
            if command(&["umount", path(&self.fuse_at)]).is_err() {
                let _ = command(&["umount", "-l", path(&self.fuse_at)]);
            }
            wait_until(|| fuse.is_over());
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() && started.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

/// A process with the store open.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(mode: &str, store: &str, bug: Option<&str>) -> Self {
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args([mode, store]).env_remove("BRAIDLOG_SABOTAGE");
        bug.map(|bug| command.env("BRAIDLOG_SABOTAGE", bug));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let (said, lines) = mpsc::channel();
        // Ends with the process.
        thread::spawn(move || read_lines(stdout, &said));
        Self { child, lines }
    }

    fn line(&self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let started = Instant::now();
        // A process that waits for a dead disk ends when the disk is told to be dead.
        while started.elapsed() < PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_lines(stdout: impl Read, said: &mpsc::Sender<String>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if said.send(line).is_err() {
            return;
        }
    }
}

/// A disk, and what callers know of what is on it.
struct History {
    folder: tempfile::TempDir,
    disk: Arc<Mutex<Disk>>,
    system: FileSystem,
    ledger: Ledger,
    is_new: bool,
    bug: Option<&'static str>,
}

/// What a cut came to.
struct Cut {
    acked: u64,
    lost: u64,
    sectors_lost: u64,
}

impl History {
    fn new(system: FileSystem, bug: Option<&'static str>) -> Self {
        let disk = Arc::new(Mutex::new(Disk::new(system.disk_bytes)));
        let folder = tempfile::tempdir().expect("folder");
        Self { folder, disk, system, ledger: Ledger::default(), is_new: true, bug }
    }

    /// Lets the store work, cuts the power, and looks what is left.
    fn cut(&mut self, random: &mut Random) -> Result<Cut, String> {
        let mut machine = Machine::start(self.folder.path(), &self.disk, self.system, self.is_new)?;
        self.is_new = false;
        let before = self.ledger.records();
        let mut process = Process::start("store", &machine.store_at(), self.bug);
        match process.line().as_deref() {
            Some("open") => {}
            other => return Err(format!("the store does not open: {other:?}")),
        }
        for _ in 0..random.below(1_500) {
            match process.line() {
                Some(line) if self.ledger.take(&line) => {}
                other => return Err(format!("the store stops on a sound disk: {other:?}")),
            }
        }
        let kept = Kept::random(random);
        let operations = random.below(60);
        let lot = Random(random.next());
        self.disk.lock().expect("not poisoned").cut_after(operations, kept, lot);
        let started = Instant::now();
        while !self.disk.lock().expect("not poisoned").is_off() {
            if PATIENCE < started.elapsed() {
                return Err("the store does not write any more".into());
            }
            // The store's answers must not fill the pipe.
            for line in process.lines.try_iter() {
                self.ledger.take(&line);
            }
            thread::sleep(Duration::from_millis(1));
        }
        process.kill();
        // What it had said by then was true.
        while let Ok(line) = process.lines.recv_timeout(Duration::from_secs(5)) {
            self.ledger.take(&line);
        }
        drop(process);
        machine.stop();
        drop(machine);
        let sectors_lost = {
            let mut disk = self.disk.lock().expect("not poisoned");
            disk.power_on();
            std::mem::take(&mut disk.sectors_lost)
        };
        let machine = Machine::start(self.folder.path(), &self.disk, self.system, false)?;
        let found = found_at(&machine.store_at());
        drop(machine);
        let verdict = self.ledger.check(&found.map_err(|problem| format!("{kept:?}: {problem}"))?);
        let acked = self.ledger.records() - before;
        Ok(Cut { acked, lost: verdict.lost, sectors_lost })
    }
}

/// How many records each run has.
fn found_at(store: &str) -> Result<BTreeMap<String, u64>, String> {
    let process = Process::start("check", store, None);
    let mut found = BTreeMap::new();
    loop {
        let line = process.line().ok_or("it does not end")?;
        if line == "all" {
            return Ok(found);
        }
        let run = line.strip_prefix("found ").and_then(|rest| rest.split_once(' '));
        let (run, count) = run.ok_or_else(|| line.clone())?;
        found.insert(run.to_owned(), count.parse().map_err(|_| line.clone())?);
    }
}

/// Says that it does not run.
fn leave_out(what: &str, why: &str) {
    println!("**** NOT RUN: {what}: {why} ****");
}

/// Gives up with this process if it takes too long: the kernel then ends the disk's connection.
fn watch(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        let _ = writeln!(std::io::stderr(), "not done after {limit:?}");
        std::process::exit(1);
    });
}

/// Cuts the power so often on each file system, and once more without syncs.
pub(crate) fn run(cuts: u64, seed: u64) -> ExitCode {
    let is_root = rustix::process::geteuid().is_root();
    let missing = [
        (!is_root, "needs root"),
        (!Path::new("/dev/fuse").exists(), "there is no /dev/fuse"),
        (!Path::new("/dev/loop-control").exists(), "there are no loop devices"),
        (!is_there("losetup") || !is_there("mount"), "there is no losetup or mount"),
    ];
    if let Some((_, why)) = missing.into_iter().find(|(is_missing, _)| *is_missing) {
        leave_out("power cuts", why);
        println!("test result: ok. 0 passed; 0 failed; 1 ignored;");
        return ExitCode::SUCCESS;
    }
    let (systems, missing): (Vec<_>, Vec<_>) =
        [EXT4, XFS].into_iter().partition(|system| is_there(system.make[0]));
    for system in &missing {
        leave_out(system.name, &format!("there is no {}", system.make[0]));
    }
    watch(LIMIT_EACH * (cuts + 2 * CONTROL_CUTS) as u32);
    let started = Instant::now();
    let (mut passed, mut failed) = (0, 0);
    for (system, at) in systems.iter().zip(0..) {
        // What one has more than the others is the first's.
        let share = cuts / systems.len() as u64;
        let cuts = if at == 0 { cuts - share * (systems.len() as u64 - 1) } else { share };
        match sweep(*system, cuts, seed) {
            Ok(()) => passed += cuts,
            Err(problem) => {
                failed += 1;
                println!("{}: {problem}", system.name);
                println!(
                    "repeat with: cargo test --all-features --test powercut -- --cuts {cuts} --seed {seed}"
                );
            }
        }
        match control(*system, seed) {
            Ok(()) => passed += 1,
            Err(problem) => {
                failed += 1;
                println!("{}, without syncs: {problem}", system.name);
            }
        }
    }
    println!("power cuts: {} s", started.elapsed().as_secs());
    let ignored = missing.len();
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; {ignored} ignored;");
    ExitCode::from(u8::from(0 < failed))
}

fn sweep(system: FileSystem, cuts: u64, seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let (mut acked, mut sectors_lost) = (0, 0);
    let mut history = History::new(system, None);
    for cut in 0..cuts {
        if cut % CUTS_OF_A_DISK == 0 {
            history = History::new(system, None);
        }
        let Cut { acked: more, lost, sectors_lost: sectors } =
            history.cut(&mut random).map_err(|problem| format!("cut {cut}: {problem}"))?;
        (acked, sectors_lost) = (acked + more, sectors_lost + sectors);
        if lost != 0 {
            return Err(format!("cut {cut}: {lost} acknowledged records are lost"));
        }
    }
    println!(
        "level power cut, {}: cuts: {cuts}, records acknowledged: {acked}, lost: 0, sectors the \
         cuts took: {sectors_lost}, seed: {seed}",
        system.name
    );
    Ok(())
}

/// The same with a store that does not sync its journal.
fn control(system: FileSystem, seed: u64) -> Result<(), String> {
    let mut random = Random(seed ^ 1);
    for cut in 1..=CONTROL_CUTS {
        let mut history = History::new(system, Some("NoJournalSync"));
        // That it does not even open is a loss, too.
        let what = match history.cut(&mut random) {
            Ok(Cut { lost: 0, .. }) => continue,
            Ok(Cut { lost, .. }) => format!("{lost} acknowledged records lost"),
            Err(problem) => problem,
        };
        println!("level power cut, {}, journal not synced: {what} at cut {cut}", system.name);
        return Ok(());
    }
    Err(format!("nothing was lost in {CONTROL_CUTS} cuts: the disk is too kind"))
}
