//! `braidlog send`: messages to a run, one or one per line.
//!
//! Every message has an id, so that what is sent again after a lost connection is there once.

use std::path::PathBuf;

use clap::Args;

use super::{
    failure::Failure,
    input::{Batches, Cut},
    interrupt,
    output::Output,
    present::sent,
    remote::{Remote, request_id},
};
use crate::{
    client::Client,
    core::{NewRecord, Send},
    engine::RunKey,
    record::APPEND_RECORDS_MAX,
};

/// Sends messages to a run: a text, or each line of a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog send chat-4 inbox 'hello there'
  braidlog send chat-4 inbox --message-id form-17 'I agree'   # may be repeated
  braidlog send chat-4 inbox --file questions.txt
  echo stop | braidlog send chat-4 control

Without TEXT, each line of the input is a message. With --message-id, the first
of them has that id, the second ID-1, the third ID-2: sending the same again
changes nothing. The run must exist; a stream is opened by its first message.")]
pub(super) struct SendArgs {
    /// Name of the run
    run: String,
    /// Name of the input stream
    stream: String,
    /// The message
    #[arg(allow_hyphen_values = true)]
    text: Option<String>,
    /// File whose lines are messages; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-", conflicts_with = "text")]
    file: PathBuf,
    /// Id of the message, at most 128 bytes [default: one that no other has]
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Runs the command.
pub(super) async fn run(args: SendArgs) -> Result<(), Failure> {
    interrupt::exit_on_interrupt(|| None);
    let (client, mut output) = (args.remote.client()?, Output::new());
    if let Some(text) = &args.text {
        send(&args, &client, 0, NewRecord::new(text.clone()), &mut output).await?;
        return output.flush();
    }
    let mut batches = Batches::open(&args.file, APPEND_RECORDS_MAX, Cut::AsItComes).await?;
    let mut count = 0;
    while let Some(messages) = batches.next().await? {
        for message in messages {
            send(&args, &client, count, message, &mut output).await?;
            count += 1;
        }
        output.flush()?;
    }
    Ok(())
}

async fn send(
    args: &SendArgs,
    client: &Client,
    number: u64,
    message: NewRecord,
    output: &mut Output,
) -> Result<(), Failure> {
    let id = match (&args.message_id, number) {
        (None, _) => request_id().to_string(),
        (Some(id), 0) => id.clone(),
        (Some(id), _) => format!("{id}-{number}"),
    };
    let message = NewRecord { id: id.clone(), ..message };
    let send = Send { run_uid: None, stream: args.stream.as_str().into(), message };
    let answer = client.send(&RunKey::new(args.run.as_str()), send).await;
    let subject = args.remote.subject(&args.run, Some(&args.stream));
    let answer = answer.map_err(|error| {
        let failure = Failure::store(&error, &subject);
        match number {
            0 => failure,
            _ => failure.with_note(&format!("{number} messages before it were sent")),
        }
    })?;
    if args.remote.json {
        return output.json(sent(&answer, &id));
    }
    let verb = if answer.deduplicated { "was sent already:" } else { "sent" };
    let seq = answer.seq.map(|seq| format!(" seq {seq}")).unwrap_or_default();
    output.line(&format!("{verb} index {}{seq}", answer.index))
}
