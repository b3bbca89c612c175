//! Settings of the server: what they are, where each value comes from, and whether it can be used.
//!
//! A value comes from the first source that gives one: command line, environment, file, default.
//! [`Config::check`] refuses what cannot be used and never repairs it. A key of the file that is
//! not known is an error that names it; an unknown `BRAIDLOG_…` variable is only reported, since
//! other programs may share the environment.
//!
//! What it deliberately does not do: read the environment or the command line itself, expand
//! paths, or reload.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use crate::{engine::Options, error::OpenError};

/// Everything the server can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory of the store; created if it does not exist.
    pub data_dir: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: String,
    /// Which log lines are written, as in `info,braidlog=debug`.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,
    /// Bytes of every journal file but the first of a start. A multiple of 4 KiB.
    pub slot_bytes: u64,
    /// Bytes of recent records that are kept in memory for readers at the tail.
    pub ring_bytes: usize,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// What one source says; none where it says nothing. Also the content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// See [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// See [`Config::listen`].
    pub listen: Option<String>,
    /// See [`Config::log`].
    pub log: Option<String>,
    /// See [`Config::log_format`].
    pub log_format: Option<LogFormat>,
    /// See [`Config::slot_bytes`].
    pub slot_bytes: Option<u64>,
    /// See [`Config::ring_bytes`].
    pub ring_bytes: Option<usize>,
}

/// The variable that names the file.
pub const ENV_CONFIG: &str = "BRAIDLOG_CONFIG";
/// The variable that names the server for other commands than `serve`.
pub const ENV_SERVER: &str = "BRAIDLOG_SERVER";
/// The variable that chooses log lines, of every command.
pub const ENV_LOG: &str = "BRAIDLOG_LOG";
const ENV_DATA_DIR: &str = "BRAIDLOG_DATA_DIR";
const ENV_LISTEN: &str = "BRAIDLOG_LISTEN";
const ENV_LOG_FORMAT: &str = "BRAIDLOG_LOG_FORMAT";
const ENV_SLOT_BYTES: &str = "BRAIDLOG_SLOT_BYTES";
const ENV_RING_BYTES: &str = "BRAIDLOG_RING_BYTES";

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
        /// Name of the setting.
        key: &'static str,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// Of [`Config::data_dir`].
    pub data_dir: Origin,
    /// Of [`Config::listen`].
    pub listen: Origin,
    /// Of [`Config::log`].
    pub log: Origin,
    /// Of [`Config::log_format`].
    pub log_format: Origin,
    /// Of [`Config::slot_bytes`].
    pub slot_bytes: Origin,
    /// Of [`Config::ring_bytes`].
    pub ring_bytes: Origin,
}

impl Layer {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ConfigError::File`] for text that is not TOML, unknown keys and values of a wrong type.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::File {
            path: path.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        })
    }

    /// Reads the variables of an environment. Also the names that start with `BRAIDLOG_` and mean
    /// nothing.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a value that is not one of those allowed.
    pub fn from_env(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let (mut layer, mut unknown) = (Self::default(), Vec::new());
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            match name {
                ENV_DATA_DIR => layer.data_dir = Some(value.into()),
                ENV_LISTEN => layer.listen = Some(env_text(ENV_LISTEN, value)?),
                ENV_LOG => layer.log = Some(env_text(ENV_LOG, value)?),
                ENV_LOG_FORMAT => layer.log_format = Some(env_parsed(ENV_LOG_FORMAT, value)?),
                ENV_SLOT_BYTES => layer.slot_bytes = Some(env_parsed(ENV_SLOT_BYTES, value)?),
                ENV_RING_BYTES => layer.ring_bytes = Some(env_parsed(ENV_RING_BYTES, value)?),
                ENV_CONFIG | ENV_SERVER => {}
                _ if name.starts_with("BRAIDLOG_") => unknown.push(name.to_owned()),
                _ => {}
            }
        }
        Ok((layer, unknown))
    }
}

impl Config {
    /// Takes each value from the first layer that has it, and its default if none does.
    pub fn resolve(layers: &[(Origin, Layer)]) -> (Self, Origins) {
        let store = Options::new("");
        let data_dir = first(layers, |layer| layer.data_dir.clone(), DEFAULT_DATA_DIR.into());
        let listen = first(layers, |layer| layer.listen.clone(), DEFAULT_LISTEN.into());
        let log = first(layers, |layer| layer.log.clone(), DEFAULT_LOG.into());
        let log_format = first(layers, |layer| layer.log_format, LogFormat::Text);
        let slot_bytes = first(layers, |layer| layer.slot_bytes, store.slot_bytes);
        let ring_bytes = first(layers, |layer| layer.ring_bytes, store.ring_bytes);
        let config = Self {
            data_dir: data_dir.0,
            listen: listen.0,
            log: log.0,
            log_format: log_format.0,
            slot_bytes: slot_bytes.0,
            ring_bytes: ring_bytes.0,
        };
        let origins = Origins {
            data_dir: data_dir.1,
            listen: listen.1,
            log: log.1,
            log_format: log_format.1,
            slot_bytes: slot_bytes.1,
            ring_bytes: ring_bytes.1,
        };
        (config, origins)
    }

    /// Refuses values that cannot work. What only the system can tell, such as whether the address
    /// is free, comes out when it is used.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first that cannot be used.
    pub fn check(&self, origins: &Origins) -> Result<(), ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(refused("data_dir", &origins.data_dir, "is empty".into()));
        }
        let port = self.listen.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let problem = format!(
                "must be an address and a port, such as {DEFAULT_LISTEN}, not {:?}",
                self.listen
            );
            return Err(refused("listen", &origins.listen, problem));
        }
        let problem = match self.options().check() {
            Ok(()) => return Ok(()),
            Err(OpenError::Options { problem, .. }) => problem.to_owned(),
            Err(other) => other.to_string(),
        };
        // The only one of them that can be wrong.
        Err(refused("slot_bytes", &origins.slot_bytes, problem))
    }

    /// Options of the store to open.
    pub fn options(&self) -> Options {
        Options {
            slot_bytes: self.slot_bytes,
            ring_bytes: self.ring_bytes,
            ..Options::new(&self.data_dir)
        }
    }

    /// The settings as lines of a file, each with its origin as a comment.
    pub fn to_toml(&self, origins: &Origins) -> String {
        let text = |value: &str| toml::Value::from(value).to_string();
        let rows = [
            ("data_dir", text(&self.data_dir.to_string_lossy()), &origins.data_dir),
            ("listen", text(&self.listen), &origins.listen),
            ("log", text(&self.log), &origins.log),
            ("log_format", text(self.log_format.as_str()), &origins.log_format),
            ("slot_bytes", self.slot_bytes.to_string(), &origins.slot_bytes),
            ("ring_bytes", self.ring_bytes.to_string(), &origins.ring_bytes),
        ];
        let width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
        let row = |(key, value, origin): &(&str, String, &Origin)| {
            format!("{key:<10} = {value:<width$}  # {origin}\n")
        };
        rows.iter().map(row).collect()
    }
}

fn refused(key: &'static str, origin: &Origin, problem: String) -> ConfigError {
    ConfigError::Value { key, origin: origin.clone(), problem }
}

fn env_refused(name: &'static str, problem: String) -> ConfigError {
    refused(name, &Origin::Environment, problem)
}

fn env_text(name: &'static str, value: OsString) -> Result<String, ConfigError> {
    value.into_string().map_err(|_| env_refused(name, "is not UTF-8".into()))
}

fn env_parsed<T: FromStr<Err: fmt::Display>>(
    name: &'static str,
    value: OsString,
) -> Result<T, ConfigError> {
    let text = env_text(name, value)?;
    text.parse().map_err(|error: T::Err| env_refused(name, format!("is {text:?}: {error}")))
}

fn first<T>(
    layers: &[(Origin, Layer)],
    value: impl Fn(&Layer) -> Option<T>,
    default: T,
) -> (T, Origin) {
    let given = layers.iter().find_map(|(origin, layer)| Some((value(layer)?, origin.clone())));
    given.unwrap_or((default, Origin::Default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Result<(Layer, Vec<String>), ConfigError> {
        Layer::from_env(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn the_first_source_that_gives_a_value_wins() {
        let path = PathBuf::from("b.toml");
        let text = "data_dir = 'file'\nlisten = 'file:1'\nlog = 'file'\nring_bytes = 7";
        let layers = [
            (Origin::Flag, Layer { data_dir: Some("flag".into()), ..Layer::default() }),
            (
                Origin::Environment,
                env(&[
                    ("BRAIDLOG_DATA_DIR", "env"),
                    ("BRAIDLOG_LISTEN", "env:1"),
                    ("BRAIDLOG_SLOT_BYTES", "65536"),
                ])
                .expect("env")
                .0,
            ),
            (Origin::File(path.clone()), Layer::from_toml(&path, text).expect("file")),
        ];
        let (config, origins) = Config::resolve(&layers);
        let expected = Config {
            data_dir: "flag".into(),
            listen: "env:1".into(),
            log: "file".into(),
            log_format: LogFormat::Text,
            slot_bytes: 65_536,
            ring_bytes: 7,
        };
        assert_eq!(config, expected);
        let expected = Origins {
            data_dir: Origin::Flag,
            listen: Origin::Environment,
            log: Origin::File(path.clone()),
            log_format: Origin::Default,
            slot_bytes: Origin::Environment,
            ring_bytes: Origin::File(path),
        };
        assert_eq!(origins, expected);
    }

    #[test]
    fn the_settings_printed_read_back_as_the_same() {
        let (mut config, origins) = Config::resolve(&[]);
        config.data_dir = r#"a "quoted" \ path # with all"#.into();
        let path = PathBuf::from("b.toml");
        let layer = Layer::from_toml(&path, &config.to_toml(&origins)).expect("TOML");
        assert_eq!(Config::resolve(&[(Origin::File(path), layer)]).0, config);
    }

    #[test]
    fn an_unknown_key_of_the_file_is_refused_by_name() {
        let error = Layer::from_toml(Path::new("b.toml"), "lissten = 'x'").expect_err("unknown");
        assert!(error.to_string().contains("lissten"), "{error}");
    }

    #[test]
    fn unknown_variables_are_reported_and_wrong_values_refused() {
        let known = [("BRAIDLOG_SERVER", "x"), ("BRAIDLOG_CONFIG", "x"), ("PATH", "x")];
        assert_eq!(env(&known), Ok((Layer::default(), vec![])));
        let (_, unknown) = env(&[("BRAIDLOG_LISSTEN", "x")]).expect("only reported");
        assert_eq!(unknown, ["BRAIDLOG_LISSTEN"]);
        let error = env(&[("BRAIDLOG_LOG_FORMAT", "xml")]).expect_err("not a format");
        assert!(error.to_string().contains("xml"), "{error}");
        let error = env(&[("BRAIDLOG_RING_BYTES", "1 GiB")]).expect_err("not a number");
        assert!(error.to_string().contains("BRAIDLOG_RING_BYTES"), "{error}");
    }

    #[test]
    fn the_defaults_can_be_used_and_values_that_cannot_are_refused() {
        let (config, origins) = Config::resolve(&[]);
        assert_eq!(config.check(&origins), Ok(()));
        for listen in ["", "4480", ":4480", "host:", "host:65536", "host"] {
            let config = Config { listen: listen.into(), ..config.clone() };
            assert!(config.check(&origins).is_err(), "{listen}");
        }
        for listen in ["[::1]:0", "localhost:4480"] {
            let config = Config { listen: listen.into(), ..config.clone() };
            assert_eq!(config.check(&origins), Ok(()), "{listen}");
        }
        for wrong in [
            Config { data_dir: "".into(), ..config.clone() },
            Config { slot_bytes: (64 << 20) + 1, ..config.clone() },
        ] {
            assert!(wrong.check(&origins).is_err(), "{wrong:?}");
        }
    }
}
