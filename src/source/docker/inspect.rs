//! What an engine says of a container, as far as it matters, and the labels made of it.
//!
//! Lists tell which containers there are; the log driver, the TTY and the log's path are known
//! from an inspection only. Pure: no clock, no I/O. Runs on `docker-ctl`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::limits;

/// The label of a container that says which compose project it belongs to, and the service.
pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// The driver whose files we read ourselves, and the one that keeps nothing.
pub const JSON_FILE: &str = "json-file";
pub const NONE: &str = "none";

/// An element of `GET /containers/json?all=1`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    pub id: String,
    /// With leading slash; null for a container that is being removed.
    #[serde(default, deserialize_with = "or_default")]
    names: Vec<String>,
    /// `created`, `running`, `paused`, `restarting`, `exited`, `removing`, `dead`.
    #[serde(default)]
    state: String,
}

impl Listed {
    /// Its name without slash. With links it has more than one; its own has no second slash.
    pub fn name(&self) -> Option<&str> {
        let own = self.names.iter().filter_map(|n| n.strip_prefix('/'));
        own.filter(|n| !n.contains('/')).min_by_key(|n| n.len())
    }

    /// Whether a run goes on, as [`Inspected::is_running`] says.
    pub fn is_running(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused")
    }
}

/// `GET /containers/{id}/json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    pub id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    state: State,
    /// Empty unless the driver is json-file, and before the first start.
    #[serde(default, deserialize_with = "or_default")]
    log_path: String,
    #[serde(default, deserialize_with = "or_default")]
    config: Config,
    #[serde(default, deserialize_with = "or_default")]
    host_config: HostConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    restarting: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    #[serde(default)]
    tty: bool,
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    log_config: LogConfig,
    #[serde(default)]
    auto_remove: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct LogConfig {
    #[serde(rename = "Type", default)]
    driver: String,
    #[serde(rename = "Config", default, deserialize_with = "or_default")]
    options: HashMap<String, String>,
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Inspected {
    /// Its name without slash.
    pub fn name(&self) -> &str {
        self.name.strip_prefix('/').unwrap_or(&self.name)
    }

    /// The image's name as it was given, `nginx:1.25`.
    pub fn image(&self) -> &str {
        &self.config.image
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.config.labels
    }

    /// `local`, `json-file`, `none`, ...
    pub fn driver(&self) -> &str {
        &self.host_config.log_config.driver
    }

    /// Whether its log is rotated by the engine. Of drivers other than json-file that is assumed:
    /// `local`, and the cache of those that cannot be read, rotate by default.
    pub fn rotates(&self) -> bool {
        self.driver() != "json-file" || self.host_config.log_config.options.contains_key("max-size")
    }

    pub fn tty(&self) -> bool {
        self.config.tty
    }

    pub fn auto_remove(&self) -> bool {
        self.host_config.auto_remove
    }

    /// Whether a run goes on. Of one that waits for its next restart the engine says so too,
    /// though a follow stream of it ends at once: it does not run until its `start` event.
    pub fn is_running(&self) -> bool {
        self.state.running && !self.state.restarting
    }

    /// The json-file log; None while the container was never started.
    pub fn log_path(&self) -> Option<PathBuf> {
        (!self.log_path.is_empty()).then(|| PathBuf::from(&self.log_path))
    }

    /// Labels of its streams, `stream` excepted: the source's own and what is known of the
    /// container, sorted by name.
    pub fn stream_labels(&self, source: &[(String, String)]) -> Vec<(String, String)> {
        let label = |name: &str| self.labels().get(name).map_or("", String::as_str);
        let own = [
            ("container", self.name()),
            ("compose_project", label(COMPOSE_PROJECT)),
            ("compose_service", label(COMPOSE_SERVICE)),
        ];
        let own = own.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| {
            let bytes = value.floor_char_boundary(limits::LABEL_VALUE_BYTES_MAX);
            (name.to_owned(), value[..bytes].to_owned())
        });
        let mut labels: Vec<_> = source.iter().cloned().chain(own).collect();
        labels.sort();
        labels
    }

    /// Structured metadata of its records.
    pub fn metadata(&self) -> Vec<(String, String)> {
        let image =
            &self.image()[..self.image().floor_char_boundary(limits::LABEL_VALUE_BYTES_MAX)];
        let all = [("container_id", self.id.as_str()), ("image", image)];
        let named = all.into_iter().filter(|(_, value)| !value.is_empty());
        named.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// Whether a text is an id as engines give them; nothing else goes into a path.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The inspection of a container in the recordings.
#[cfg(test)]
pub fn recorded(name: &str) -> Inspected {
    let mut body = Vec::new();
    let (_, bytes) = super::recordings().into_iter().find(|(n, _)| n == name).expect(name);
    let (head, rest) = super::http::HeadReader::default().push(&bytes).unwrap().expect(name);
    let mut reader = super::body::BodyReader::new(head.body);
    reader.push(rest, |data| body.extend_from_slice(data)).unwrap();
    serde_json::from_slice(&body).expect(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::docker::body::BodyReader;
    use crate::source::docker::http::HeadReader;
    use crate::source::docker::recordings;

    #[test]
    fn the_recorded_list_names_all_containers_and_who_runs() {
        let (_, bytes) = recordings().into_iter().find(|(n, _)| n == "02-list-all.http").unwrap();
        let (head, rest) = HeadReader::default().push(&bytes).unwrap().unwrap();
        let mut body = Vec::new();
        BodyReader::new(head.body).push(rest, |data| body.extend_from_slice(data)).unwrap();
        let list: Vec<Listed> = serde_json::from_slice(&body).unwrap();
        let shown: Vec<_> = list.iter().map(|c| (c.name().unwrap(), c.is_running())).collect();
        assert!(shown.contains(&("rec-created", false)), "{shown:?}");
        assert!(shown.contains(&("rec-exited", false)), "{shown:?}");
        assert!(shown.contains(&("shop_web_1", true)), "{shown:?}");
        assert!(list.iter().all(|c| is_id(&c.id)));
    }

    #[test]
    fn recorded_inspections_say_where_the_lines_are() {
        let web = recorded("02-inspect-compose.http");
        assert_eq!((web.name(), web.driver(), web.is_running()), ("shop_web_1", JSON_FILE, true));
        let path = format!("/var/lib/docker/containers/{0}/{0}-json.log", web.id);
        assert_eq!(web.log_path(), Some(PathBuf::from(path)));
        assert!(!web.tty() && !web.auto_remove());
        assert!(recorded("02-inspect-tty.http").tty());
        assert!(!recorded("02-inspect-exited.http").is_running());
        assert_eq!(recorded("02-inspect-created.http").log_path(), None);
        let local = recorded("02-inspect-local.http");
        assert_eq!((local.driver(), local.log_path()), ("local", None));
        assert_eq!(recorded("10-inspect-none.http").driver(), NONE);
    }

    #[test]
    fn labels_are_few_and_sorted_and_the_rest_is_metadata() {
        let web = recorded("02-inspect-compose.http");
        let labels = web.stream_labels(&[("host".into(), "h".into())]);
        let shown: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let expected = [
            ("compose_project", "shop"),
            ("compose_service", "web"),
            ("container", "shop_web_1"),
            ("host", "h"),
        ];
        assert_eq!(shown, expected);
        let metadata = web.metadata();
        assert_eq!(metadata[0], ("container_id".to_owned(), web.id.clone()));
        assert_eq!(metadata[1], ("image".to_owned(), web.image().to_owned()));
    }

    #[test]
    fn what_is_null_or_missing_is_empty() {
        let text = r#"{"Id":"x","Name":"/a","LogPath":null,"Config":{"Labels":null},
            "HostConfig":null}"#;
        let inspected: Inspected = serde_json::from_str(text).unwrap();
        assert_eq!((inspected.name(), inspected.driver()), ("a", ""));
        assert!(inspected.labels().is_empty() && inspected.log_path().is_none());
        let listed: Listed = serde_json::from_str(r#"{"Id":"x","Names":null}"#).unwrap();
        assert_eq!((listed.name(), listed.is_running()), (None, false));
        let text = r#"{"Id":"x","Names":["/web/db","/db"],"State":"paused"}"#;
        let linked: Listed = serde_json::from_str(text).unwrap();
        assert_eq!((linked.name(), linked.is_running()), (Some("db"), true));
    }
}
