//! The options of the server's settings, and `braidlog config show`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

use super::{
    failure::{Exit, Failure},
    output::Output,
};
use crate::config::{Config, ConfigError, ENV_CONFIG, Layer, LogFormat, Origin, Origins};

/// Settings given on the command line.
#[derive(Debug, Clone, Args)]
pub(super) struct SettingsArgs {
    /// Directory of the store, created if absent [env: BRAIDLOG_DATA_DIR] [default:
    /// ./braidlog-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [env: BRAIDLOG_LISTEN] [default:
    /// 127.0.0.1:4480]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Which log lines to write, as in `info,braidlog=debug` [env: BRAIDLOG_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to write log lines: text or json [env: BRAIDLOG_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Keep runs for so long after their close, or none for ever [env: BRAIDLOG_RETENTION_AGE]
    /// [default: 4w]
    #[arg(long, value_name = "DURATION")]
    retain_age: Option<String>,
    /// Keep at most so many bytes of a run, as in 1GiB [env: BRAIDLOG_RETENTION_BYTES] [default:
    /// none]
    #[arg(long, value_name = "BYTES")]
    retain_bytes: Option<String>,
    /// How to compress packs: none, lz4 or zstd (lz4 while appends would outrun it) [env:
    /// BRAIDLOG_COMPRESSION] [default: zstd]
    #[arg(long, value_name = "CODEC")]
    compression: Option<String>,
    /// Memory for recent records, for readers at the tail [env: BRAIDLOG_RING_BYTES] [default:
    /// 256MiB]
    #[arg(long, value_name = "BYTES")]
    ring_bytes: Option<String>,
    /// Memory for what was read from packs [env: BRAIDLOG_CACHE_BYTES] [default: 128MiB]
    #[arg(long, value_name = "BYTES")]
    cache_bytes: Option<String>,
    /// File of settings, in TOML [env: BRAIDLOG_CONFIG] [default: none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Shows settings
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Prints the settings that `serve` would use, each with where it comes from, as TOML
    Show(SettingsArgs),
}

/// Settings that can be used, and what to tell about how they came about.
pub(super) struct Settings {
    /// The settings.
    pub(super) config: Config,
    /// Where they come from.
    pub(super) origins: Origins,
    /// Variables that look like settings and are none.
    pub(super) unknown_variables: Vec<String>,
}

impl SettingsArgs {
    /// Collects the settings from all sources and refuses what cannot be used.
    pub(super) fn settings(self) -> Result<Settings, Failure> {
        let (environment, unknown_variables) = Layer::from_env(std::env::vars_os());
        let mut layers = Vec::new();
        let file = self.config.clone().or_else(|| std::env::var_os(ENV_CONFIG).map(PathBuf::from));
        layers.push((Origin::Flag, self.into_layer()));
        layers.push((Origin::Environment, environment));
        if let Some(path) = file {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                misconfigured(ConfigError::File { path: path.clone(), problem: error.to_string() })
            })?;
            let layer = Layer::from_toml(&path, &text).map_err(misconfigured)?;
            layers.push((Origin::File(path), layer));
        }
        let (config, origins) = Config::resolve(&layers).map_err(misconfigured)?;
        config.check(&origins).map_err(misconfigured)?;
        Ok(Settings { config, origins, unknown_variables })
    }

    fn into_layer(self) -> Layer {
        let text = |value: Option<String>| value.map(OsString::from);
        let mut layer = Layer::default();
        for (key, value) in [
            ("data_dir", self.data_dir.map(PathBuf::into_os_string)),
            ("listen", text(self.listen)),
            ("log", text(self.log)),
            ("log_format", self.log_format.map(|format| format.as_str().into())),
            ("retention.age", text(self.retain_age)),
            ("retention.bytes", text(self.retain_bytes)),
            ("compression", text(self.compression)),
            ("ring_bytes", text(self.ring_bytes)),
            ("cache_bytes", text(self.cache_bytes)),
        ] {
            if let Some(value) = value {
                layer.set(key, value);
            }
        }
        layer
    }
}

fn misconfigured(error: ConfigError) -> Failure {
    Failure { exit: Exit::DoNotRestart, reason: "CONFIG", message: error.to_string() }
}

/// Runs `config show`.
pub(super) fn show(args: SettingsArgs) -> Result<(), Failure> {
    let settings = args.settings()?;
    let mut output = Output::new();
    output.bytes(settings.config.to_toml(&settings.origins).as_bytes())?;
    output.flush()
}
