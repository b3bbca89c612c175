//! `braidlog bench`: how fast a store is here, beside what the device, the wire and a peer give.
//!
//! Every figure is taken in one run with those that it is compared with, in alternation: the device
//! probe right before each measurement, a bare service for what the wire allows, and Redis Streams
//! with the same durability if one is named. Medians and bounds of several runs are told, never a
//! single one. A store that is measured is fresh each time, on the disk that was named.
//!
//! What it deliberately does not do: check answers beyond what the client does. That is what tests
//! are for.

mod appends;
mod bodies;
mod catch_up;
mod figures;
mod mixed;
mod place;
mod population;
mod probe;
mod redis;
mod report;
mod stopwatch;
mod tails;
mod wire;
mod writer;

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::{io::AsyncReadExt, net::TcpListener};

use self::{
    bodies::Bodies,
    figures::{Sample, Tally, between},
    place::{Ground, Kind, Place},
    report::Row,
    stopwatch::Stopwatch,
};
use super::{failure::Failure, interrupt};
use crate::{
    grpc::echo,
    platform::process::{disk_written, process_use},
};

/// Measures a store, the device and the wire below it, and Redis beside it
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  braidlog bench
  braidlog bench --embedded --workload w1,w2 --data-dir /mnt/disk
  braidlog bench --connect http://127.0.0.1:4480 --workload w2,w3
  redis-server --appendonly yes --appendfsync always --dir /mnt/disk &
  braidlog bench --compare redis://127.0.0.1:6379

  w1  one writer, one append in flight
  w2  many writers, one append in flight each
  w3  batches of 100 and 1,000 records, pipelined
  w4  one long run read from its beginning, just written and cold
  w5  from an append to one tail, to many of runs of their own, to very many of one
  w6  w2 in stores that hold many runs already
  w7  restart after a kill, until the first read is answered
  w8  appends, tails and inputs of thousands of runs at the same time, in ten windows;
      before them the same appends to a bare service

OF WIRE is the share of what a bare service does with the same messages. CPU is
per record. WRITTEN is what the disk was given meanwhile, by whomever, also for
slots made ahead and copies into packs. Without --embedded or --connect, a server is started for each
measurement. Figures of different runs do not compare; ratios of one run do.")]
pub(super) struct BenchArgs {
    /// What to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "W,...")]
    workload: Vec<Workload>,
    /// Measure the store inside of this process, without gRPC
    #[arg(long, conflicts_with = "connect")]
    embedded: bool,
    /// Measure a server that runs already; it is given runs named `bench-...`
    #[arg(long, value_name = "URL")]
    connect: Option<String>,
    /// Process of the server that runs already, on this machine, to tell what it uses
    #[arg(long, value_name = "PID", requires = "connect")]
    server_pid: Option<u32>,
    /// Directory on the disk to be measured; what is made in it is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
    /// Measure Redis as well; it must run with `appendonly yes` and `appendfsync always`
    #[arg(long, value_name = "redis://HOST:PORT")]
    compare: Option<String>,
    /// How long each measurement takes
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// How often each is repeated
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Bytes of a record
    #[arg(long, value_name = "N", default_value_t = 128)]
    record_bytes: usize,
    /// How many write at the same time where many do
    #[arg(long, value_name = "N", default_value_t = 64)]
    writers: usize,
    /// Records of the run that is read
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Tails of runs of their own
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    tails: usize,
    /// Tails of one run
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    crowd: usize,
    /// Runs that a store holds already
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,1000,100000")]
    existing: Vec<u64>,
    /// Runs of the mixed workload
    #[arg(long, value_name = "N", default_value_t = 500)]
    active: usize,
    /// Appends a second to each of them
    #[arg(long, value_name = "N", default_value_t = 10)]
    per_run: u32,
    /// How long the mixed workload takes
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    mixed_seconds: u64,
    /// Connections that they share
    #[arg(long, value_name = "N", default_value_t = 4)]
    connections: usize,
    /// Threads of the clients
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Print JSON, one object a line; failures too, on standard error
    #[arg(long)]
    pub(super) json: bool,
    /// Be the bare service.
    #[arg(long, hide = true)]
    serve_wire: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    W1,
    W2,
    W3,
    W4,
    W5,
    W6,
    W7,
    W8,
}

impl BenchArgs {
    /// Threads that the work is done by; the bare service has as many as a server, one for each
    /// processor.
    pub(super) fn threads(&self) -> Option<usize> {
        (!self.serve_wire && 0 < self.threads).then_some(self.threads)
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn mixed(&self) -> Duration {
        Duration::from_secs(self.mixed_seconds)
    }

    /// Whether a workload can be measured where it was asked for: a server that runs already is
    /// neither filled nor killed, and a store inside of this process cannot be killed.
    fn can(&self, workload: Workload) -> bool {
        match workload {
            Workload::W6 => self.connect.is_none(),
            Workload::W7 => self.connect.is_none() && !self.embedded,
            Workload::W8 => !self.embedded,
            _ => true,
        }
    }

    /// Refuses what cannot be measured.
    fn check(&self) -> Result<(), Failure> {
        let counts = [
            ("--runs", self.runs),
            ("--record-bytes", self.record_bytes),
            ("--writers", self.writers),
            ("--connections", self.connections),
            ("--tails", self.tails),
            ("--crowd", self.crowd),
            ("--active", self.active),
            ("--per-run", self.per_run as usize),
            ("--threads", self.threads),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(Failure::usage(format!("{name} 0: give 1 or more")));
        }
        if let Some(workload) = self.workload.iter().find(|workload| !self.can(**workload)) {
            let message = "give neither --connect nor --embedded for this workload";
            let name = format!("{workload:?}").to_lowercase();
            return Err(Failure::usage(format!("--workload {name}: {message}")));
        }
        if self.existing.contains(&0) {
            return Err(Failure::usage("--existing 0: give 1 or more"));
        }
        if !(0.001..=86_400.0).contains(&self.seconds) {
            let message = format!("--seconds {}: give 0.001 to 86400", self.seconds);
            return Err(Failure::usage(message));
        }
        if (1 << 20) / 1_000 < self.record_bytes {
            let message = "give 1048 at most, so that 1,000 of them fit an append";
            return Err(Failure::usage(format!("--record-bytes {}: {message}", self.record_bytes)));
        }
        Ok(())
    }
}

/// What all measurements share.
struct Bench {
    args: BenchArgs,
    ground: Ground,
    bodies: Bodies,
    watch: Stopwatch,
}

/// Measures, or serves those who do.
pub(super) async fn run(args: BenchArgs) -> Result<(), Failure> {
    args.check()?;
    match args.serve_wire {
        true => serve_wire(args.record_bytes).await,
        false => measure(args).await,
    }
}

/// Serves until standard input ends, which it does with whoever has started this.
async fn serve_wire(record_bytes: usize) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| Failure::io("listening", &error))?;
    let address = listener.local_addr().map_err(|error| Failure::io("listening", &error))?;
    let _ = writeln!(io::stderr(), "listening on {address}");
    let (mut input, mut nothing) = (tokio::io::stdin(), [0]);
    tokio::select! {
        served = echo::serve(listener, record_bytes) => {
            served.map_err(|error| Failure::io("serving", &io::Error::other(error)))
        }
        _ = input.read(&mut nothing) => std::process::exit(0),
    }
}

async fn measure(args: BenchArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let redis = args.compare.as_deref().map(redis::address).transpose()?;
    let ground = Ground {
        dir: args.data_dir.clone(),
        connect: args.connect.clone().map(|url| (url, args.server_pid)),
        redis,
        record_bytes: args.record_bytes,
    };
    let bodies = Bodies::new(args.record_bytes);
    let bench = Bench { args, ground, bodies, watch: Stopwatch::start() };
    if !bench.args.json {
        let probe = bench.probe()?;
        let _ = writeln!(io::stderr(), "device probe, 4 KiB overwrite + fdatasync: p50 {probe:?}");
    }
    for workload in Workload::value_variants() {
        let is_wanted = match &bench.args.workload[..] {
            [] => bench.args.can(*workload),
            wanted => wanted.contains(workload),
        };
        if is_wanted {
            bench.run(*workload).await?;
        }
    }
    Ok(())
}

impl Bench {
    async fn run(&self, workload: Workload) -> Result<(), Failure> {
        let cases = match workload {
            Workload::W1 => appends::one_writer(self),
            Workload::W2 => appends::many_writers(self),
            Workload::W3 => appends::bulk(self),
            Workload::W4 => return self.print(catch_up::measure(self).await?),
            Workload::W5 => return self.print(tails::measure(self).await?),
            Workload::W6 => return self.print(population::among(self).await?),
            Workload::W7 => return self.print(population::restarts(self).await?),
            Workload::W8 => return self.print(mixed::measure(self).await?),
        };
        for case in cases {
            report::print(&appends::measure(self, &case).await?, self.args.json)?;
        }
        Ok(())
    }

    fn print(&self, cases: Vec<Vec<Row>>) -> Result<(), Failure> {
        cases.iter().try_for_each(|rows| report::print(rows, self.args.json))
    }

    /// What is measured, each beside what it is compared with.
    fn kinds(&self, with_unary: bool) -> Vec<Kind> {
        let mut kinds = match (self.args.embedded, with_unary) {
            (true, _) => vec![Kind::Embedded],
            (false, true) => {
                vec![Kind::Session, Kind::WireSession, Kind::Unary, Kind::WireUnary]
            }
            (false, false) => vec![Kind::Session, Kind::WireSession],
        };
        kinds.extend(self.ground.redis.is_some().then_some(Kind::Redis));
        kinds
    }

    fn probe(&self) -> Result<Duration, Failure> {
        let probed = probe::device(&self.ground.dir, &self.watch);
        probed.map_err(|error| Failure::io("the device probe", &error))
    }

    /// Takes a measurement, with the probe right before it.
    async fn sample(
        &self,
        place: &Place,
        work: impl Future<Output = Result<Tally, Failure>>,
    ) -> Result<Sample, Failure> {
        let probe = self.probe()?;
        let written = || disk_written(&self.ground.dir).ok();
        let used = || (process_use(std::process::id()).ok(), place.server_use());
        let (written_before, before) = (written(), used());
        let tally = work.await?;
        let (written_after, after) = (written(), used());
        let (client, server) = (between(before.0, after.0), between(before.1, after.1));
        let written = written_after.zip(written_before).map(|(after, before)| after - before);
        Ok(Sample { tally, probe, client, server, written, per_tail: None })
    }
}
