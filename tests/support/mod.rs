//! Runs the real binary: servers that can be killed and started again, and commands against them.
//!
//! Whatever a test starts is killed when the test ends, also by a panic, and every wait has an end.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that takes a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where servers listen that end, or are killed, while clients try to reach them: on an address of
/// which no other test can take the port meanwhile, where the system has such addresses.
pub(crate) const APART: &str =
    if cfg!(target_os = "linux") { "127.0.0.2:0" } else { "127.0.0.1:0" };

/// The binary, with nothing of the environment that could change what it does.
pub(crate) fn braidlog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_braidlog"));
    for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command
}

fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("BRAIDLOG_")
}

/// Processes that may be running.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Kills every process that any test of this binary has started.
fn kill_all() {
    for pid in RUNNING.lock().expect("not poisoned").drain(..) {
        // It may have ended in this moment.
        let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
    }
}

/// Gives up with the test binary if a test takes longer than its limit.
pub(crate) struct Watchdog {
    _over: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches until it is dropped. Time runs out when `progress` has told the same for `limit`,
    /// or a little longer: how long everything takes is up to the machine.
    pub(crate) fn start(limit: Duration, progress: impl Fn() -> String + Send + 'static) -> Self {
        let (_over, watched) = mpsc::channel::<()>();
        thread::spawn(move || {
            let mut before = String::new();
            while watched.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = progress();
                if now == before {
                    // Not `eprintln!`, which the test harness would keep to itself.
                    let _ = writeln!(io::stderr(), "nothing done for {limit:?}: {now}");
                    kill_all();
                    std::process::exit(1);
                }
                before = now;
            }
        });
        Self { _over }
    }
}

/// Kills all processes if its thread panics, so that no other thread waits for them.
pub(crate) struct KillOnPanic;

impl Drop for KillOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            kill_all();
        }
    }
}

/// A process that does not outlive its test.
pub(crate) struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output, unless that was taken.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Ended {
    /// Standard output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("UTF-8")
    }

    /// Demands status 0 and nothing on standard error.
    #[track_caller]
    pub(crate) fn clean(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.lossy());
        self
    }

    fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Process {
    /// Starts a command with pipes on all sides.
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        RUNNING.lock().expect("not poisoned").push(child.id());
        let stderr = Arc::new(Mutex::new(String::new()));
        let (pipe, text) = (child.stderr.take().expect("piped"), stderr.clone());
        // Ends with the process.
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let mut text = text.lock().expect("not poisoned");
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
            }
        });
        Self { child, stderr }
    }

    /// Standard input; dropping it ends the input.
    pub(crate) fn stdin(&mut self) -> impl Write + Send + use<> {
        self.child.stdin.take().expect("taken once")
    }

    /// Standard output.
    pub(crate) fn stdout(&mut self) -> BufReader<impl Read + Send + use<>> {
        BufReader::new(self.child.stdout.take().expect("taken once"))
    }

    /// What it has written to standard error.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("not poisoned").clone()
    }

    /// Waits until standard error holds this text.
    pub(crate) fn wait_for_stderr(&mut self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let said = self.stderr();
            if said.contains(text) {
                return said;
            }
            let running = self.child.try_wait().expect("status").is_none();
            // What was written before the end may still be in the pipe.
            let patience = if running { PATIENCE } else { Duration::from_secs(1) };
            assert!(started.elapsed() < patience, "no {text:?} in {said:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success(), "kill -s {name} {pid}");
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.forget();
    }

    /// It has ended: its number may soon be another's.
    fn forget(&self) {
        RUNNING.lock().expect("not poisoned").retain(|pid| *pid != self.child.id());
    }

    /// Whether it is still at work.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("status").is_none()
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("status") {
                self.forget();
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "does not end; said {:?}", self.stderr());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes standard input, takes the rest of standard output, and waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let mut stdout = self.child.stdout.take();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.as_mut().map(|pipe| pipe.read_to_end(&mut bytes).expect("pipe"));
            bytes
        });
        let status = self.wait();
        let stdout = reader.join().expect("reader");
        // The pipe of standard error is read to its end by a thread of its own.
        while Arc::strong_count(&self.stderr) != 1 {
            thread::sleep(Duration::from_millis(1));
        }
        Ended { code: status.code(), stdout, stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running server.
pub(crate) struct Server {
    process: Process,
    /// Address and port.
    pub(crate) address: String,
}

impl Server {
    /// Starts a server on any free port.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_at(data_dir, "127.0.0.1:0")
    }

    /// Starts a server on this address, and waits until it answers calls.
    pub(crate) fn start_at(data_dir: &Path, address: &str) -> Self {
        let mut command = braidlog();
        command.args(["serve", "--listen", address, "--data-dir"]).arg(data_dir);
        Self::from_command(&mut command)
    }

    /// Starts a server by a command of any kind, and waits until it answers calls.
    pub(crate) fn from_command(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let said = process.wait_for_stderr(", data in ");
        let ready = said.lines().find_map(|line| line.strip_prefix("listening on "));
        let address = ready.and_then(|rest| rest.split(',').next()).expect("an address").to_owned();
        Self { process, address }
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A command against this server.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = braidlog();
        command.args(args).env("BRAIDLOG_SERVER", self.url());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, b"")
    }

    /// Runs a command to its end, with this on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut process = self.spawn(args);
        let mut stdin = process.stdin();
        let input = input.to_owned();
        // A command that does not want all of its input closes the pipe.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let ended = process.end();
        writer.join().expect("writer");
        ended
    }

    /// Starts a command.
    pub(crate) fn spawn(&self, args: &[&str]) -> Process {
        Process::start(&mut self.command(args))
    }

    /// The process itself.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
