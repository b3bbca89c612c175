//! `braidlog run delete`.

use clap::Args;

use crate::{
    cli::{
        failure::{Exit, Failure},
        output::Output,
        present::{DeletedLine, RunLine, status_name},
        quantity::size,
        remote::Remote,
    },
    client::Client,
    core::{Delete, Refusal},
    engine::{RunInfo, RunKey},
    error::Error,
    record::Seq,
};

/// Deletes runs with all they hold, for good
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  braidlog run delete build-17 build-18 --dry-run
  braidlog run delete build-17 build-18 --yes

Nothing is asked: without --yes or --dry-run nothing is done. Runs that cannot be
deleted are told and passed over; the exit status is that of the first of them.
Readers of a run that is deleted end with an error. Its name may be used again.")]
pub(in crate::cli) struct DeleteArgs {
    /// Names of the runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// Delete them
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Runs the command.
pub(super) async fn delete(args: DeleteArgs, output: &mut Output) -> Result<(), Failure> {
    if !args.yes && !args.dry_run {
        return Err(Failure::usage(
            "a run that is deleted is gone for good: say --yes to delete, or --dry-run to see what \
             would be",
        ));
    }
    let client = args.remote.client()?;
    let mut failures = Vec::new();
    for run in &args.runs {
        let deleted = match args.dry_run {
            true => describe(run, &args.remote, &client, output).await,
            false => delete_one(run, &args.remote, &client, output).await,
        };
        // In the order of the names, whatever reads standard output.
        output.flush()?;
        match deleted {
            // Without a reader of the output there is nobody to go on for.
            Err(failure) if failure.exit == Exit::Done => return Err(failure),
            Err(failure) => failures.push(failure),
            Ok(()) => {}
        }
    }
    told(failures, args.runs.len(), args.remote.json)
}

/// One failure tells itself; several are told one by one, and then their number.
fn told(failures: Vec<Failure>, of: usize, as_json: bool) -> Result<(), Failure> {
    let Some(first) = failures.first().cloned() else { return Ok(()) };
    if of == 1 {
        return Err(first);
    }
    failures.iter().for_each(|failure| failure.tell(as_json));
    let message = format!("{} of {of} runs could not be deleted", failures.len());
    Err(Failure { message, ..first })
}

async fn describe(
    run: &str,
    remote: &Remote,
    client: &Client,
    output: &mut Output,
) -> Result<(), Failure> {
    let failed = |error| Failure::store(&error, &remote.subject(run, None));
    let found = client.get_run(&RunKey::new(run)).await.map_err(failed)?;
    if remote.json {
        return output.json(RunLine::dry(&found));
    }
    output.line(&format!("would delete {run} ({}, {})", status_name(&found), holds(&found)))
}

/// Deletes the run that has the name now: repeated, the call never takes another one.
async fn delete_one(
    run: &str,
    remote: &Remote,
    client: &Client,
    output: &mut Output,
) -> Result<(), Failure> {
    let failed = |error| Failure::store(&error, &remote.subject(run, None));
    let key = RunKey::new(run);
    let found = match client.get_run(&key).await {
        Ok(found) => Some(found),
        Err(Error::Refused(Refusal::RunDeleted)) => None,
        Err(error) => return Err(failed(error)),
    };
    let delete = Delete { run_uid: found.as_ref().map(|found| found.run_uid) };
    let deleted = client.delete_run(&key, delete).await.map_err(failed)?;
    if remote.json {
        return output.json(DeletedLine::new(run, &deleted));
    }
    match found {
        Some(found) => output.line(&format!("deleted {run} ({})", holds(&found))),
        None => output.line(&format!("was deleted already: {run}")),
    }
}

fn holds(run: &RunInfo) -> String {
    let records = if run.tail == Seq(1) { "record" } else { "records" };
    format!("{} {records}, {}", run.tail, size(run.bytes))
}
