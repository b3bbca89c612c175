//! Settings of the server: what they are, where each value comes from, and whether it can be used.
//!
//! A value comes from the first source that gives one: command line, environment, file, default.
//! [`Config::check`] refuses what cannot be used and never repairs it. A key of the file that is
//! not known is an error that names it; an unknown `BRAIDLOG_…` variable is only reported, since
//! other programs may share the environment.
//!
//! Sizes and durations have units, as in `64MiB` and `28d`; a size without is bytes. What can be
//! set stands in [`list`]. Only a file has settings of single namespaces: a table
//! `[retention.namespaces.NAME]` each, where what is not said is as in `[retention]`.
//!
//! What it deliberately does not do: read the environment or the command line itself, expand
//! paths, or reload.

pub mod list;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use toml::de::{DeTable, DeValue};

use self::list::{Kept, SETTINGS, Setting, quoted};
use crate::{
    core::{AtLimit, Retention},
    engine::Options,
    error::OpenError,
    record::{RUN_ID_BYTES_MAX, check_name},
};

/// Everything the server can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: String,
    /// Which log lines are written, as in `info,braidlog=debug`.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,
    /// How the store is opened.
    pub store: Options,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word that stands for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json".into()),
        }
    }
}

/// What one source says, as it is written there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layer {
    /// Values of settings, by key.
    values: BTreeMap<&'static str, OsString>,
    /// What is said of retention in single namespaces, by namespace and part.
    namespaces: BTreeMap<String, BTreeMap<&'static str, String>>,
}

/// The variable that names the file.
pub const ENV_CONFIG: &str = "BRAIDLOG_CONFIG";
/// The variable that names the server for other commands than `serve`.
pub const ENV_SERVER: &str = "BRAIDLOG_SERVER";
/// The variable that chooses log lines, of every command.
pub const ENV_LOG: &str = "BRAIDLOG_LOG";

/// Address and port of a server that is told nothing.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:4480";
/// Data directory of a server that is told nothing.
pub const DEFAULT_DATA_DIR: &str = "./braidlog-data";
/// Log lines of a server that is told nothing.
pub const DEFAULT_LOG: &str = "info";

/// Why settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        problem: String,
    },
    /// A value cannot be used.
    #[error("{key} ({origin}) {problem}")]
    Value {
        /// Name of the setting, or of the variable that sets it.
        key: String,
        /// Where the value comes from.
        origin: Origin,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// A file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Where each value of a [`Config`] comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of a setting comes from.
    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }
}

impl Layer {
    /// Says what a setting is, by its key.
    ///
    /// # Panics
    /// If there is no such setting; that is our own mistake.
    pub fn set(&mut self, key: &str, value: impl Into<OsString>) {
        let setting = Setting::named(key).expect("a setting of the list");
        self.values.insert(setting.key, value.into());
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ConfigError::File`] for text that is not TOML, unknown keys and values of a wrong type.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let refused = |problem: String| ConfigError::File { path: path.to_owned(), problem };
        let table = DeTable::parse(text)
            .map_err(|error| refused(error.to_string().trim_end().to_owned()))?;
        let mut layer = Self::default();
        layer.take(&mut Vec::new(), table.get_ref()).map_err(|Misplaced { at, problem }| {
            let line = text[..at].lines().count().max(1);
            refused(format!("line {line}: {problem}"))
        })?;
        Ok(layer)
    }

    /// Takes in a table of a file; `names` are those of the tables that it stands in.
    fn take<'a>(
        &mut self,
        names: &mut Vec<&'a str>,
        table: &'a DeTable<'_>,
    ) -> Result<(), Misplaced> {
        for (name, value) in table {
            names.push(name.get_ref());
            // The byte behind the key, since a key may begin a line.
            let at = name.span().end;
            let misplaced = |problem| Misplaced { at, problem };
            let text = match value.get_ref() {
                DeValue::Table(table) if is_table(names) => {
                    self.take(names, table)?;
                    names.pop();
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                _ => {
                    let problem = format!("{} is neither text nor a number", names.join("."));
                    return Err(misplaced(problem));
                }
            };
            if !self.put(names, text) {
                return Err(misplaced(format!("{} is not known", names.join("."))));
            }
            names.pop();
        }
        Ok(())
    }

    /// Takes in a value of a file; false if there is nothing of that name.
    fn put(&mut self, names: &[&str], text: String) -> bool {
        if let ["retention", "namespaces", namespace, part] = names {
            let known = Kept::ALL.iter().find(|(name, _)| name == part);
            let Some((part, _)) = known else { return false };
            self.namespaces.entry((*namespace).into()).or_default().insert(part, text);
            return true;
        }
        let Some(setting) = Setting::named(&names.join(".")) else { return false };
        self.values.insert(setting.key, text.into());
        true
    }

    /// Reads the variables of an environment. Also the names that start with `BRAIDLOG_` and mean
    /// nothing.
    pub fn from_env(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> (Self, Vec<String>) {
        let (mut layer, mut unknown) = (Self::default(), Vec::new());
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("BRAIDLOG_")) else {
                continue;
            };
            match SETTINGS.iter().find(|setting| setting.variable() == name) {
                Some(setting) => layer.set(setting.key, value),
                None if [ENV_CONFIG, ENV_SERVER].contains(&name) => {}
                None => unknown.push(name.to_owned()),
            }
        }
        (layer, unknown)
    }
}

/// A key of a file that has no place there.
struct Misplaced {
    /// Bytes before it.
    at: usize,
    problem: String,
}

/// Whether a file may have a table of this name.
fn is_table(names: &[&str]) -> bool {
    matches!(names, ["retention"] | ["retention", "namespaces"] | ["retention", "namespaces", _])
}

impl Config {
    /// The settings of a server that is told nothing.
    pub fn new() -> Self {
        Self {
            listen: DEFAULT_LISTEN.into(),
            log: DEFAULT_LOG.into(),
            log_format: LogFormat::Text,
            store: Options::new(DEFAULT_DATA_DIR),
        }
    }

    /// Takes each value from the first layer that has it, and its default if none does.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first that is not one of those allowed.
    pub fn resolve(layers: &[(Origin, Layer)]) -> Result<(Self, Origins), ConfigError> {
        let (mut config, mut origins) = (Self::new(), Origins::default());
        for setting in &SETTINGS {
            let given = |(origin, layer): &'_ (Origin, Layer)| {
                Some((origin.clone(), layer.values.get(setting.key)?.clone()))
            };
            let Some((origin, value)) = layers.iter().find_map(given) else { continue };
            setting.read(&mut config, &value).map_err(|problem| {
                let key = match origin {
                    Origin::Environment => setting.variable(),
                    _ => setting.key.to_owned(),
                };
                ConfigError::Value { key, origin: origin.clone(), problem }
            })?;
            origins.0.insert(setting.key.to_owned(), origin);
        }
        for (origin, layer) in layers.iter().rev() {
            for (namespace, parts) in &layer.namespaces {
                config.resolve_namespace(namespace, parts, origin, &mut origins)?;
            }
        }
        Ok((config, origins))
    }

    fn resolve_namespace(
        &mut self,
        namespace: &str,
        parts: &BTreeMap<&'static str, String>,
        origin: &Origin,
        origins: &mut Origins,
    ) -> Result<(), ConfigError> {
        let Options { retention, retention_by_namespace, .. } = &mut self.store;
        let of_namespace = retention_by_namespace.entry(namespace.into()).or_insert(*retention);
        for (name, kept) in Kept::ALL {
            let Some(text) = parts.get(name) else { continue };
            let key = namespace_key(namespace, name);
            kept.read(of_namespace, text).map_err(|problem| ConfigError::Value {
                key: key.clone(),
                origin: origin.clone(),
                problem: format!("is {text:?}: {problem}"),
            })?;
            origins.0.insert(key, origin.clone());
        }
        Ok(())
    }

    /// Refuses values that cannot work. What only the system can tell, such as whether the address
    /// is free, comes out when it is used.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first that cannot be used.
    pub fn check(&self, origins: &Origins) -> Result<(), ConfigError> {
        let refused = |key: &str, problem: String| {
            let origin = origins.of(key).clone();
            Err(ConfigError::Value { key: key.to_owned(), origin, problem })
        };
        if self.store.data_dir.as_os_str().is_empty() {
            return refused("data_dir", "is empty".into());
        }
        let port = self.listen.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let problem = format!(
                "must be an address and a port, such as {DEFAULT_LISTEN}, not {:?}",
                self.listen
            );
            return refused("listen", problem);
        }
        if let Some((part, problem)) = contradiction(&self.store.retention) {
            return refused(&format!("retention.{part}"), problem.into());
        }
        for (namespace, retention) in &self.store.retention_by_namespace {
            if let Err(error) = check_name(namespace, RUN_ID_BYTES_MAX) {
                let key = format!("retention.namespaces.{}", quoted(namespace));
                return refused(&key, error.to_string());
            }
            if let Some((part, problem)) = contradiction(retention) {
                return refused(&namespace_key(namespace, part), problem.into());
            }
        }
        match self.store.check() {
            Ok(()) => Ok(()),
            Err(OpenError::Options { option, problem }) => {
                let setting = Setting::of_option(option);
                refused(setting.map_or(option, |setting| setting.key), problem.to_owned())
            }
            Err(other) => refused("data_dir", other.to_string()),
        }
    }

    /// The settings as lines of a file, each with its origin as a comment.
    pub fn to_toml(&self, origins: &Origins) -> String {
        let mut tables: Vec<(String, Vec<[String; 3]>)> = vec![(String::new(), Vec::new())];
        for setting in &SETTINGS {
            let (table, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
            let row = [name.into(), setting.show(self), origins.of(setting.key).to_string()];
            match tables.last_mut().filter(|(last, _)| last == table) {
                Some((_, rows)) => rows.push(row),
                None => tables.push((table.into(), vec![row])),
            }
        }
        for (namespace, retention) in &self.store.retention_by_namespace {
            let row = |(name, kept): (&str, Kept)| {
                let origin = origins.of(&namespace_key(namespace, name)).to_string();
                [name.into(), kept.show(retention), origin]
            };
            let name = format!("retention.namespaces.{}", quoted(namespace));
            tables.push((name, Kept::ALL.into_iter().map(row).collect()));
        }
        tables.iter().map(|(name, rows)| table_text(name, rows)).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

fn namespace_key(namespace: &str, part: &str) -> String {
    format!("retention.namespaces.{}.{part}", quoted(namespace))
}

/// What of a policy cannot be meant, and why.
fn contradiction(retention: &Retention) -> Option<(&'static str, &'static str)> {
    let zero = "is 0: nothing could be appended";
    match *retention {
        Retention { bytes: Some(0), .. } => Some(("bytes", zero)),
        Retention { records: Some(0), .. } => Some(("records", zero)),
        Retention { bytes: None, records: None, at_limit: AtLimit::TrimOldest, .. } => {
            Some(("at_limit", "is trim_oldest, but there is no limit: bytes or records"))
        }
        _ => None,
    }
}

/// A table of a file: rows of key, value and comment.
fn table_text(name: &str, rows: &[[String; 3]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (keys, values) = (width(0), width(1));
    let row = |[key, value, comment]: &[String; 3]| {
        // A path may hold what would end the comment.
        let comment = comment.escape_debug();
        format!("{key:<keys$} = {value:<values$}  # {comment}\n")
    };
    let head = if name.is_empty() { String::new() } else { format!("\n[{name}]\n") };
    head + &rows.iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> (Layer, Vec<String>) {
        Layer::from_env(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    fn file(text: &str) -> (Origin, Layer) {
        let path = PathBuf::from("b.toml");
        let layer = Layer::from_toml(&path, text).expect("file");
        (Origin::File(path), layer)
    }

    /// What is refused of a file, when it is read or when it is checked.
    fn refusal(text: &str) -> String {
        let path = PathBuf::from("b.toml");
        let refused = Layer::from_toml(&path, text).and_then(|layer| {
            let (config, origins) = Config::resolve(&[(Origin::File(path), layer)])?;
            config.check(&origins)
        });
        refused.expect_err(text).to_string()
    }

    #[test]
    fn the_first_source_that_gives_a_value_wins() {
        let mut flags = Layer::default();
        flags.set("data_dir", "flag");
        let variables = [
            ("BRAIDLOG_DATA_DIR", "env"),
            ("BRAIDLOG_LISTEN", "env:1"),
            ("BRAIDLOG_SLOT_BYTES", "64KiB"),
            ("BRAIDLOG_RETENTION_AGE", "1w"),
        ];
        let text = "data_dir = 'file'\nlisten = 'file:1'\nlog = 'file'\nring_bytes = 7\n\
            [retention]\nage = '2d'\nrecords = 5";
        let from_file = file(text);
        let path = from_file.0.clone();
        let layers = [(Origin::Flag, flags), (Origin::Environment, env(&variables).0), from_file];
        let (config, origins) = Config::resolve(&layers).expect("settings");
        let mut expected = Config::new();
        (expected.listen, expected.log) = ("env:1".into(), "file".into());
        expected.store.data_dir = "flag".into();
        (expected.store.slot_bytes, expected.store.ring_bytes) = (65_536, 7);
        expected.store.retention =
            Retention { age_ms: Some(604_800_000), records: Some(5), ..Retention::default() };
        assert_eq!(config, expected);
        for (key, origin) in [
            ("data_dir", &Origin::Flag),
            ("listen", &Origin::Environment),
            ("log", &path),
            ("log_format", &Origin::Default),
            ("retention.age", &Origin::Environment),
            ("retention.records", &path),
        ] {
            assert_eq!(origins.of(key), origin, "{key}");
        }
    }

    #[test]
    fn the_settings_printed_read_back_as_the_same() {
        let mut config = Config::new();
        config.store.data_dir = r#"a "quoted" \ path # with all"#.into();
        config.store.codec = crate::format::compress::Codec::Lz4;
        (config.store.flush_after_ms, config.store.cache_bytes) = (90_001, 0);
        let trimmed =
            Retention { bytes: Some(1_001), at_limit: AtLimit::TrimOldest, ..Retention::default() };
        for namespace in ["a", "b.c \"d\""] {
            config.store.retention_by_namespace.insert(namespace.into(), trimmed);
        }
        for retention in [config.store.retention, Retention::default(), trimmed] {
            config.store.retention = retention;
            let layers = [file(&config.to_toml(&Origins::default()))];
            let (again, origins) = Config::resolve(&layers).expect("settings");
            assert_eq!(again, config);
            let keys = SETTINGS.iter().all(|setting| origins.of(setting.key) == &layers[0].0);
            assert!(keys, "every setting is printed");
            assert_eq!(file(&again.to_toml(&origins)), layers[0]);
        }
    }

    #[test]
    fn every_setting_is_read_from_its_variable() {
        for setting in &SETTINGS {
            let value = match setting.show(&Config::new()) {
                text if text.starts_with('"') => text.trim_matches('"').to_owned(),
                number => number,
            };
            let (layer, unknown) = env(&[(&setting.variable(), &value)]);
            assert!(unknown.is_empty(), "{unknown:?}");
            let resolved = Config::resolve(&[(Origin::Environment, layer)]);
            let (config, origins) = resolved.expect(setting.key);
            assert_eq!(config, Config::new(), "{}", setting.key);
            assert_eq!(origins.of(setting.key), &Origin::Environment);
        }
    }

    #[test]
    fn a_namespace_is_as_the_store_where_nothing_else_is_said() {
        let text = "[retention]\nrecords = 9\n[retention.namespaces.ci]\nage = '1d'\n\
            [retention.namespaces.'a b']\nrecords = 'none'\nage = 'none'";
        let (config, origins) = Config::resolve(&[file(text)]).expect("settings");
        assert_eq!(config.check(&origins), Ok(()));
        let kept = |namespace: &str| config.store.retention_by_namespace[namespace];
        let day = Retention { age_ms: Some(86_400_000), records: Some(9), ..Retention::default() };
        assert_eq!(kept("ci"), day);
        assert_eq!(kept("a b"), Retention::default());
    }

    #[test]
    fn an_unknown_key_of_the_file_is_refused_by_name_and_line() {
        for (text, words) in [
            ("lissten = 'x'", "b.toml: line 1: lissten is not known"),
            ("log = 'x'\n[retention]\nagge = '1d'", "line 3: retention.agge is not known"),
            ("[retention.namespaces.x]\nfoo = 1", "line 2: retention.namespaces.x.foo"),
            ("[listen]\na = 1", "listen is neither"),
            ("[other]\na = 1", "other is neither"),
            ("retention = '1d'", "retention is not known"),
            ("log = true", "log is neither text nor a number"),
            ("log = ", "b.toml: TOML"),
        ] {
            assert!(refusal(text).contains(words), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn unknown_variables_are_reported_and_wrong_values_refused() {
        let known = [("BRAIDLOG_SERVER", "x"), ("BRAIDLOG_CONFIG", "x"), ("PATH", "x")];
        assert_eq!(env(&known), (Layer::default(), vec![]));
        assert_eq!(env(&[("BRAIDLOG_LISSTEN", "x")]).1, ["BRAIDLOG_LISSTEN"]);
        for (name, value) in [("BRAIDLOG_LOG_FORMAT", "xml"), ("BRAIDLOG_RING_BYTES", "1 XiB")] {
            let layer = env(&[(name, value)]).0;
            let error = Config::resolve(&[(Origin::Environment, layer)]).expect_err("refused");
            let error = error.to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_defaults_can_be_used_and_values_that_cannot_are_refused() {
        let (config, origins) = (Config::new(), Origins::default());
        assert_eq!(config.check(&origins), Ok(()));
        for listen in ["[::1]:0", "localhost:4480"] {
            let config = Config { listen: listen.into(), ..config.clone() };
            assert_eq!(config.check(&origins), Ok(()), "{listen}");
        }
        for listen in ["", "4480", ":4480", "host:", "host:65536", "host"] {
            let config = Config { listen: listen.into(), ..config.clone() };
            assert!(config.check(&origins).is_err(), "{listen}");
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_refused_by_name() {
        for (text, words) in [
            ("data_dir = ''", "data_dir (b.toml) is empty"),
            ("slot_bytes = 67108865", "slot_bytes (b.toml) is not a multiple of 4096"),
            ("journal_slots = 2", "journal_slots (b.toml) is less than 3"),
            ("journal_slots = 'many'", "journal_slots (b.toml) is \"many\": expected a whole"),
            ("unflushed_bytes = '1MiB'", "unflushed_bytes (b.toml) is less than twice flush_bytes"),
            ("flush_bytes = 0", "flush_bytes (b.toml) is zero"),
            ("pack_bytes = '0B'", "pack_bytes (b.toml) is zero"),
            ("flush_after = 60", "flush_after (b.toml) is \"60\": expected a number with ms"),
            ("compression = 'gzip'", "must be none or lz4 or zstd"),
            ("[retention]\nage = '1 month'", "retention.age (b.toml)"),
            ("[retention]\nbytes = 0", "retention.bytes (b.toml) is 0"),
            ("[retention]\nat_limit = 'trim_oldest'", "retention.at_limit (b.toml) is trim_oldest"),
            (
                "[retention.namespaces.x]\nrecords = 0",
                "retention.namespaces.\"x\".records (b.toml)",
            ),
            ("[retention.namespaces.'$x']\nage = '1d'", "retention.namespaces.\"$x\""),
        ] {
            assert!(refusal(text).contains(words), "{text}: {}", refusal(text));
        }
    }
}
