//! What is measured, and where it runs: a store in this process, a server in a process of its own,
//! one that runs already, the bare service, Redis.
//!
//! Whatever is started here ends with its place, and the directories made for it are removed.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use super::{
    redis, wire,
    writer::{Writer, failed},
};
use crate::cli::failure::{Exit, Failure};
use crate::{
    client::{AppenderOptions, Client},
    engine::{IfAbsent, Options, RunKey, Store},
    platform::{
        os::{self, OsVfs},
        process::{ProcessUse, process_use},
    },
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The store as a library.
    Embedded,
    /// Over gRPC: append sessions, tails.
    Session,
    /// Over gRPC: a call for each append.
    Unary,
    /// The bare service, as for [`Kind::Session`].
    WireSession,
    /// The bare service, as for [`Kind::Unary`].
    WireUnary,
    /// Redis Streams.
    Redis,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Session => "gRPC session",
            Self::Unary => "gRPC unary",
            Self::WireSession => "wire, session",
            Self::WireUnary => "wire, unary",
            Self::Redis => "Redis",
        }
    }

    /// What shows how fast it could be at most.
    pub(super) fn ceiling(self) -> Option<Self> {
        match self {
            Self::Session => Some(Self::WireSession),
            Self::Unary => Some(Self::WireUnary),
            _ => None,
        }
    }
}

/// Where places are made.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// Directory on the disk to be measured.
    pub(super) dir: PathBuf,
    /// Address of a server that runs already, and its process, if known.
    pub(super) connect: Option<(String, Option<u32>)>,
    /// Address of Redis.
    pub(super) redis: Option<String>,
    pub(super) record_bytes: usize,
}

/// A directory that is removed in the end.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// Makes a fresh one in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(format!("braidlog-bench-{:016x}", os::platform("").random_u64()));
        OsVfs::create_root(&path).map_err(|error| Failure::io("--data-dir", &error))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays behind, in a directory whose name says what it is.
        let _ = os::remove_tree(&self.0);
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, Clone)]
enum Target {
    Wire(std::net::SocketAddr),
    Server(String),
    Redis(String),
}

/// Where something is measured.
pub(super) struct Place {
    target: Option<Target>,
    pub(super) store: Option<Store>,
    /// The process that serves, if it is not this one and may be looked at.
    server: Option<u32>,
    process: Option<Process>,
    folder: Option<Arc<Folder>>,
    /// Part of all names here.
    tag: String,
}

impl Place {
    /// Makes one, empty.
    pub(super) async fn start(kind: Kind, ground: &Ground) -> Result<Self, Failure> {
        let folder = match kind {
            Kind::Embedded => Some(Arc::new(Folder::new(&ground.dir)?)),
            Kind::Session | Kind::Unary if ground.connect.is_none() => {
                Some(Arc::new(Folder::new(&ground.dir)?))
            }
            _ => None,
        };
        Self::start_in(kind, ground, folder, &[]).await
    }

    /// Makes one on what a directory holds. The settings are for a server that is started.
    pub(super) async fn start_in(
        kind: Kind,
        ground: &Ground,
        folder: Option<Arc<Folder>>,
        settings: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let mut place = Self {
            target: None,
            store: None,
            server: None,
            process: None,
            folder,
            tag: format!("bench-{:08x}", os::platform("").random_u64() as u32),
        };
        match kind {
            Kind::Embedded => place.store = Some(open(place.data_dir())?),
            Kind::Session | Kind::Unary => place.serve(ground, settings)?,
            Kind::WireSession | Kind::WireUnary => place.serve_wire(ground)?,
            Kind::Redis => place.find_redis(ground).await?,
        }
        Ok(place)
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.as_ref().map(|folder| folder.0.join("data")).unwrap_or_default()
    }

    fn serve(&mut self, ground: &Ground, settings: &[(&str, &str)]) -> Result<(), Failure> {
        if let Some((url, server)) = &ground.connect {
            (self.target, self.server) = (Some(Target::Server(url.clone())), *server);
            return Ok(());
        }
        let mut command = braidlog()?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--data-dir"]);
        command.arg(self.data_dir()).envs(settings.iter().copied());
        let address = self.spawn(command)?;
        self.target = Some(Target::Server(format!("http://{address}")));
        Ok(())
    }

    fn serve_wire(&mut self, ground: &Ground) -> Result<(), Failure> {
        let mut command = braidlog()?;
        let bytes = ground.record_bytes.to_string();
        command.args(["bench", "--serve-wire", "--record-bytes", &bytes]);
        let address = self.spawn(command)?;
        let unknown = || Failure::io("the bare service", &io::ErrorKind::InvalidData.into());
        self.target = Some(Target::Wire(address.parse().map_err(|_| unknown())?));
        Ok(())
    }

    async fn find_redis(&mut self, ground: &Ground) -> Result<(), Failure> {
        let address = ground.redis.clone().unwrap_or_default();
        let mut connection = redis::Connection::open(&address).await?;
        connection.check_durable().await?;
        // One that runs elsewhere cannot be looked at, and another process has its number here.
        let is_here = address.starts_with("127.") || address.starts_with("localhost:");
        self.server = if is_here { connection.process().await? } else { None };
        self.target = Some(Target::Redis(address));
        Ok(())
    }

    /// Starts a server and waits until it says where it listens.
    fn spawn(&mut self, mut command: Command) -> Result<String, Failure> {
        let failed = |error: &io::Error| Failure::io("starting a server", error);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        (self.server, self.process) = (Some(child.id()), Some(Process(child)));
        loop {
            let mut line = String::new();
            if said.read_line(&mut line).map_err(|error| failed(&error))? == 0 {
                return Err(failed(&io::Error::other("it ended before it listened")));
            }
            if let Some(rest) = line.strip_prefix("listening on ") {
                let address = rest.split([',', '\n']).next().unwrap_or_default().to_owned();
                // Whatever it says from here on is for the user.
                let pass_on = move || drop(io::copy(&mut said, &mut io::stderr()));
                os::spawn("bench-server", pass_on).map_err(|error| failed(&error))?;
                return Ok(address);
            }
            let _ = io::Write::write_all(&mut io::stderr(), line.as_bytes());
        }
    }

    /// What the process that serves has used, if it is not this one and may be looked at.
    pub(super) fn server_use(&self) -> Option<ProcessUse> {
        process_use(self.server?).ok()
    }

    /// Name of a run, or of a stream of Redis, that nobody else uses.
    pub(super) fn name(&self, n: usize) -> String {
        format!("{}-{n}", self.tag)
    }

    /// Clients, each with a connection of its own.
    pub(super) fn clients(&self, connections: usize) -> Result<Vec<Client>, Failure> {
        let Some(Target::Server(url)) = &self.target else { return Ok(Vec::new()) };
        (0..connections).map(|_| Client::new(url).map_err(|error| failed(&error))).collect()
    }

    pub(super) fn wires(&self, connections: usize) -> Result<Vec<wire::Wire>, Failure> {
        let Some(Target::Wire(address)) = self.target else { return Ok(Vec::new()) };
        (0..connections).map(|_| wire::connect(address)).collect()
    }

    pub(super) async fn redis(&self) -> Result<redis::Connection, Failure> {
        let Some(Target::Redis(address)) = &self.target else {
            return Err(Failure::usage("--compare names no Redis"));
        };
        redis::Connection::open(address).await
    }

    /// Writers, each of a run of its own, over so many connections.
    pub(super) async fn writers(
        &self,
        kind: Kind,
        count: usize,
        connections: usize,
        window: usize,
    ) -> Result<Vec<Writer>, Failure> {
        let (clients, wires) = (self.clients(connections)?, self.wires(connections)?);
        let mut writers = Vec::with_capacity(count);
        for n in 0..count {
            let (name, waiting) = (self.name(n), VecDeque::new());
            let run = RunKey::new(name.as_str());
            writers.push(match kind {
                Kind::Embedded => {
                    let store = self.store.clone().expect("it was opened here");
                    Writer::Embedded { store, run, waiting }
                }
                Kind::Session => {
                    let mut options = AppenderOptions::new("out");
                    options.absent = IfAbsent::Create;
                    options.in_flight_max = window;
                    let appender = clients[n % clients.len()].appender(&run, options);
                    let appender = appender.map_err(|error| failed(&error))?;
                    Writer::Session { appender, waiting: VecDeque::new() }
                }
                Kind::Unary => Writer::Unary { client: clients[n % clients.len()].clone(), run },
                Kind::WireSession => {
                    Writer::WireSession(wire::Session::open(&wires[n % wires.len()], &name).await?)
                }
                Kind::WireUnary => {
                    Writer::WireUnary { wire: wires[n % wires.len()].clone(), run: name }
                }
                Kind::Redis => {
                    let connection = self.redis().await?;
                    Writer::Redis { connection, key: name, waiting: VecDeque::new() }
                }
            });
        }
        Ok(writers)
    }

    /// Kills the server as a crash would. What it had acknowledged is in its directory.
    pub(super) fn kill(mut self) -> Option<Arc<Folder>> {
        self.process = None;
        self.folder.take()
    }

    /// Ends it; `names` of the streams of Redis are given up.
    pub(super) async fn end(mut self, names: usize) -> Result<(), Failure> {
        if let Some(store) = self.store.take() {
            store.close().await.map_err(|error| failed(&error))?;
        }
        if matches!(self.target, Some(Target::Redis(_))) {
            let mut connection = self.redis().await?;
            for n in 0..names {
                connection.put(&[b"UNLINK", self.name(n).as_bytes()]);
            }
            connection.send().await?;
            for _ in 0..names {
                connection.skip().await?;
            }
        }
        Ok(())
    }
}

/// Opens a store with the defaults of a server.
pub(super) fn open(data_dir: PathBuf) -> Result<Store, Failure> {
    Store::open(Options::new(data_dir)).map_err(|error| Failure {
        exit: Exit::Failure,
        reason: "OPEN",
        message: format!("cannot open the store: {error}"),
    })
}

/// This program.
fn braidlog() -> Result<Command, Failure> {
    let program = std::env::current_exe();
    Ok(Command::new(program.map_err(|error| Failure::io("finding this program", &error))?))
}
