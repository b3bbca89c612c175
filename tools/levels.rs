//! Test binaries, built and found by name, so that a tool can run them by themselves.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

/// The test binaries, by name.
pub(crate) struct Tests(BTreeMap<String, PathBuf>);

/// Test binaries that are built alike.
pub(crate) struct Build<'a> {
    pub(crate) names: &'a [&'a str],
    /// What `cargo test` is told besides.
    pub(crate) args: &'a [&'a str],
    /// Flags of the compiler, if they are not the common ones.
    pub(crate) rustflags: Option<&'a str>,
}

impl Build<'_> {
    fn run(&self) -> BTreeMap<String, PathBuf> {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--no-run", "--message-format=json"]).args(self.args);
        for name in self.names {
            command.args(["--test", name]);
        }
        if let Some(rustflags) = self.rustflags {
            command.env("RUSTFLAGS", rustflags);
        }
        let built = command.stderr(Stdio::inherit()).output().expect("cargo runs");
        assert!(built.status.success(), "the tests are built");
        let lines = built.stdout.split(|byte| *byte == b'\n');
        let artifacts = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let found = artifacts.filter_map(|artifact| {
            let (name, path) = (&artifact["target"]["name"], &artifact["executable"]);
            Some((name.as_str()?.to_owned(), path.as_str()?.into()))
        });
        found.collect()
    }
}

impl Tests {
    /// Builds them.
    pub(crate) fn build(builds: &[Build<'_>]) -> Self {
        Self(builds.iter().flat_map(Build::run).collect())
    }

    /// Where a test binary is.
    pub(crate) fn path(&self, name: &str) -> &Path {
        &self.0[name]
    }
}

/// A process that does not outlive this one's interest in it.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
