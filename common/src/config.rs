//! Configuration: defaults < file (TOML) < `FULCRUM__...` environment < flags (DESIGN section 11).
//!
//! A service keeps its settings in one struct that is `Default`, `serde(default, deny_unknown_fields)` and [`Validate`].
//! Each layer is laid over those below and checked by itself, so that what is wrong is told with where it was said. Cores
//! never see this: they are given small option structs.

use crate::error::StartError;
use crate::tls::TlsConfig;
use config::{Config, Environment, File, FileFormat, Map};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

const PREFIX: &str = "FULCRUM";
const SEPARATOR: &str = "__";

/// Why a service cannot be configured so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file is not there or is not TOML.
    #[error("file {path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A layer names an unknown key or gives a value of the wrong kind.
    #[error("{origin}: {reason}")]
    Layer {
        /// Where it was said.
        origin: String,
        /// The key and what is wrong with it.
        reason: String,
    },
    /// A value cannot be.
    #[error("{key}: {reason}")]
    Value {
        /// The key, with its section.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        StartError::Config(error.to_string())
    }
}

/// Settings that can tell whether they contradict themselves.
pub trait Validate {
    /// Refuses what cannot be, by its key.
    fn validate(&self) -> Result<(), ConfigError>;
}

/// Refuses a value.
pub fn invalid(key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.into(),
        reason: reason.into(),
    }
}

/// What flags say: keys (`section.key`) and values.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(String, String)>);

impl Overrides {
    /// Takes a flag, if it was given.
    #[must_use]
    pub fn set(mut self, key: &str, value: Option<impl ToString>) -> Self {
        self.0.extend(value.map(|value| (key.to_owned(), value.to_string())));
        self
    }
}

/// Loads settings from the defaults, a file, this process's environment and flags.
pub fn load<T>(file: Option<&Path>, overrides: &Overrides) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned + Validate,
{
    let mut environment = Vec::new();
    let prefix = format!("{PREFIX}{SEPARATOR}");
    for (key, value) in std::env::vars_os() {
        let Ok(key) = key.into_string() else { continue };
        if !key.to_ascii_uppercase().starts_with(&prefix) {
            continue;
        }
        let value = value
            .into_string()
            .map_err(|_| invalid(key.clone(), "the value is not UTF-8"))?;
        environment.push((key, value));
    }
    load_from(file, environment, overrides)
}

/// The same from an environment given: for tests.
pub fn load_from<T>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned + Validate,
{
    let layer = |origin: &str, error: config::ConfigError| ConfigError::Layer {
        origin: origin.to_owned(),
        reason: error.to_string(),
    };
    let mut merged = Config::try_from(&T::default()).map_err(|e| layer("defaults", e))?;
    let mut settings: T = merged.clone().try_deserialize().map_err(|e| layer("defaults", e))?;
    if let Some(path) = file {
        let unreadable = |reason: String| ConfigError::File {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        let source = File::from_str(&text, FileFormat::Toml);
        let over = Config::builder().add_source(merged).add_source(source);
        merged = over.build().map_err(|e| unreadable(e.to_string()))?;
        settings = merged
            .clone()
            .try_deserialize()
            .map_err(|e| layer(&format!("file {}", path.display()), e))?;
    }
    for (name, value) in environment {
        let origin = format!("environment variable {name}");
        let source = Environment::with_prefix(PREFIX)
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .source(Some(Map::from([(name, value)])));
        let over = Config::builder().add_source(merged).add_source(source);
        merged = over.build().map_err(|e| layer(&origin, e))?;
        settings = merged.clone().try_deserialize().map_err(|e| layer(&origin, e))?;
    }
    for (key, value) in &overrides.0 {
        let origin = format!("flag for {key}");
        let over = Config::builder().add_source(merged).set_override(key, value.as_str());
        merged = over
            .and_then(|builder| builder.build())
            .map_err(|e| layer(&origin, e))?;
        settings = merged.clone().try_deserialize().map_err(|e| layer(&origin, e))?;
    }
    settings.validate()?;
    Ok(settings)
}

/// Refuses to listen where others could reach an unprotected port, unless that is asked for by name. `protected`: it is encrypted, or it is
/// asked for.
pub fn check_listen(key: &str, address: SocketAddr, protected: bool) -> Result<(), ConfigError> {
    if address.ip().is_loopback() || protected {
        return Ok(());
    }
    let reason = format!(
        "{address} can be reached from other machines, without encryption: listen on 127.0.0.1 or [::1], encrypt it ([tls]; of metrics \
         tls.metrics = true), or set insecure_listen = true"
    );
    Err(invalid(key, reason))
}

/// The same of a service's port and of that of its metrics, with its encryption.
pub fn check_ports(
    listen: SocketAddr,
    metrics: Option<SocketAddr>,
    insecure: bool,
    tls: &TlsConfig,
) -> Result<(), ConfigError> {
    check_listen("listen", listen, insecure || tls.is_on())?;
    match metrics {
        Some(metrics) => check_listen("metrics_listen", metrics, insecure || tls.metrics),
        None => Ok(()),
    }
}

/// Refuses a deadline that no request could keep.
pub fn check_deadline(key: &str, deadline: Duration) -> Result<(), ConfigError> {
    if deadline.is_zero() {
        return Err(invalid(key, "requests would expire at once: use 1s or more"));
    }
    Ok(())
}

/// Refuses a bound that lets nothing through; `what` is what it bounds.
pub fn check_most(key: &str, most: u32, what: &str) -> Result<(), ConfigError> {
    if most == 0 {
        return Err(invalid(key, format!("no {what} could be served: use 1 or more")));
    }
    Ok(())
}

/// Durations as people write them: `250ms`, `2s`, `10m`, `1h`. For `#[serde(with = "...")]`.
pub mod duration {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::time::Duration;

    /// Writes a duration in its largest whole unit.
    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*time))
    }

    /// A duration in its largest whole unit, for people, too.
    #[must_use]
    pub fn format(time: Duration) -> String {
        let ms = time.as_millis();
        let unit = [(3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(size, _)| ms > 0 && ms.is_multiple_of(*size));
        let (size, name) = unit.unwrap_or((1, "ms"));
        format!("{}{name}", ms / size)
    }

    /// Reads a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map_err(de::Error::custom)
    }

    /// Reads a duration from text, for flags too.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let refused = || format!("'{text}' is not a duration: use 250ms, 2s, 10m or 1h");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let size = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(refused()),
        };
        number.checked_mul(size).map(Duration::from_millis).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::time::Duration;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        listen: SocketAddr,
        insecure_listen: bool,
        data_dir: Option<PathBuf>,
        limits: Limits,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Limits {
        queue: usize,
        #[serde(with = "duration")]
        deadline: Duration,
    }

    impl Default for Settings {
        fn default() -> Self {
            let listen = SocketAddr::from(([127, 0, 0, 1], 7400));
            Self {
                listen,
                insecure_listen: false,
                data_dir: None,
                limits: Limits::default(),
            }
        }
    }

    impl Default for Limits {
        fn default() -> Self {
            Self {
                queue: 100,
                deadline: Duration::from_secs(2),
            }
        }
    }

    impl Validate for Settings {
        fn validate(&self) -> Result<(), ConfigError> {
            check_listen("listen", self.listen, self.insecure_listen)?;
            if self.limits.queue == 0 {
                return Err(invalid("limits.queue", "0 admits nothing: use 1 or more"));
            }
            Ok(())
        }
    }

    fn loaded(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fulcrum.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let overrides = flags.iter().fold(Overrides::default(), |o, (k, v)| o.set(k, Some(v)));
        load_from(Some(&path), environment, &overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn each_layer_goes_over_those_below() {
        let settings = load_from::<Settings>(None, [], &Overrides::default()).unwrap();
        assert_eq!(settings, Settings::default());

        let file = "data_dir = '/tmp/x'\n[limits]\nqueue = 7\ndeadline = '250ms'\n";
        let settings = loaded(file, &[], &[]).unwrap();
        assert_eq!(
            settings.limits,
            Limits {
                queue: 7,
                deadline: Duration::from_millis(250)
            }
        );
        assert_eq!(settings.data_dir, Some(PathBuf::from("/tmp/x")));
        assert_eq!(settings.listen, Settings::default().listen);

        let environment = [("FULCRUM__LIMITS__QUEUE", "8"), ("FULCRUM__LISTEN", "127.0.0.1:9")];
        let settings = loaded(file, &environment, &[]).unwrap();
        assert_eq!((settings.limits.queue, settings.listen.port()), (8, 9));
        assert_eq!(settings.limits.deadline, Duration::from_millis(250));

        let settings = loaded(file, &environment, &[("limits.queue", "9")]).unwrap();
        assert_eq!((settings.limits.queue, settings.listen.port()), (9, 9));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key_and_where_it_was_said() {
        let refused = |file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)], words: &[&str]| {
            let message = loaded(file, environment, flags).unwrap_err();
            for word in words {
                assert!(message.contains(word), "'{word}' is not in: {message}");
            }
        };
        refused("colour = 1", &[], &[], &["fulcrum.toml", "colour"]);
        refused("[limits]\ndepth = 1", &[], &[], &["fulcrum.toml", "depth"]);
        refused(
            "[limits]\nqueue = 'many'",
            &[],
            &[],
            &["fulcrum.toml", "limits.queue", "many"],
        );
        refused(
            "[limits]\ndeadline = '5'",
            &[],
            &[],
            &["fulcrum.toml", "'5' is not a duration"],
        );
        refused("listen = ", &[], &[], &["fulcrum.toml"]);
        refused("", &[("FULCRUM__COLOUR", "1")], &[], &["FULCRUM__COLOUR", "colour"]);
        refused(
            "",
            &[("FULCRUM__LIMITS__DEPTH", "1")],
            &[],
            &["FULCRUM__LIMITS__DEPTH", "depth"],
        );
        refused(
            "",
            &[("FULCRUM__LIMITS__QUEUE", "-1")],
            &[],
            &["FULCRUM__LIMITS__QUEUE"],
        );
        refused("", &[], &[("colour", "1")], &["flag for colour"]);
        refused("", &[], &[("limits.queue", "0")], &["limits.queue", "use 1 or more"]);
        let missing = load_from::<Settings>(Some(Path::new("/no/such.toml")), [], &Overrides::default());
        assert!(missing.unwrap_err().to_string().contains("/no/such.toml"));
    }

    #[test]
    fn other_environment_variables_do_not_matter() {
        assert_eq!(
            loaded("", &[("FULCRUM_COLOUR", "1"), ("HOME", "/")], &[]).unwrap(),
            Settings::default()
        );
    }

    #[test]
    fn listening_elsewhere_has_to_be_asked_for() {
        let message = loaded("listen = '0.0.0.0:7400'", &[], &[]).unwrap_err();
        assert!(
            message.contains("listen") && message.contains("insecure_listen = true"),
            "{message}"
        );
        assert!(loaded("listen = '0.0.0.0:7400'\ninsecure_listen = true", &[], &[]).is_ok());
        assert!(loaded("listen = '[::1]:7400'", &[], &[]).is_ok());
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("250ms", 250),
            ("2s", 2000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration::parse(text), Ok(Duration::from_millis(ms)));
        }
        for bad in [
            "",
            "5",
            "s",
            "1 s",
            "-1s",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration::parse(bad).is_err(), "{bad}");
        }
    }
}
