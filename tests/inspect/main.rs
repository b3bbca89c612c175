//! The offline inspection: what it says of sound and of damaged directories, and that it touches none.
//!
//! `damage` flips bytes, cuts ends and zeroes sectors and holds what is told to what was hit;
//! `budget` holds commands to a limit of memory; `screens` holds what every command prints over the fixtures to `tests/inspect/screens`;
//! `in_motion` looks at a journal that changes faster than it is read;
//! `untouched` holds that nothing is written, beside a running server too.

#![allow(clippy::disallowed_methods, reason = "tests copy and hash directories")]

mod budget;
mod damage;
mod in_motion;
mod scene;
mod screens;
mod untouched;
