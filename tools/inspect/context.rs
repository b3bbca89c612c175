//! What every command has: the directory, how to answer, where to.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use braidlog::{
    offline::{Directory, Holder, RunLog, Survey},
    platform::os,
};

use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// What every command has.
pub(crate) struct Context {
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Namespace of the runs that are named.
    pub(crate) namespace: String,
    /// Whether to answer in JSON.
    pub(crate) json: bool,
    /// Whether a running server has to give way, and not this process.
    urgent: bool,
    /// Where answers go.
    pub(crate) out: Output,
}

impl Context {
    /// What the arguments say.
    pub(crate) fn new(data_dir: PathBuf, namespace: String, json: bool, urgent: bool) -> Self {
        Self { data_dir, namespace, json, urgent, out: Output::new() }
    }

    /// The directory. If a process has the store open, this one gives way to it, unless it must not.
    pub(crate) fn directory(&self) -> Result<Directory, Failure> {
        let directory = Directory::open(&self.data_dir)?;
        if !self.urgent && directory.holder() != Holder::Nobody {
            os::give_way();
        }
        Ok(directory)
    }

    /// What is in the directory.
    pub(crate) fn survey(&self) -> Result<Survey, Failure> {
        Ok(self.directory()?.survey()?)
    }

    /// The log of a run of the namespace that was said.
    pub(crate) fn find<'a>(&self, survey: &'a Survey, run_id: &str) -> Result<RunLog<'a>, Failure> {
        Ok(survey.find(&self.namespace, run_id)?)
    }

    /// Says something to a person beside the answer.
    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            // There is nobody left to tell if this fails.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// The exit status of an answer from a directory with these problems, which are told in short.
    pub(crate) fn ended(&self, survey: &Survey) -> Exit {
        if survey.problems.is_empty() {
            return Exit::Ok;
        }
        let (count, first) = (survey.problems.len(), &survey.problems[0]);
        self.note(&format!(
            "! {count} damaged {}, first {}@{:#x}: {}; see `braidlog-inspect verify`",
            if count == 1 { "place" } else { "places" },
            first.file,
            first.position,
            first.damage,
        ));
        Exit::Corrupt
    }
}
