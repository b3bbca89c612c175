//! Damage: whatever byte is wrong, `verify` names what was hit, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use braidlog::{
    Store,
    format::{Damage, Evidence, PAGE_BYTES, SECTOR_BYTES},
    offline::{
        Ending, Item, NewStore, RunFilter, RunLog, Salvaged, Survey, Verification, VerifyHow,
        salvage,
    },
    platform::sim::{self, SimRng},
};

use super::scene::{Place, Scene, places_of, records, said, spoiled};

const HOW: VerifyHow = VerifyHow { jobs: 1, deep: false, rests: 0 };

fn verify(survey: &Survey) -> Verification {
    survey.verify(HOW, &|_, _| {}).expect("readable")
}

/// What a byte of a file is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Its damage is told, and hits these records; in the journal, this frame.
    Counts { lost: BTreeSet<Place>, frame: Option<u64> },
    /// It stands behind the end of a log: what is there looks like a torn write.
    Rest,
    /// It means nothing.
    Nothing,
}

/// What every byte of a directory is for, found without what is tested: by where blocks, frames and
/// parts stand in the sound directory.
struct Roles {
    scene: Scene,
    /// Stretches of files, in order; what is in none of them counts, and hits no record.
    stretches: BTreeMap<String, Vec<(Range<u64>, Role)>>,
    all: BTreeSet<Place>,
    /// Where each of them is read from.
    places: BTreeMap<Place, (String, u64)>,
}

impl Roles {
    fn of(scene: Scene) -> Self {
        let survey = scene.survey();
        assert_eq!(survey.problems, [], "a sound directory");
        let all: BTreeSet<Place> = records(&survey).into_iter().collect();
        let mut stretches: BTreeMap<String, Vec<(Range<u64>, Role)>> = BTreeMap::new();
        let mut add = |file: &str, range: Range<u64>, role: Role| {
            stretches.entry(file.to_owned()).or_default().push((range, role));
        };
        for (n, slot) in survey.slots.iter().enumerate() {
            let file = slot.path.as_str();
            let end = slot
                .blocks
                .last()
                .map_or(PAGE_BYTES as u64, |last| last.position + last.header.disk_bytes() as u64);
            let is_last = n + 1 == survey.slots.len();
            add(file, end..slot.bytes, if is_last { Role::Rest } else { Role::Nothing });
        }
        for (number, bytes) in &survey.spare_slots {
            add(&format!("journal/slot-{number:02}"), 0..*bytes, Role::Nothing);
        }
        if let (Some((number, _)), Ending::EndOfLog { position, .. }) =
            (survey.manifest, survey.manifest_ending)
        {
            add(&format!("MANIFEST-{number:016x}"), position..u64::MAX, Role::Rest);
        }
        for file in &survey.leftovers {
            add(file.as_str(), 0..u64::MAX, Role::Nothing);
        }
        // Frames that are read from where they stand: no other copy counts.
        let counted = counted(&survey);
        for (_, frames) in survey.runs_in_journal() {
            for seen in frames {
                let slot = survey.slot_of(seen.at.file_seq).expect("a slot");
                let from = u64::from(seen.at.position);
                let frame = survey.read_frame(seen).expect("sound").expect("there");
                let lost = places_of(&frame).filter(|place| {
                    counted.get(place) == Some(&(slot.path.as_str().to_owned(), from))
                });
                let lost = lost.filter(|place| all.contains(place)).collect();
                let role = Role::Counts { lost, frame: Some(from) };
                add(slot.path.as_str(), from..from + u64::from(seen.at.len), role);
            }
        }
        for seen in &survey.packs {
            let pack = survey.pack(seen).expect("opens");
            pack.walk(|position, len, _| {
                let at = (seen.path.as_str().to_owned(), position);
                let lost = counted.iter().filter(|(_, place)| **place == at);
                let lost = lost.map(|(place, _)| *place).filter(|place| all.contains(place));
                let role = Role::Counts { lost: lost.collect(), frame: None };
                add(seen.path.as_str(), position..position + u64::from(len), role);
                Ok(())
            })
            .expect("sound");
        }
        stretches.values_mut().for_each(|roles| roles.sort_by_key(|(range, _)| range.start));
        Self { scene, stretches, all, places: counted }
    }

    fn role(&self, file: &str, at: u64) -> Role {
        let stretches = self.stretches.get(file).map_or(&[][..], |stretches| stretches);
        let found = stretches.iter().find(|(range, _)| range.contains(&at));
        let counts = Role::Counts { lost: BTreeSet::new(), frame: None };
        found.map_or(counts, |(_, role)| role.clone())
    }

    /// Every byte that there is.
    fn bytes(&self) -> u64 {
        self.scene.files.values().map(|bytes| bytes.len() as u64).sum()
    }

    fn at(&self, n: u64) -> (&str, u64) {
        let mut left = n;
        for (file, bytes) in &self.scene.files {
            if left < bytes.len() as u64 {
                return (file, left);
            }
            left -= bytes.len() as u64;
        }
        panic!("there are not so many bytes");
    }
}

/// Where each record that can be read is read from.
fn counted(survey: &Survey) -> BTreeMap<Place, (String, u64)> {
    let mut places = BTreeMap::new();
    survey
        .each_run(RunFilter::default(), |run| {
            let mut log = RunLog::open(survey, run.name_hash, run.run_no)?;
            while let Some(item) = log.next_item()? {
                let Item::Frame(frame, at) = item else { panic!("nothing is missing") };
                for place in places_of(&frame) {
                    places.insert(place, (at.file.as_str().to_owned(), at.position));
                }
            }
            Ok(())
        })
        .expect("readable");
    places
}

/// The records that are told to be lost: exactly those, by seq and by stream and index alike.
fn told(found: &Verification, all: &BTreeSet<Place>) -> BTreeSet<Place> {
    let mut told = BTreeSet::new();
    for loss in &found.losses {
        let of_run = all.iter().filter(|(run_no, ..)| *run_no == loss.run_no);
        let by_seq: BTreeSet<Place> = of_run
            .clone()
            .filter(|place| loss.seq.contains(&braidlog::Seq(place.1)))
            .copied()
            .collect();
        let by_index = loss.streams.iter().flat_map(|stream| {
            let to = stream.to.expect("one wrong byte leaves no doubt").0;
            let (number, from) = (stream.stream.0, stream.from.0);
            of_run.clone().filter(move |place| place.2 == number && from <= place.3 && place.3 < to)
        });
        let trims: BTreeSet<Place> = by_index.copied().collect();
        assert!(trims.is_subset(&by_seq), "streams and seqs tell of different records: {loss:?}");
        told.extend(trims);
    }
    told
}

fn check(roles: &Roles, scene: &Scene, file: &str, at: u64, bits: u8) {
    let mut bytes = roles.scene.files[file].clone();
    bytes[at as usize] ^= bits;
    scene.put(file, &bytes);
    let survey = scene.survey();
    let found = verify(&survey);
    let what = || {
        let findings = found.findings.iter().map(|finding| {
            format!("{}@{:#x}: {}", finding.file, finding.position, said(finding.damage))
        });
        let findings: Vec<_> = findings.collect();
        format!("byte {at:#x} of {file} wrong by {bits:#04x}: {findings:?} {:?}", found.losses)
    };
    match roles.role(file, at) {
        Role::Nothing => assert!(!found.is_corrupt() && !found.is_torn(), "{}", what()),
        Role::Rest => {
            // After an orderly shutdown nothing was being written: row 13 of the table.
            let is_row_13 = found.findings.iter().any(|finding| {
                finding.damage == Some(Damage::Lost { evidence: Evidence::CleanShutdown })
            });
            assert_eq!(found.is_corrupt(), is_row_13, "{}", what());
            assert!(found.is_torn() || is_row_13, "{}", what());
        }
        Role::Counts { lost, frame } => {
            assert!(found.is_corrupt(), "{}", what());
            let covers = |finding: &braidlog::offline::Finding| {
                finding.file.as_str() == file && finding.position <= at && at < finding.until
            };
            assert!(found.findings.iter().any(covers), "{}", what());
            let elsewhere = found.findings.iter().any(|finding| !covers(finding));
            assert!(!elsewhere, "{}", what());
            assert_eq!(told(&found, &roles.all), lost, "{}", what());
            let frames = found.findings.iter().flat_map(|finding| &finding.frames);
            let frames: Vec<u64> = frames.map(|frame| frame.position).collect();
            // The header of a block covers no frame; of one that is torn in its middle all are whole.
            assert_eq!(frames, frame.into_iter().collect::<Vec<_>>(), "{}", what());
        }
    }
    scene.put(file, &roles.scene.files[file]);
}

/// Damages in all, by `BRAIDLOG_DAMAGES`.
pub(crate) fn damages() -> u64 {
    let wanted = std::env::var("BRAIDLOG_DAMAGES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(100_000)
}

fn in_threads(work: impl Fn(u64, u64) + Sync) {
    let threads = thread::available_parallelism().map_or(1, |n| n.get()) as u64;
    thread::scope(|scope| {
        for n in 0..threads {
            let work = &work;
            scope.spawn(move || work(n, threads));
        }
    });
}

#[test]
fn whatever_byte_is_wrong_exactly_what_it_hits_is_named() {
    let total = AtomicU64::new(0);
    for roles in [Roles::of(Scene::fixture()), Roles::of(Scene::killed())] {
        let bytes = roles.bytes();
        let wanted = damages() / 2;
        in_threads(|thread, threads| {
            let (scene, mut rng) = (roles.scene.again(), SimRng::new(thread + 1));
            for _ in 0..wanted.div_ceil(threads) {
                let (file, at) = roles.at(rng.below(bytes));
                // Most bytes of a slot mean nothing: they are tried as well, but not so often.
                let means_nothing = roles.role(file, at) == Role::Nothing;
                if means_nothing && !rng.chance(1, 20) {
                    let (file, at) = roles.at(rng.below(bytes));
                    check(&roles, &scene, file, at, 1 << rng.below(8));
                    total.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let bits =
                    if rng.chance(1, 2) { 1 << rng.below(8) } else { 1 + rng.below(255) as u8 };
                check(&roles, &scene, file, at, bits);
                total.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    println!("{} wrong bytes, each named", total.into_inner());
}

#[test]
fn a_slot_that_waits_for_its_next_use_is_not_damaged_however_far_it_is_zeroed() {
    let scene = Scene::killed();
    let used = scene.files.iter().find(|(path, _)| path.starts_with("journal/")).expect("a slot").1;
    for zeroed in (0..=used.len()).step_by(PAGE_BYTES) {
        let mut slot = used.clone();
        slot[..zeroed].fill(0);
        scene.put("journal/slot-77", &slot);
        let survey = scene.survey();
        assert!(survey.spare_slots.iter().any(|(slot, _)| *slot == 77));
        for position in (0..used.len() as u64).step_by(PAGE_BYTES / 2) {
            let explained = survey.explain("journal/slot-77", position).expect("a place");
            assert_eq!(explained.damage, None, "{zeroed} bytes zeroed, at {position}");
            let is_spare = explained.what == "page of a spare slot";
            assert_eq!(is_spare, 0 < zeroed, "{zeroed} bytes zeroed, at {position}");
        }
    }
}

#[test]
fn an_end_cut_off_in_what_was_never_acknowledged_is_no_corruption() {
    let scene = Scene::killed();
    let survey = scene.survey();
    let slot = survey.slots.last().expect("a slot");
    let newest = slot.blocks.last().expect("a block");
    let (file, bytes) = (slot.path.as_str(), &scene.files[slot.path.as_str()]);
    let end = newest.position as usize + newest.header.disk_bytes();
    // A block that follows the newest one and that nobody was answered for: its sectors came or not.
    let mut next = bytes[newest.position as usize..end].to_vec();
    let header = braidlog::format::block::BlockDraft {
        salt: slot.header.expect("sound").salt,
        file_seq: slot.listed.file_seq,
        block_no: newest.header.block_no + 1,
        durable_block_no: newest.header.block_no + 1,
        prev_crc: newest.header.header_crc,
        clock_ms: newest.header.clock_ms,
        incarnation: newest.header.incarnation,
        flags: 0,
    };
    let frame = survey.read_frame(&survey.runs_in_journal().next().expect("a run").1[0]);
    let frame = frame.expect("sound").expect("there");
    braidlog::format::block::encode(&header, [&frame.bytes()[..], &[7; 3_000]], &mut next);
    // Where the store left no room for another block in its slot, none was being written there.
    if bytes.len() < end + next.len() {
        println!("the newest slot is full: nothing can be torn in it");
        return;
    }
    let sectors = next.len() / SECTOR_BYTES;
    let mut rng = SimRng::new(9);
    for cut in 0..2_000u64 {
        let mut torn = bytes.clone();
        let keep = |sector: usize, rng: &mut SimRng| match cut {
            cut if cut < sectors as u64 => (sector as u64) < cut,
            _ => rng.chance(1, 2),
        };
        for sector in 0..sectors {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            if keep(sector, &mut rng) {
                torn[end..][range.clone()].copy_from_slice(&next[range]);
            }
        }
        // All of it is there: it is a block, and its second frame is none. No cut leaves that.
        if torn[end..][..next.len()] == next[..] {
            continue;
        }
        scene.put(file, &torn);
        let found = verify(&scene.survey());
        let is_empty = torn == *bytes;
        assert!(!found.is_corrupt(), "cut {cut}: {:?} {:?}", found.findings, found.losses);
        assert_eq!(found.is_torn(), !is_empty, "cut {cut}");
    }
}

/// A new store of all that is sound, and what became of the rest.
fn recover(survey: &Survey) -> (sim::SimDisk, Salvaged) {
    let to = sim::SimDisk::new();
    let platform = sim::platform(&to, &sim::SimClock::new(1), 7);
    let identity = braidlog::format::identity::StoreIdentity { store_uuid: [9; 16], created_ms: 1 };
    let mut store = NewStore::on(platform, identity, Default::default()).expect("new");
    let found = salvage(survey, &mut store, &mut |_| {}).expect("salvaged");
    store.finish().expect("finished");
    (to, found)
}

#[test]
fn of_a_pack_every_block_but_the_damaged_one_is_recovered_also_without_its_directory() {
    let roles = Roles::of(Scene::packed());
    let sound = roles.scene.survey();
    let (mut tried, mut describing, mut lost) = (0, 0, 0);
    for seen in &sound.packs {
        let pack = sound.pack(seen).expect("opens");
        let mut blocks = Vec::new();
        let walked = pack.walk(|position, len, _| {
            blocks.push((position, len));
            Ok(())
        });
        walked.expect("sound");
        let described: BTreeSet<u64> =
            pack.entries().expect("sound").map(|entry| entry.expect("sound").block).collect();
        for ((position, len), has_directory) in
            blocks.iter().flat_map(|block| [(*block, true), (*block, false)])
        {
            let (file, scene) = (seen.path.as_str(), roles.scene.again());
            let mut bytes = roles.scene.files[file].clone();
            // Two bytes: what a single wrong one hides is known.
            bytes[position as usize + 30] ^= 0x55;
            bytes[position as usize + len as usize / 2] ^= 0x0f;
            if !has_directory {
                let footer_at = bytes.len() - PAGE_BYTES;
                bytes[footer_at + 20] ^= 1;
            }
            scene.put(file, &bytes);
            let survey = scene.survey();
            let (to, found) = recover(&survey);
            let new =
                braidlog::offline::Directory::on(sim::platform(&to, &sim::SimClock::new(1), 8));
            let kept: BTreeSet<Place> =
                records(&new.survey().expect("a store")).into_iter().collect();
            let gone: BTreeSet<&Place> = roles.all.difference(&kept).collect();
            let at = (file.to_owned(), position);
            let hit: BTreeSet<&Place> =
                roles.all.iter().filter(|place| roles.places[*place] == at).collect();
            let what = format!("block {position:#x} of {file}, directory: {has_directory}");
            // Without directory and description nothing says whose the frames in other blocks are. What
            // the journal still holds is taken from there.
            if has_directory || !described.contains(&position) {
                assert!(gone.is_subset(&hit), "{what}: {gone:?} {:?}", found.losses);
                lost += gone.len();
            } else {
                describing += 1;
            }
            let verified = verify(&survey);
            let unattributed = verified.unattributed(&survey, &found.losses);
            for place in gone {
                let is_listed = found.losses.iter().any(|loss| {
                    loss.run_no == place.0 && loss.seq.contains(&braidlog::Seq(place.1))
                });
                let (file, at) = &roles.places[place];
                let is_in = unattributed
                    .iter()
                    .any(|(other, range)| other.as_str() == file && range.contains(at));
                assert!(is_listed || is_in, "{what}: {place:?} {unattributed:?}");
            }
            tried += 1;
        }
    }
    println!("{tried} damaged blocks, {describing} of them described segments without a directory");
    assert!(16 <= tried && 0 < lost, "{tried} blocks: too few for segments of several");
}

#[test]
fn what_is_recovered_is_every_record_that_is_intact_and_every_range_that_is_not_is_listed() {
    let roles = Roles::of(Scene::killed());
    let rounds = 200;
    let (hit_records, out_of_reach) = (AtomicU64::new(0), AtomicU64::new(0));
    in_threads(|thread, threads| {
        for round in (0..rounds).filter(|round| round % threads == thread) {
            let (scene, mut rng) = (roles.scene.again(), SimRng::new(round));
            // From one damage to a thousand in one directory, of bytes that count.
            let count = [1, 3, 10, 100, 1_000][round as usize % 5];
            let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
            let mut hit: BTreeSet<Place> = BTreeSet::new();
            for _ in 0..count {
                let (file, at) = roles.at(rng.below(roles.bytes()));
                let Role::Counts { lost, .. } = roles.role(file, at) else { continue };
                // Whether the name of a file's owner can be read is another test's.
                if !file.starts_with("journal/") && !file.starts_with("packs/") {
                    continue;
                }
                hit.extend(lost);
                let bytes = files.entry(file).or_insert_with(|| roles.scene.files[file].clone());
                bytes[at as usize] ^= 1 << rng.below(8);
            }
            files.iter().for_each(|(file, bytes)| scene.put(file, bytes));
            let survey = scene.survey();
            let readable: BTreeSet<Place> = records(&survey).into_iter().collect();
            let (to, found) = recover(&survey);
            let damaged = verify(&survey);
            let unattributed = damaged.unattributed(&survey, &found.losses);
            // The result opens, verifies clean, and has what can be read.
            let new =
                braidlog::offline::Directory::on(sim::platform(&to, &sim::SimClock::new(1), 8));
            let survey = new.survey().expect("a store");
            let verified = verify(&survey);
            assert!(!verified.is_corrupt() && !verified.is_torn(), "round {round}: {verified:?}");
            let recovered: BTreeSet<Place> = records(&survey).into_iter().collect();
            let is_left_out =
                |place: &&Place| found.left_out.iter().any(|left| left.run_no == place.0);
            let gone = readable.difference(&recovered).filter(|place| !is_left_out(place));
            // Where the state is lost, nothing tells what was trimmed.
            let gone = gone.filter(|place| roles.all.contains(place));
            let gone: Vec<_> = gone.collect();
            assert!(gone.is_empty(), "round {round}: {gone:?} {found:?}");
            let listed = |place: &Place| {
                found.losses.iter().any(|loss| {
                    loss.run_no == place.0 && loss.seq.contains(&braidlog::Seq(place.1))
                }) || unknown_tail(&found.losses, place, &recovered)
            };
            let left_out: u64 = found.left_out.iter().map(|left| left.records).sum();
            assert!(left_out <= 8, "round {round}: {:?}", found.left_out);
            // Of what nothing names, the place where it stood is listed.
            let is_in = |place: &Place| {
                let (file, at) = &roles.places[place];
                unattributed
                    .iter()
                    .any(|(other, range)| other.as_str() == file && range.contains(at))
            };
            let unlisted: Vec<_> = roles
                .all
                .difference(&recovered)
                .filter(|place| !listed(place) && !is_in(place) && !is_left_out(place))
                .collect();
            assert!(unlisted.is_empty(), "round {round}: {unlisted:?} {:?}", found.losses);
            // What no wrong byte hit is there, unless nothing is left that says what stood at its place.
            let untouched = roles.all.difference(&recovered).filter(|place| !hit.contains(place));
            let untouched: Vec<_> = untouched.filter(|place| !is_left_out(place)).collect();
            let lost: Vec<_> = untouched.iter().filter(|place| !is_in(place)).collect();
            assert!(lost.is_empty(), "round {round}: intact, and yet lost: {lost:?}");
            out_of_reach.fetch_add(untouched.len() as u64, Ordering::Relaxed);
            hit_records.fetch_add(hit.len() as u64, Ordering::Relaxed);
            let fork = to.fork();
            let platform = sim::platform(&fork, &sim::SimClock::new(1), 9);
            let options = braidlog::Options::new("data");
            Store::open_stepped(platform, options).expect("what is recovered opens");
        }
    });
    let (hit, lost) = (hit_records.into_inner(), out_of_reach.into_inner());
    println!("hit: {hit} records, untouched and out of reach: {lost}");
    assert!(0 < hit, "something was hit");
    // Where both copies of a slot's header are damaged, and the like.
    assert!(lost * 20 < hit, "{lost} untouched records are out of reach, where {hit} were hit");
}

/// A place in a range whose end nothing tells.
fn unknown_tail(losses: &[braidlog::offline::Loss], place: &Place, kept: &BTreeSet<Place>) -> bool {
    losses.iter().any(|loss| {
        loss.run_no == place.0
            && loss.streams.iter().any(|stream| {
                stream.to.is_none() && stream.stream.0 == place.2 && stream.from.0 <= place.3
            })
    }) && !kept.contains(place)
}

#[test]
fn no_damage_makes_the_inspection_panic_or_read_what_is_not_there() {
    let scenes = [Scene::fixture(), Scene::killed()];
    let total = AtomicU64::new(0);
    in_threads(|thread, threads| {
        let mut rng = SimRng::new(100 + thread);
        for scene in &scenes {
            let all: BTreeSet<Place> = records(&scene.survey()).into_iter().collect();
            let hurt = scene.again();
            let files: Vec<_> = scene.files.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
            for _ in 0..damages() / 40 / threads {
                let (file, bytes) = files[rng.below(files.len() as u64) as usize];
                let other = files[rng.below(files.len() as u64) as usize].1;
                let (damaged, at) = spoiled(&mut rng, bytes, other);
                hurt.put(file, &damaged);
                if let Ok(survey) = braidlog::offline::Directory::on(hurt.platform()).survey() {
                    verify(&survey);
                    let found = records(&survey);
                    let invented: Vec<_> =
                        found.iter().filter(|place| !all.contains(place)).collect();
                    let is_old = invented.iter().all(|place| is_of_dead_run(&scenes, place));
                    assert!(is_old, "{file} at {at}: {invented:?}");
                }
                hurt.put(file, bytes);
                total.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    println!("{} hostile files", total.into_inner());
}

/// Deleted runs and trimmed records are there until their bytes are given back: without what deleted
/// them they are found again.
fn is_of_dead_run(scenes: &[Scene], place: &Place) -> bool {
    scenes.iter().any(|scene| {
        let survey = scene.survey();
        let mut found = false;
        survey
            .each_run(RunFilter { deleted: true }, |run| {
                found |= run.run_no == place.0;
                Ok(())
            })
            .expect("readable");
        found
    })
}

#[test]
fn the_fixtures_hold_frames_blocks_and_packs_enough_to_be_damaged() {
    let survey = Scene::killed().survey();
    assert!(2 <= survey.packs.len(), "packs: {}", survey.packs.len());
    assert!(2 <= survey.slots.len(), "slots: {}", survey.slots.len());
    let mut blocks = survey.slots.iter().flat_map(|slot| &slot.blocks);
    assert!(blocks.any(|block| block.header.mask != 0), "a masked block");
    let flushed = survey.packs.iter().map(|pack| pack.live.listed.segments).sum::<u32>();
    assert!(8 <= flushed, "segments: {flushed}");
}
