//! The options of every command that talks to a server.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{
    failure::{Failure, Subject},
    records::Format,
};
use crate::{
    client::{Client, ClientOptions, RetryPolicy},
    config::{DEFAULT_LISTEN, ENV_SERVER},
    engine::RunKey,
    error::Error,
    platform::os,
    record::RunUid,
};

/// How long a server may take to answer the first call.
const SECONDS_TO_BEGIN: u64 = 3;
/// How long a server that has answered may be away.
const SECONDS_TO_GO_ON: u64 = 300;

/// Which server, and how its answers are shown.
#[derive(Debug, Clone, Args)]
pub(super) struct Remote {
    /// Address of the server
    #[arg(long, value_name = "URL", env = ENV_SERVER, hide_env_values = true,
          default_value_t = format!("http://{DEFAULT_LISTEN}"))]
    pub(super) server: String,
    /// Give up when the server has not answered for so long [default: 3, and for `append` and
    /// `tail` 300 once it has answered]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
    /// Print JSON, one object a line; failures too, on standard error
    #[arg(long)]
    pub(super) json: bool,
}

impl Remote {
    /// A client that tells at once how a call went, and leaves repeating it to the caller.
    pub(super) fn single_client(&self) -> Result<Client, Failure> {
        self.client_with(RetryPolicy::never())
    }

    /// A client for a call whose answer somebody waits for. It connects with its first call.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.patient_client(SECONDS_TO_BEGIN)
    }

    /// A client that outlasts restarts of the server. That there is a server is found out first:
    /// nobody wants to wait minutes to learn of a wrong address.
    pub(super) async fn lasting_client(&self, subject: &Subject) -> Result<Client, Failure> {
        let run = RunKey::new(subject.run.as_str());
        match self.client()?.check_tail(&run, None, None).await {
            // Whether the run may be absent is for the command to say.
            Ok(_) | Err(Error::Refused(_)) => self.patient_client(SECONDS_TO_GO_ON),
            Err(error) => Err(Failure::store(&error, subject)),
        }
    }

    fn patient_client(&self, seconds: u64) -> Result<Client, Failure> {
        let deadline = Some(Duration::from_secs(self.patience.unwrap_or(seconds)));
        self.client_with(RetryPolicy { deadline, ..RetryPolicy::default() })
    }

    fn client_with(&self, retry: RetryPolicy) -> Result<Client, Failure> {
        let options = ClientOptions { retry, ..ClientOptions::default() };
        Client::with_options(&self.server, options)
            .map_err(|error| Failure::usage(format!("--server {}: {error}", self.server)))
    }

    /// As [`lasting_client`](Self::lasting_client), for what is not about one run.
    pub(super) async fn server_client(&self, subject: &Subject) -> Result<Client, Failure> {
        match self.client()?.stats().await {
            Ok(_) => self.patient_client(SECONDS_TO_GO_ON),
            Err(error) => Err(Failure::store(&error, subject)),
        }
    }

    /// What a command is about, for its messages.
    pub(super) fn subject(&self, run: &str, stream: Option<&str>) -> Subject {
        Subject {
            server: self.server.clone(),
            run: run.into(),
            stream: stream.unwrap_or_default().into(),
        }
    }

    /// The format of records: `--json` is a way to say `--format json`.
    pub(super) fn format(&self, format: Format) -> Format {
        if self.json { Format::Json } else { format }
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    os::platform("").clock.wall_ms()
}

/// An id that no other call has, by which a command is known when it is repeated.
pub(super) fn request_id() -> Arc<str> {
    RunUid(os::platform("").random_id()).to_string().into()
}
