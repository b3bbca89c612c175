//! A whole directory with arbitrary damage: the survey, `verify`, every run's log and the salvage end,
//! and read nothing that never was.
//!
//! Input: a byte that chooses how deep it is looked, then damages: which file, how, where (four
//! bytes), how much, and what with. `BRAIDLOG_FUZZ_BUG=IgnorePayloadCrc` and its like leave out a
//! checksum, so that what stands behind it is reached; then what is read may be anything.
//!
//! Memory is limited by the fuzzer: `-malloc_limit_mb=64 -rss_limit_mb=512`.

#![no_main]

use std::{collections::BTreeMap, env, fs, path::Path, sync::OnceLock};

use braidlog::{
    format::{SECTOR_BYTES, identity::StoreIdentity, wire},
    offline::{Directory, Item, NewStore, RunFilter, RunLog, Survey, VerifyHow, salvage},
    platform::sim::{self, SimClock, SimDisk},
    sabotage::{self, Bug},
};
use libfuzzer_sys::fuzz_target;

/// A run's number, and the seq and body of a record.
type Seen = (u64, u64, Vec<u8>);

struct Sound {
    files: Vec<(String, Vec<u8>)>,
    /// Everything that was ever written.
    records: Option<Vec<Seen>>,
}

fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let planted = env::var("BRAIDLOG_FUZZ_BUG").ok();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/v1");
        let mut files = BTreeMap::new();
        load(&root, "", &mut files);
        let files: Vec<_> = files.into_iter().collect();
        let disk = SimDisk::new();
        files.iter().for_each(|(path, bytes)| disk.write_file(path, bytes));
        let survey = Directory::on(sim::platform(&disk, &SimClock::new(1), 1)).survey();
        let mut records = read(&survey.expect("a store"));
        records.sort();
        if let Some(name) = &planted {
            sabotage::plant(Bug::named(name).expect("a planted bug"));
        }
        Sound { files, records: planted.is_none().then_some(records) }
    })
}

fn load(dir: &Path, at: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("folder") {
        let entry = entry.expect("entry");
        let name = format!("{at}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => load(&entry.path(), &format!("{name}/"), files),
            false => drop(files.insert(name, fs::read(entry.path()).expect("file"))),
        }
    }
}

fn read(survey: &Survey) -> Vec<Seen> {
    let mut seen = Vec::new();
    let visited = survey.each_run(RunFilter { deleted: true }, |run| {
        let mut log = RunLog::open(survey, run.name_hash, run.run_no)?;
        while let Some(item) = log.next_item()? {
            if let Item::Frame(frame, _) = item {
                for record in wire::decode_all(frame.records()).flatten() {
                    seen.push((run.run_no.0, record.seq, record.data.to_vec()));
                }
            }
        }
        Ok(())
    });
    visited.expect("memory is readable");
    seen
}

fn damage(files: &[(String, Vec<u8>)], mut input: &[u8], disk: &SimDisk) {
    let mut hurt: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    while let Some((&[file, how, a, b, c, len], rest)) = input.split_first_chunk() {
        let number = usize::from(file) % files.len();
        let bytes = hurt.entry(number).or_insert_with(|| files[number].1.clone());
        let at = u32::from_le_bytes([a, b, c, 0]) as usize;
        let len = usize::from(len).min(rest.len());
        let (with, rest) = rest.split_at(len);
        input = rest;
        if bytes.is_empty() {
            continue;
        }
        let at = at % bytes.len();
        match how % 5 {
            0 => bytes.truncate(at),
            1 => {
                let from = at / SECTOR_BYTES * SECTOR_BYTES;
                let to = bytes.len().min(from + SECTOR_BYTES);
                bytes[from..to].fill(0);
            }
            2 => {
                let from = &files[(number + 1) % files.len()].1;
                let len = SECTOR_BYTES.min(from.len()).min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&from[..len]);
            }
            3 => bytes.resize(bytes.len() + len * 64, 0),
            _ => {
                let end = bytes.len().min(at + with.len());
                bytes[at..end].copy_from_slice(&with[..end - at]);
            }
        }
    }
    for (number, (path, bytes)) in files.iter().enumerate() {
        disk.write_file(path, hurt.get(&number).unwrap_or(bytes));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((depth, input)) = input.split_first() else { return };
    let Sound { files, records } = sound();
    let disk = SimDisk::new();
    damage(files, input, &disk);
    let Ok(survey) = Directory::on(sim::platform(&disk, &SimClock::new(1), 1)).survey() else {
        return;
    };
    let how = VerifyHow { jobs: 1, deep: depth & 1 != 0, rests: 0 };
    survey.verify(how, &|_, _| {}).expect("memory is readable");
    let read = read(&survey);
    if let Some(records) = records {
        let invented = read.iter().find(|seen| records.binary_search(seen).is_err());
        assert_eq!(invented, None);
    }
    if depth & 2 != 0 {
        let platform = sim::platform(&SimDisk::new(), &SimClock::new(1), 2);
        let identity = StoreIdentity { store_uuid: [7; 16], created_ms: 1 };
        let mut store = NewStore::on(platform, identity, Default::default()).expect("new");
        salvage(&survey, &mut store, &mut |_| {}).expect("salvaged");
        store.finish().expect("finished");
    }
});
