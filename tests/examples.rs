//! Plays the examples: each holds itself to what it shows.

#![cfg(all(feature = "grpc", feature = "client"))]
// An example has a `main` that its test does not need, and its own stage.
#![allow(dead_code, clippy::duplicate_mod)]

#[path = "../tools/examples/cancel_stream.rs"]
mod cancel_stream;
#[path = "../tools/examples/human_approval.rs"]
mod human_approval;
#[path = "../tools/examples/interactive_agent.rs"]
mod interactive_agent;
#[path = "../tools/examples/stage.rs"]
mod stage;

#[test]
fn a_stream_is_cancelled_in_the_middle() {
    stage::play_at(None, cancel_stream::show).expect("as it says");
}

#[test]
fn a_run_waits_for_approval_without_a_worker() {
    stage::play_at(None, human_approval::show).expect("as it says");
}

#[test]
fn an_agent_answers_every_message_once() {
    stage::play_at(None, interactive_agent::show).expect("as it says");
}
