//! The list of settings: what each is called, what it is, and where it goes.
//!
//! This is the one place that knows; reading, checking, printing and the names of variables follow
//! from it.

use std::{ffi::OsStr, fmt, str::FromStr};

use super::{Config, LogFormat};
use crate::present::quantity;
use crate::{
    core::{AtLimit, Retention},
    format::compress::Codec,
};

/// A setting.
pub struct Setting {
    /// Its name; with a dot, what is behind it stands in the table before it.
    pub key: &'static str,
    /// What the store calls it.
    pub(super) option: &'static str,
    pub(super) value: Value,
}

/// What a setting is, and where it goes.
pub(super) enum Value {
    Path(fn(&mut Config) -> &mut std::path::PathBuf),
    Text(fn(&mut Config) -> &mut String),
    LogFormat(fn(&mut Config) -> &mut LogFormat),
    Codec(fn(&mut Config) -> &mut Codec),
    Count(fn(&mut Config) -> &mut u32),
    Bytes(fn(&mut Config) -> &mut u64),
    /// Bytes of memory.
    Memory(fn(&mut Config) -> &mut usize),
    /// Milliseconds.
    Duration(fn(&mut Config) -> &mut u64),
    /// Of the store's default.
    Kept(Kept),
}

/// A part of what is kept of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Age,
    Bytes,
    Records,
    AtLimit,
}

/// The word for no limit.
const NONE: &str = "none";
const CODECS: [(&str, Codec); 3] =
    [("none", Codec::None), ("lz4", Codec::Lz4), ("zstd", Codec::Zstd)];
const AT_LIMITS: [(&str, AtLimit); 2] =
    [("reject", AtLimit::Reject), ("trim_oldest", AtLimit::TrimOldest)];

const fn setting(key: &'static str, value: Value) -> Setting {
    Setting { key, option: key, value }
}

const fn option(key: &'static str, option: &'static str, value: Value) -> Setting {
    Setting { key, option, value }
}

/// All settings but those of single namespaces, in the order in which they are printed. Those
/// without a dot come first.
pub static SETTINGS: [Setting; 20] = [
    setting("data_dir", Value::Path(|config| &mut config.store.data_dir)),
    setting("listen", Value::Text(|config| &mut config.listen)),
    setting("log", Value::Text(|config| &mut config.log)),
    setting("log_format", Value::LogFormat(|config| &mut config.log_format)),
    setting("slot_bytes", Value::Bytes(|config| &mut config.store.slot_bytes)),
    option(
        "journal_slots",
        "journal_slots_max",
        Value::Count(|config| &mut config.store.journal_slots_max),
    ),
    setting("flush_bytes", Value::Bytes(|config| &mut config.store.flush_bytes)),
    option(
        "flush_after",
        "flush_after_ms",
        Value::Duration(|config| &mut config.store.flush_after_ms),
    ),
    option(
        "unflushed_bytes",
        "unflushed_bytes_max",
        Value::Bytes(|config| &mut config.store.unflushed_bytes_max),
    ),
    setting("pack_bytes", Value::Bytes(|config| &mut config.store.pack_bytes)),
    option("compression", "codec", Value::Codec(|config| &mut config.store.codec)),
    setting("ring_bytes", Value::Memory(|config| &mut config.store.ring_bytes)),
    setting("resident_bytes", Value::Memory(|config| &mut config.store.resident_bytes)),
    setting("cache_bytes", Value::Memory(|config| &mut config.store.cache_bytes)),
    setting("index_cache_bytes", Value::Bytes(|config| &mut config.store.index_cache_bytes)),
    setting("disk_reserve_bytes", Value::Bytes(|config| &mut config.store.disk_reserve_bytes)),
    setting("retention.age", Value::Kept(Kept::Age)),
    setting("retention.bytes", Value::Kept(Kept::Bytes)),
    setting("retention.records", Value::Kept(Kept::Records)),
    setting("retention.at_limit", Value::Kept(Kept::AtLimit)),
];

impl Setting {
    /// The setting of this name.
    pub(super) fn named(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The setting that the store calls so.
    pub(super) fn of_option(option: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.option == option)
    }

    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("BRAIDLOG_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Reads a value into its place.
    pub(super) fn read(&self, config: &mut Config, value: &OsStr) -> Result<(), String> {
        if let Value::Path(place) = self.value {
            *place(config) = value.into();
            return Ok(());
        }
        let text = value.to_str().ok_or("is not UTF-8")?;
        self.read_text(config, text).map_err(|problem| format!("is {text:?}: {problem}"))
    }

    fn read_text(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match self.value {
            Value::Path(place) => *place(config) = text.into(),
            Value::Text(place) => *place(config) = text.into(),
            Value::LogFormat(place) => *place(config) = text.parse()?,
            Value::Codec(place) => *place(config) = word(text, &CODECS)?,
            Value::Count(place) => *place(config) = number(text)?,
            Value::Bytes(place) => *place(config) = told(quantity::bytes(text))?,
            Value::Memory(place) => {
                let bytes = told(quantity::bytes(text))?;
                *place(config) = bytes.try_into().map_err(|_| "is more than any memory")?;
            }
            Value::Duration(place) => *place(config) = told(quantity::duration_ms(text))?,
            Value::Kept(kept) => return kept.read(&mut config.store.retention, text),
        }
        Ok(())
    }

    /// The value as it would stand in a file.
    pub(super) fn show(&self, config: &Config) -> String {
        // The places are for writing; this is done once.
        let config = &mut config.clone();
        match self.value {
            Value::Path(place) => quoted(&place(config).to_string_lossy()),
            Value::Text(place) => quoted(place(config)),
            Value::LogFormat(place) => quoted(place(config).as_str()),
            Value::Codec(place) => quoted(name(*place(config), &CODECS)),
            Value::Count(place) => place(config).to_string(),
            Value::Bytes(place) => quoted(&quantity::exact_size(*place(config))),
            Value::Memory(place) => quoted(&quantity::exact_size(*place(config) as u64)),
            Value::Duration(place) => quoted(&quantity::duration(*place(config))),
            Value::Kept(kept) => kept.show(&config.store.retention),
        }
    }
}

impl Kept {
    /// The parts, by their names in a file.
    pub(super) const ALL: [(&'static str, Self); 4] = [
        ("age", Self::Age),
        ("bytes", Self::Bytes),
        ("records", Self::Records),
        ("at_limit", Self::AtLimit),
    ];

    /// Reads a part of a policy.
    pub(super) fn read(self, retention: &mut Retention, text: &str) -> Result<(), String> {
        match self {
            Self::Age => {
                retention.age_ms = limit(text, |text| told(quantity::duration_ms(text)))?;
            }
            Self::Bytes => retention.bytes = limit(text, |text| told(quantity::bytes(text)))?,
            Self::Records => retention.records = limit(text, number)?,
            Self::AtLimit => retention.at_limit = word(text, &AT_LIMITS)?,
        }
        Ok(())
    }

    /// A part of a policy as it would stand in a file.
    pub(super) fn show(self, retention: &Retention) -> String {
        let or_none = |text: Option<String>| quoted(text.as_deref().unwrap_or(NONE));
        match self {
            Self::Age => or_none(retention.age_ms.map(quantity::duration)),
            Self::Bytes => or_none(retention.bytes.map(quantity::exact_size)),
            Self::Records => {
                retention.records.map_or_else(|| quoted(NONE), |records| records.to_string())
            }
            Self::AtLimit => quoted(name(retention.at_limit, &AT_LIMITS)),
        }
    }
}

/// Text as it stands in a file.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn told<T>(read: Result<T, impl fmt::Display>) -> Result<T, String> {
    read.map_err(|error| error.to_string())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number".into())
}

fn limit<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == NONE {
        return Ok(None);
    }
    read(text).map(Some).map_err(|problem| format!("{problem}, or {NONE}"))
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    let names = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
    found.ok_or_else(|| format!("must be {}", names()))
}

fn name<T: PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}
