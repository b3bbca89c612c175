//! `braidlog stats`: how a store is doing.

use clap::Args;

use super::{
    failure::Failure, interrupt, output::Output, present::StatsLine, quantity::size,
    remote::Remote, table::Table,
};
use crate::engine::{CacheUse, Stats};

/// Shows how the store is doing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog stats
  braidlog stats --json | jq .stats.disk.free_bytes

Counters count since the store was opened.")]
pub(super) struct StatsArgs {
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Runs the command.
pub(super) async fn run(args: StatsArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let mut output = Output::new();
    let stats = args.remote.client()?.stats().await;
    let stats = stats.map_err(|error| Failure::store(&error, &args.remote.subject("", None)))?;
    if args.remote.json {
        output.json(StatsLine::new(&stats))?;
    } else {
        output.bytes(table(&stats).take().as_bytes())?;
    }
    output.flush()
}

fn table(stats: &Stats) -> Table<3> {
    let mut table = Table::new(["NUMBER", ">VALUE", "NOTE"]);
    let rows = [counters(stats).to_vec(), disk(stats).to_vec(), memory(stats).to_vec()];
    for (number, value, note) in rows.into_iter().flatten() {
        table.row([number.into(), value, note]);
    }
    table
}

/// A name, a value, and what there is to say about it.
type Row = (&'static str, String, String);

fn counters(stats: &Stats) -> [Row; 6] {
    let none = String::new;
    [
        ("runs", stats.runs.to_string(), format!("{} in memory", stats.runs_resident)),
        ("commits", stats.commits.to_string(), none()),
        ("frames", stats.frames.to_string(), none()),
        ("records", stats.records.to_string(), none()),
        ("bytes", size(stats.bytes), none()),
        ("disk reads", stats.disk_reads.to_string(), none()),
    ]
}

fn disk(stats: &Stats) -> [Row; 9] {
    let (disk, slots, lag) = (stats.disk, stats.journal_slots, stats.flush_lag);
    let none = String::new;
    let slots = format!(
        "{} slots: {} used, {} free; {} at most",
        slots.total, slots.used, slots.free, slots.max
    );
    let lag_note = format!("{} blocks, the oldest {} ms old", lag.blocks, lag.oldest_age_ms);
    let packs = format!("{} files, {} lost", disk.packs, disk.packs_lost);
    let free = disk.free_bytes.map_or_else(|| "unknown".into(), size);
    [
        ("journal", size(disk.journal_bytes), slots),
        ("packs", size(disk.pack_bytes), packs),
        ("run segments", size(disk.run_segment_bytes), none()),
        ("index", size(disk.index_bytes), none()),
        ("manifest", size(disk.manifest_bytes), none()),
        ("live", size(disk.live_bytes), "in packs and segments".into()),
        ("dead", size(disk.dead_bytes), "in packs and segments".into()),
        ("disk free", free, none()),
        ("flush lag", size(lag.bytes), lag_note),
    ]
}

fn memory(stats: &Stats) -> [Row; 2] {
    let of = |cache: CacheUse| format!("of {}", size(cache.max_bytes));
    let (frames, blocks) = (stats.frame_cache, stats.block_cache);
    [
        ("frame cache", size(frames.used_bytes), of(frames)),
        ("block cache", size(blocks.used_bytes), of(blocks)),
    ]
}
