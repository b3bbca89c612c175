//! A data directory looked at from outside: live or dead, sound or damaged, without a server,
//! without a lock, and without writing one byte.
//!
//! [`Directory`] is a directory that is looked at. A [`Survey`] is what was found in it: which files
//! are alive, where every run's frames are, what is damaged. It judges by the table in
//! [`verdict`](crate::format::verdict) as a start of the store does, but where a start refuses, it
//! goes on: behind damage it looks for the next sound block, and says what lies between. A
//! [`RunLog`] is one run's log, frame by frame, with what is missing between them.
//!
//! A [`NewStore`] is the one thing that is written: another directory, made of runs.
//!
//! Beside a running server files change while they are read: slots are written, used again, packs
//! are replaced. A survey is of one moment all the same: the newest slot is read as far as it went when
//! its turn came, and the manifest once more behind the journal, since what left the journal meanwhile is
//! in packs. Where a frame leaves it later, a log goes on in a survey of then, as far as it went before.
//! Recovery, which must see all of the journal as it would find it, reads files that stand still.
//! What looks damaged is believed when it comes again.
//!
//! What it deliberately does not do: repair, or change anything that is there; decide what a start of the store
//! would do with the directory (that is [`recovery::plan`](crate::recovery::plan), which
//! [`Directory::plan`] asks).

mod build;
mod directory;
mod explain;
mod log;
mod names;
mod pack_check;
mod remains;
mod salvage;
mod seen;
mod still;
mod stretch;
mod survey;
mod verify;
mod walk;

pub use build::{BuildError, Built, NewRun, NewStore};
pub use directory::{Directory, Holder, LookError};
pub use explain::{Explained, Field};
pub use log::{Item, RunLog, Where};
pub use names::{FoundRun, RunFilter, RunName};
pub use salvage::{LeftOut, Salvaged, salvage};
pub use seen::{BlockSeen, DamagedFrame, Ending, FrameSeen, PackSeen, Problem, SlotSeen};
pub use survey::Survey;
pub use verify::{
    Consequence, FileChecked, Finding, Loss, Nature, StreamLoss, Verification, VerifyHow,
};
pub use walk::{Step, walk_slot};
