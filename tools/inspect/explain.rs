//! `explain`: what the bytes at a place mean, field by field.
//!
//! JSON, one object: `explained` with `what`, `file`, `position`, `bytes`, `fields` (each with `position`, `name`, `value`,
//! `hex`, and `sound` where something tells), `problem` and `wrong_byte`, `wrong_bits` if it is damaged, `notes`.

use braidlog::offline::{Explained, Field};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

/// What the bytes at a place mean, field by field
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// FILE@OFFSET, as `verify` and `records --where` name it
    #[arg(value_name = "FILE@OFFSET")]
    place: String,
}

#[derive(Serialize)]
struct Row<'a> {
    r#type: &'static str,
    what: &'static str,
    file: &'a str,
    position: u64,
    bytes: u64,
    fields: Vec<FieldRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong_byte: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong_bits: Option<u8>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct FieldRow<'a> {
    position: u64,
    name: &'static str,
    value: &'a str,
    hex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<bool>,
}

pub(crate) fn run(context: &mut Context, args: &ExplainArgs) -> Result<Exit, Failure> {
    let (file, position) = place(&args.place)?;
    let survey = context.survey()?;
    let explained = survey.explain(file, position)?;
    match context.json {
        true => context.out.json(row(file, &explained))?,
        false => text(context, &explained)?,
    }
    Ok(if explained.damage.is_some() { Exit::Corrupt } else { Exit::Ok })
}

fn place(text: &str) -> Result<(&str, u64), Failure> {
    let (file, offset) = text.rsplit_once('@').unwrap_or((text, "0"));
    let number = match offset.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => offset.parse(),
    };
    let wrong = || Failure::usage(format!("{offset:?} is no offset: give FILE@1234 or FILE@0x4d2"));
    Ok((file, number.map_err(|_| wrong())?))
}

fn row<'a>(file: &'a str, explained: &'a Explained) -> Row<'a> {
    let field = |field: &'a Field| FieldRow {
        position: field.position,
        name: field.name,
        value: &field.value,
        hex: field.raw.iter().map(|byte| format!("{byte:02x}")).collect(),
        sound: field.is_sound,
    };
    Row {
        r#type: "explained",
        what: explained.what,
        file,
        position: explained.position,
        bytes: explained.bytes,
        fields: explained.fields.iter().map(field).collect(),
        problem: explained.damage.map(|damage| damage.to_string()),
        wrong_byte: explained.wrong.map(|wrong| wrong.at),
        wrong_bits: explained.wrong.map(|wrong| wrong.bits),
        notes: &explained.notes,
    }
}

/// Bytes of a field that a line shows.
const BYTES_SHOWN: usize = 8;

fn text(context: &mut Context, explained: &Explained) -> Result<(), Failure> {
    context.out.line(format!(
        "{} of {} bytes at {:#x}",
        explained.what, explained.bytes, explained.position
    ))?;
    for field in &explained.fields {
        let mut hex: String =
            field.raw.iter().take(BYTES_SHOWN).map(|byte| format!("{byte:02x} ")).collect();
        if BYTES_SHOWN < field.raw.len() {
            hex.push('…');
        }
        let mark = if field.is_sound == Some(false) { "  ✗" } else { "" };
        let Field { position, name, value, .. } = field;
        context.out.line(format!("{position:08x}  {hex:<26}{name:<22} {value}{mark}"))?;
    }
    for note in &explained.notes {
        context.out.line(note)?;
    }
    if let Some(damage) = explained.damage {
        context.out.line(format!("✗ {damage}"))?;
    }
    let Some(wrong) = explained.wrong else {
        if explained.damage.is_some() {
            context.out.line("no single byte explains it")?;
        }
        return Ok(());
    };
    let how = match wrong.single_bit() {
        Some(bit) => format!("flipping bit {bit} of the byte at {:#x}", wrong.at),
        None => format!("changing the byte at {:#x} by {:#04x}", wrong.at, wrong.bits),
    };
    context.out.line(format!("single-byte search: {how} makes the crc match"))
}
