//! Which containers a source follows: include, exclude, and the containers' own opt-out.
//!
//! Pure: no clock, no I/O. Runs on `docker-ctl`.

use super::inspect::{COMPOSE_PROJECT, Inspected};
use crate::config::checked::{ContainerFilter, DockerSource};

/// A container with this label set to `false` is not followed, whatever the config says.
pub const OPT_OUT: &str = "log-capturer.enable";

/// Why a container is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// Its own label [`OPT_OUT`].
    OptedOut,
    /// `include` names others.
    NotIncluded,
    Excluded,
}

/// Whether a source follows a container; None: it does.
pub fn left_out(source: &DockerSource, container: &Inspected) -> Option<LeftOut> {
    let opt_out = container.labels().get(OPT_OUT);
    if opt_out.is_some_and(|v| v.trim().eq_ignore_ascii_case("false")) {
        return Some(LeftOut::OptedOut);
    }
    if !source.include.is_empty() && !names(&source.include, container) {
        return Some(LeftOut::NotIncluded);
    }
    names(&source.exclude, container).then_some(LeftOut::Excluded)
}

/// Whether any rule of the filter names the container.
fn names(filter: &ContainerFilter, container: &Inspected) -> bool {
    let labels = container.labels();
    let labelled = |(key, value): &(String, Option<String>)| {
        labels.get(key).is_some_and(|had| value.as_ref().is_none_or(|wanted| wanted == had))
    };
    let project = labels.get(COMPOSE_PROJECT);
    filter.names.is_match(container.name())
        || filter.images.is_match(container.image())
        || filter.images.is_match(untagged(container.image()))
        || filter.labels.iter().any(labelled)
        || project.is_some_and(|had| filter.projects.contains(had))
}

/// An image's name without tag and digest: `registry:5000/nginx:1.25` is `registry:5000/nginx`.
fn untagged(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let name_at = image.rfind('/').map_or(0, |slash| slash + 1);
    image[name_at..].find(':').map_or(image, |colon| &image[..name_at + colon])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use globset::{Glob, GlobSet, GlobSetBuilder};

    use super::*;
    use crate::config::checked::{Endpoint, LongLines, ReadWay, StartAt};
    use crate::units::ByteSize;

    fn globs(patterns: &[&str]) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).unwrap());
        }
        set.build().unwrap()
    }

    fn source(include: ContainerFilter, exclude: ContainerFilter) -> DockerSource {
        DockerSource {
            name: "local".into(),
            endpoint: Endpoint::Unix("/run/docker.sock".into()),
            read: ReadWay::Auto,
            include,
            exclude,
            labels: Vec::new(),
            line_bytes_max: ByteSize::kib(256),
            long_lines: LongLines::Split,
            partial_wait: Duration::from_secs(5),
            start_at: StartAt::End,
            sinks: vec![0],
        }
    }

    fn container(name: &str, image: &str, labels: &str) -> Inspected {
        let text = format!(
            r#"{{"Id":"x","Name":"/{name}","Config":{{"Image":"{image}","Labels":{labels}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_rule_names_its_containers() {
        let web = container(
            "shop_web_1",
            "registry:5000/library/nginx:1.25",
            r#"{"tier":"front","com.docker.compose.project":"shop"}"#,
        );
        let check = |filter: ContainerFilter, named: bool| {
            let excluded = left_out(&source(ContainerFilter::default(), filter.clone()), &web);
            assert_eq!(excluded.is_some(), named, "exclude {filter:?}");
            let included = left_out(&source(filter.clone(), ContainerFilter::default()), &web);
            assert_eq!(included.is_none(), named || filter.is_empty(), "include {filter:?}");
        };
        let none = ContainerFilter::default;
        check(none(), false);
        check(ContainerFilter { names: globs(&["shop_*"]), ..none() }, true);
        check(ContainerFilter { names: globs(&["shop"]), ..none() }, false);
        check(ContainerFilter { images: globs(&["*/nginx"]), ..none() }, true);
        check(ContainerFilter { images: globs(&["*/nginx:1.25"]), ..none() }, true);
        check(ContainerFilter { images: globs(&["*/nginx:1.2"]), ..none() }, false);
        check(ContainerFilter { projects: vec!["shop".into()], ..none() }, true);
        check(ContainerFilter { projects: vec!["sho".into()], ..none() }, false);
        for (key, value, named) in
            [("tier", None, true), ("tier", Some("front"), true), ("tier", Some("back"), false)]
        {
            let labels = vec![(key.to_owned(), value.map(str::to_owned))];
            check(ContainerFilter { labels, ..none() }, named);
        }
    }

    #[test]
    fn exclude_and_opt_out_win_over_include() {
        let all = || ContainerFilter { names: globs(&["*"]), ..ContainerFilter::default() };
        let plain = container("a", "b", "{}");
        assert_eq!(left_out(&source(all(), all()), &plain), Some(LeftOut::Excluded));
        let quiet = container("a", "b", r#"{"log-capturer.enable":"False"}"#);
        let source = source(all(), ContainerFilter::default());
        assert_eq!(left_out(&source, &quiet), Some(LeftOut::OptedOut));
        let loud = container("a", "b", r#"{"log-capturer.enable":"true"}"#);
        assert_eq!(left_out(&source, &loud), None);
    }

    #[test]
    fn tags_and_digests_are_no_part_of_an_images_name() {
        for (image, name) in [
            ("nginx", "nginx"),
            ("nginx:1.25", "nginx"),
            ("registry:5000/nginx", "registry:5000/nginx"),
            ("registry:5000/nginx:1@sha256:ab", "registry:5000/nginx"),
            ("sha256:abc", "sha256"),
        ] {
            assert_eq!(untagged(image), name);
        }
    }
}
