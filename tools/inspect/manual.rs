//! `completions` and `man`: what a shell and a reader of manuals want of the tool.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{
    args::Cli,
    context::Context,
    exit::{Exit, Failure},
};

/// A shell's completions, to standard output
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn completions(context: &mut Context, args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    let mut command = Cli::command();
    clap_complete::generate(args.shell, &mut command, "braidlog-inspect", &mut text);
    context.out.bytes(&text)?;
    Ok(Exit::Ok)
}

pub(crate) fn man(context: &mut Context) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
    rendered.map_err(|error| Failure::io("the manual page", &error))?;
    context.out.bytes(&text)?;
    Ok(Exit::Ok)
}
