//! Reading the layers and finding every mistake at once, each with key, value, origin and what is allowed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, FileFormat};
use toml::{Table, Value};

use super::aliases::{ALIASES, WITHOUT_EFFECT, convert};
use super::{DEFAULTS, Settings, check, is_secret, sounds_secret};

/// One mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub key: String,
    pub value: String,
    pub origin: String,
    pub allowed: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} (from {}): {}", self.key, self.value, self.origin, self.allowed)
    }
}

/// Every mistake found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings have {} mistake(s):\n{}", .0.len(), .0.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<Mistake>);

/// The settings and where each value came from.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub values: BTreeMap<String, String>,
    pub origins: HashMap<String, String>,
    /// Accepted variables that are set and have no effect in this release.
    pub without_effect: Vec<&'static str>,
}

/// Reads the layers: defaults, `config.<environment>.toml` in `folder`, `file`, `variables`.
///
/// # Errors
/// Every mistake at once.
pub fn load(
    folder: &Path,
    file: Option<&Path>,
    variables: &HashMap<String, String>,
) -> Result<Loaded, Mistakes> {
    let mut layers = Layers::new();
    layers.add_files(folder, file, variables);
    layers.add_variables(variables);
    layers.finish(variables)
}

struct Layers {
    defaults: Table,
    merged: Table,
    origins: HashMap<String, String>,
    mistakes: Vec<Mistake>,
}

impl Layers {
    fn new() -> Self {
        // The embedded file is part of the program; a test parses it.
        let defaults: Table = DEFAULTS.parse().unwrap_or_default();
        Self { merged: defaults.clone(), defaults, origins: HashMap::new(), mistakes: Vec::new() }
    }

    fn add_files(&mut self, folder: &Path, file: Option<&Path>, variables: &HashMap<String, String>) {
        let environment = variables
            .get("LIBRA__ENVIRONMENT")
            .or_else(|| variables.get("ENVIRONMENT"))
            .map_or_else(|| "development".to_owned(), |e| e.to_lowercase());
        let beside: PathBuf = folder.join(format!("config.{environment}.toml"));
        if beside.is_file() {
            self.add_file(&beside);
        }
        if let Some(file) = file {
            self.add_file(file);
        }
    }

    fn add_file(&mut self, path: &Path) {
        let origin = path.display().to_string();
        let parsed = std::fs::read_to_string(path)
            .map_err(|e| e.to_string())
            .and_then(|text| text.parse::<Table>().map_err(|e| e.message().to_owned()));
        match parsed {
            Ok(table) => {
                let defaults = self.defaults.clone();
                self.add_table("", &table, &defaults, &origin);
            }
            Err(problem) => self.mistakes.push(Mistake {
                key: "--config".into(),
                value: origin.clone(),
                origin,
                allowed: format!("must be a readable TOML file ({problem})"),
            }),
        }
    }

    fn add_table(&mut self, prefix: &str, table: &Table, defaults: &Table, origin: &str) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match (defaults.get(name), value) {
                (None, _) => self.unknown(&key, value, origin),
                (Some(Value::Table(inner)), Value::Table(given)) => {
                    self.add_table(&key, given, inner, origin)
                }
                (Some(default), value) => match same_type(default, value) {
                    Ok(value) => self.set(&key, value, origin),
                    Err(allowed) => self.wrong(&key, &value.to_string(), origin, allowed),
                },
            }
        }
    }

    fn add_variables(&mut self, variables: &HashMap<String, String>) {
        for (name, key, how) in ALIASES {
            if let Some(value) = variables.get(*name) {
                self.add_text(key, &convert(*how, value), name);
            }
        }
        let mut own: Vec<(&String, &String)> =
            variables.iter().filter(|(name, _)| name.starts_with("LIBRA__")).collect();
        own.sort();
        for (name, value) in own {
            let key = name["LIBRA__".len()..].replace("__", ".").to_lowercase();
            self.add_text(&key, value, name);
        }
    }

    /// A value from a variable, read as the type that the default has.
    fn add_text(&mut self, key: &str, text: &str, origin: &str) {
        let default = lookup(&self.defaults, key).cloned();
        let parsed = match default {
            None | Some(Value::Table(_)) => {
                return self.unknown(key, &Value::String(text.to_owned()), origin);
            }
            Some(Value::String(_) | Value::Datetime(_)) => Ok(Value::String(text.to_owned())),
            Some(Value::Integer(_)) => text.parse().map(Value::Integer).map_err(|_| "must be a whole number"),
            Some(Value::Float(_)) => text.parse().map(Value::Float).map_err(|_| "must be a number"),
            Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).map_err(|_| "must be true or false"),
            Some(Value::Array(_)) => Ok(Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::String(item.to_owned()))
                    .collect(),
            )),
        };
        match parsed {
            Ok(value) => self.set(key, value, origin),
            Err(allowed) => self.wrong(key, text, origin, allowed),
        }
    }

    fn set(&mut self, key: &str, value: Value, origin: &str) {
        let mut table = &mut self.merged;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value);
                break;
            }
            let Some(Value::Table(inner)) = table.get_mut(part) else { return };
            table = inner;
        }
        self.origins.insert(key.to_owned(), origin.to_owned());
    }

    fn unknown(&mut self, key: &str, value: &Value, origin: &str) {
        if let Value::Table(table) = value {
            return table
                .iter()
                .for_each(|(name, value)| self.unknown(&format!("{key}.{name}"), value, origin));
        }
        let allowed = "is no setting; `libra config show` lists them all".to_owned();
        let value = if sounds_secret(key) { "***".to_owned() } else { value.to_string() };
        self.mistakes.push(Mistake { key: key.into(), value, origin: origin.into(), allowed });
    }

    fn wrong(&mut self, key: &str, value: &str, origin: &str, allowed: &str) {
        let value = if is_secret(key) { "***" } else { value };
        self.mistakes.push(Mistake {
            key: key.into(),
            value: value.into(),
            origin: origin.into(),
            allowed: allowed.into(),
        });
    }

    fn finish(mut self, variables: &HashMap<String, String>) -> Result<Loaded, Mistakes> {
        let text = toml::to_string(&self.merged).unwrap_or_default();
        let settings = Config::builder()
            .add_source(config::File::from_str(&text, FileFormat::Toml))
            .build()
            .and_then(Config::try_deserialize::<Settings>);
        let mut values = BTreeMap::new();
        flatten("", &self.merged, &mut values);
        let settings = match settings {
            Ok(settings) => {
                for (key, allowed) in check::mistakes(&settings) {
                    let value = values.get(&key).cloned().unwrap_or_default();
                    let origin =
                        self.origins.get(&key).cloned().unwrap_or_else(|| "config.toml (embedded)".into());
                    self.wrong(&key, &value, &origin, &allowed);
                }
                settings
            }
            Err(e) => {
                self.wrong("settings", "", "the merged layers", &e.to_string());
                return Err(Mistakes(self.mistakes));
            }
        };
        if !self.mistakes.is_empty() {
            return Err(Mistakes(self.mistakes));
        }
        let without_effect =
            WITHOUT_EFFECT.iter().copied().filter(|name| variables.contains_key(*name)).collect();
        Ok(Loaded { settings, values, origins: self.origins, without_effect })
    }
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = value.as_table()?.get(part)?;
    }
    Some(value)
}

fn same_type(default: &Value, value: &Value) -> Result<Value, &'static str> {
    match (default, value) {
        (Value::Float(_), Value::Integer(n)) => {
            #[expect(clippy::cast_precision_loss, reason = "settings are small numbers")]
            let float = *n as f64;
            Ok(Value::Float(float))
        }
        (Value::String(_), Value::String(_))
        | (Value::Integer(_), Value::Integer(_))
        | (Value::Float(_), Value::Float(_))
        | (Value::Boolean(_), Value::Boolean(_))
        | (Value::Array(_), Value::Array(_)) => Ok(value.clone()),
        (Value::String(_), _) => Err("must be a text"),
        (Value::Integer(_), _) => Err("must be a whole number"),
        (Value::Float(_), _) => Err("must be a number"),
        (Value::Boolean(_), _) => Err("must be true or false"),
        (Value::Array(_), _) => Err("must be a list"),
        _ => Err("must be of the same kind as in config.toml"),
    }
}

fn flatten(prefix: &str, table: &Table, into: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, into),
            Value::String(text) if is_secret(&key) && !text.is_empty() => {
                into.insert(key, "***".into());
            }
            other => {
                into.insert(key, other.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> HashMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_embedded_defaults_are_whole_and_right() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), None, &HashMap::new()).unwrap();
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_key_value_and_origin() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my.toml");
        std::fs::write(&file, "[http]\nlistne = [\"x\"]\nworkers = \"many\"\n").unwrap();
        let vars = variables(&[("LIBRA__PIPELINE__CONCURRENCY", "five"), ("LIBRA__NO__SUCH", "1")]);
        let Mistakes(found) = load(folder.path(), Some(&file), &vars).unwrap_err();
        let keys: Vec<&str> = found.iter().map(|m| m.key.as_str()).collect();
        assert_eq!(keys, ["http.listne", "http.workers", "no.such", "pipeline.concurrency"]);
        assert!(found[0].origin.ends_with("my.toml"));
        assert_eq!(found[3].origin, "LIBRA__PIPELINE__CONCURRENCY");
    }

    #[test]
    fn a_burst_is_earned_again_before_its_client_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let told = |rate: &str, burst: &str| {
            let vars = [
                ("LIBRA__HTTP__RATES__CLIENT_PER_SECOND", rate),
                ("LIBRA__HTTP__RATES__CLIENT_BURST", burst),
            ];
            load(folder.path(), None, &variables(&vars)).err().map(|mistakes| mistakes.to_string())
        };
        assert_eq!((told("0", "0"), told("1", "120"), told("100000000", "4000000000")), (None, None, None));
        assert!(told("1", "121").is_some_and(|said| said.contains("at most 120 times")));
        assert!(told("0", "5").is_some_and(|said| !said.contains("at most 120 times")));
    }

    #[test]
    fn later_layers_win_and_aliases_are_converted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.development.toml"), "[pipeline]\nconcurrency = 2\n")
            .unwrap();
        let loaded = load(folder.path(), None, &variables(&[("MAX_DEPLOYMENT_TIMEOUT", "90500")])).unwrap();
        assert_eq!(loaded.settings.pipeline.concurrency, 2);
        assert_eq!(loaded.settings.pipeline.total_timeout_seconds, 91);
        let vars = variables(&[
            ("MAX_CONCURRENT_DEPLOYMENTS", "3"),
            ("LIBRA__PIPELINE__CONCURRENCY", "4"),
            ("LIBRA__HTTP__LISTEN", "127.0.0.1:1, 127.0.0.1:2"),
            ("E2B_API_KEY", "x"),
            ("BETTER_AUTH_SECRET", "x"),
        ]);
        let loaded = load(folder.path(), None, &vars).unwrap();
        assert_eq!(loaded.settings.pipeline.concurrency, 4);
        assert_eq!(loaded.settings.http.listen, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(loaded.without_effect, ["BETTER_AUTH_SECRET"]);
        assert_eq!(loaded.values["sandbox.e2b.api_key"], "***");
    }

    #[test]
    fn production_refuses_development_secrets_and_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let Mistakes(found) =
            load(folder.path(), None, &variables(&[("ENVIRONMENT", "production")])).unwrap_err();
        let keys: Vec<&str> = found.iter().map(|m| m.key.as_str()).collect();
        assert!(keys.contains(&"security.secret_key") && keys.contains(&"domains.base"), "{keys:?}");
        let vars = variables(&[("ENVIRONMENT", "production"), ("LIBRA__SANDBOX__PROVIDER", "none")]);
        let shown = load(folder.path(), None, &vars).unwrap_err().to_string();
        assert!(shown.contains("sandbox.provider"), "{shown}");
    }

    #[test]
    fn a_remote_sandbox_provider_needs_its_key_and_a_safe_address() {
        let folder = tempfile::tempdir().unwrap();
        let told = |list: &[(&str, &str)]| match load(folder.path(), None, &variables(list)) {
            Ok(_) => Vec::new(),
            Err(Mistakes(found)) => found.into_iter().map(|m| m.key).collect(),
        };
        for name in ["e2b", "daytona"] {
            let key = format!("{}_API_KEY", name.to_uppercase());
            assert_eq!(
                told(&[("SANDBOX_BUILDER_DEFAULT_PROVIDER", name)]),
                [format!("sandbox.{name}.api_key")]
            );
            assert_eq!(
                told(&[("SANDBOX_BUILDER_DEFAULT_PROVIDER", name), (&key, "k")]),
                Vec::<String>::new()
            );
            let url = format!("LIBRA__SANDBOX__{}__API_URL", name.to_uppercase());
            assert_eq!(told(&[(&url, "http://example.test")]), [format!("sandbox.{name}.api_url")]);
        }
        assert_eq!(told(&[("MAX_DEPLOYMENT_TIMEOUT", "1800000")]).len(), 2);
    }

    #[test]
    fn secrets_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let loaded =
            load(folder.path(), None, &variables(&[("LIBRA__SECURITY__SECRET_KEY", "hunter2hunter2")]))
                .unwrap();
        assert_eq!(loaded.values["security.secret_key"], "***");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
}
