//! The state machine of one run: everything that decides, and nothing that acts.
//!
//! [`RunState`] is the fold of a run's frames. A command is admitted by checking it against the
//! state in one fixed order ([`command`] lists it) and turning it into a [`Frame`]; that frame is
//! then replayed, by the same code that replays it after a crash. There is no second way to change
//! a state, so what recovery rebuilds is what was served.
//!
//! What it deliberately does not do: read files or clocks, draw random numbers, wait. `now` and
//! identities are arguments. It also does not know what is durable: its state runs ahead of the
//! disk, and whoever shows anything of it waits until the frames behind it are synced.
//!
//! [`Frame`]: crate::format::frame::Frame

mod append;
mod command;
mod life;
mod refusal;
mod replay;
mod state;

pub use append::{Append, Appended, NewRecord, Producer};
pub use command::Decision;
pub use life::{Close, CloseStream, Closed, Create, NewRun, StreamEnd, Trim};
pub use refusal::Refusal;
pub use replay::{Facts, StreamSpan};
pub use state::{Ending, ProducerState, RunState, StreamState};
