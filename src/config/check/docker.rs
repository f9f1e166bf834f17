//! `sources.docker`: which engine, which containers, which way to their lines.

use std::path::PathBuf;

use super::super::checked::{ContainerFilter, DockerSource, Endpoint, ReadWay};
use super::super::defaults;
use super::super::diagnose::quote;
use super::super::key::Key;
use super::super::raw::{self, List, Scalar, Section};
use super::Checks;
use super::labels::Labels;

/// All Docker sources.
pub(super) fn all(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &List<Section<raw::DockerSource>>,
    global: &Labels,
    sinks: &[&str],
) -> Vec<DockerSource> {
    let items = checks.sections(at, raw, defaults::SOURCES_MAX);
    let default = (items.len() == 1).then_some("docker");
    let mut names = Vec::new();
    let mut out: Vec<DockerSource> = Vec::new();
    for (at, item) in items {
        let source = one(checks, &at, &item, global, sinks, default);
        let same = |s: &DockerSource| s.endpoint == source.endpoint && s.endpoint != no_endpoint();
        if let Some(index) = out.iter().position(same) {
            let message = format!(
                "the engine of the source {} too: containers that both follow are sent twice",
                quote(&out[index].name)
            );
            checks.report.warn(&at.name("endpoint"), message);
        }
        names.push((at, source.name.clone()));
        out.push(source);
    }
    checks.unique(&names);
    out
}

fn one(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &raw::DockerSource,
    global: &Labels,
    sinks: &[&str],
    default_name: Option<&str>,
) -> DockerSource {
    let words = [("auto", ReadWay::Auto), ("json_file", ReadWay::JsonFile), ("api", ReadWay::Api)];
    let endpoint = endpoint(checks, &at.name("endpoint"), &raw.endpoint);
    let read = checks.choice(&at.name("read"), &raw.read, ReadWay::Auto, &words);
    if read == ReadWay::JsonFile && matches!(endpoint, Endpoint::Tcp { .. }) {
        let expected = "`api` or `auto`";
        let wrong = "the log files of an engine reached by tcp cannot be read here";
        checks.report.bad(&at.name("read"), wrong, expected);
    }
    checks.later(&at.name("timezone"), raw.timezone, "`timezone`");
    checks.later(&at.name("stages"), raw.stages, "`stages` with content");
    let labels_at = at.name("labels");
    let own = checks.labels(&labels_at, &raw.labels, &defaults::DOCKER_LABELS);
    DockerSource {
        name: checks.item_name(at, &raw.name, default_name),
        endpoint,
        read,
        include: filter(checks, &at.name("include"), &raw.include),
        exclude: filter(checks, &at.name("exclude"), &raw.exclude),
        labels: checks.source_labels(&labels_at, own, global, &defaults::DOCKER_LABELS),
        line_bytes_max: checks.size(
            &at.name("line_bytes_max"),
            &raw.line_bytes_max,
            defaults::LINE_BYTES_MAX,
        ),
        long_lines: checks.long_lines(&at.name("long_lines"), &raw.long_lines),
        partial_wait: checks.duration(
            &at.name("partial_wait"),
            &raw.partial_wait,
            defaults::PARTIAL_WAIT,
        ),
        start_at: checks.start_at(&at.name("start_at"), &raw.start_at),
        sinks: checks.sinks_of(&at.name("sinks"), &raw.sinks, sinks),
    }
}

fn endpoint(checks: &mut Checks<'_, '_>, at: &Key, raw: &Scalar) -> Endpoint {
    let expected = "unix:///path/to/docker.sock or tcp://host:port";
    let text = checks.optional_text(at, raw, expected);
    let text = text.as_deref().unwrap_or(defaults::DOCKER_ENDPOINT);
    if let Some(path) = text.strip_prefix("unix://").filter(|p| p.starts_with('/')) {
        return Endpoint::Unix(PathBuf::from(path));
    }
    if let Some(endpoint) = text.strip_prefix("tcp://").and_then(tcp) {
        return endpoint;
    }
    checks.report.bad(at, format!("{} is no endpoint", quote(text)), expected);
    no_endpoint()
}

/// Stands in for an endpoint that was refused.
fn no_endpoint() -> Endpoint {
    Endpoint::Unix(PathBuf::from("/nonexistent"))
}

fn tcp(authority: &str) -> Option<Endpoint> {
    let authority = authority.trim_end_matches('/');
    let uri: ureq::http::uri::Authority = authority.parse().ok()?;
    if authority.contains('@') || uri.host().is_empty() {
        return None;
    }
    let has_port = authority.len() > uri.host().len();
    let port = if has_port { uri.port_u16()? } else { defaults::DOCKER_PORT };
    Some(Endpoint::Tcp { host: uri.host().trim_matches(['[', ']']).to_owned(), port })
}

fn filter(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &Section<raw::ContainerFilter>,
) -> ContainerFilter {
    let raw = checks.section(at, raw);
    let max = defaults::PATTERNS_MAX;
    let names = checks.texts(&at.name("names"), &raw.names, max);
    let images = checks.texts(&at.name("images"), &raw.images, max);
    ContainerFilter {
        names: checks.name_patterns(names),
        images: checks.name_patterns(images),
        labels: container_labels(checks, &at.name("labels"), &raw.labels),
        projects: texts_only(checks.texts(&at.name("projects"), &raw.projects, max)),
    }
}

fn texts_only(texts: Vec<(Key, String)>) -> Vec<String> {
    texts.into_iter().map(|(_, text)| text).collect()
}

fn container_labels(
    checks: &mut Checks<'_, '_>,
    at: &Key,
    raw: &List<Scalar>,
) -> Vec<(String, Option<String>)> {
    let mut out = Vec::new();
    for (at, text) in checks.texts(at, raw, defaults::PATTERNS_MAX) {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), None),
        };
        if name.is_empty() {
            let wrong = format!("{} names no label", quote(&text));
            checks.report.bad(&at, wrong, "`key` or `key=value`");
        }
        out.push((name.to_owned(), value));
    }
    out
}
