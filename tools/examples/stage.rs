//! What the examples share: a server of their own unless one is named, names that nobody else has,
//! and where the transcript goes.

// An example is no part of what runs in simulation.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    error::Error,
    time::{SystemTime, UNIX_EPOCH},
};

use braidlog::{Options, Store, client::Client, grpc::server::serve};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;

/// How an example ends: every promise held, or what went wrong.
pub(crate) type Played = Result<(), Box<dyn Error + Send + Sync>>;

/// Plays an example against the server of `--server URL`, or else one of its own.
pub(crate) fn play<F: Future<Output = Played>>(example: impl FnOnce(Client) -> F) -> Played {
    play_at(server_argument()?, example)
}

/// Plays an example against this server, or else one of its own, over a store in a temporary
/// directory.
pub(crate) fn play_at<F: Future<Output = Played>>(
    server: Option<String>,
    example: impl FnOnce(Client) -> F,
) -> Played {
    Runtime::new()?.block_on(async {
        if let Some(url) = server {
            return example(Client::new(&url)?).await;
        }
        let folder = tempfile::tempdir()?;
        let store = Store::open(Options::new(folder.path().join("data")))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = Client::new(&format!("http://{}", listener.local_addr()?))?;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, store.clone(), shutdown.clone()));
        let played = example(client).await;
        shutdown.cancel();
        serving.await??;
        store.close().await?;
        played
    })
}

fn server_argument() -> Result<Option<String>, String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [] => Ok(None),
        [name, url] if name == "--server" => Ok(Some(url.clone())),
        _ => Err("usage: [--server URL]".into()),
    }
}

/// A name for this play.
pub(crate) fn name(example: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{example}-{:x}", now.as_nanos())
}
