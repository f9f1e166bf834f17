//! From the registry to Prometheus's classic text format (0.0.4). Pure.
//!
//! prometheus-client writes OpenMetrics, where a counter's family name lacks the `_total` of
//! its samples. The classic format has no such difference: left as it is, a server would take
//! every counter as untyped and without help.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

use super::ProcessFigures;

#[derive(Debug)]
struct Process(ProcessFigures);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode(&mut encoder)
    }
}

/// The registry's metrics, then those of the process, which carry no prefix.
pub(super) fn render(registry: &Registry, figures: &ProcessFigures) -> String {
    let mut open = String::with_capacity(16 << 10);
    let mut process = Registry::default();
    process.register_collector(Box::new(Process(figures.clone())));
    for registry in [registry, &process] {
        // Writing to a String cannot fail; a metric that fails to encode is a bug of ours.
        let encoded = encode_registry(&mut open, registry);
        assert!(encoded.is_ok(), "metrics encode into memory");
    }
    classic(&open)
}

/// Gives counters their `_total` in HELP and TYPE, and leaves out UNIT and EOF.
fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + 1024);
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(out, "# HELP {name}{total} {text}");
            }
            let _ = writeln!(out, "# TYPE {name}{total} {kind}");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_typed_under_the_name_of_their_samples() {
        let open = "# HELP a_b Help me.\n# TYPE a_b counter\na_b_total{x=\"# TYPE\"} 1\n\
                    # HELP g_bytes G.\n# TYPE g_bytes gauge\n# UNIT g_bytes bytes\ng_bytes 2\n\
                    # EOF\n";
        let want = "# HELP a_b_total Help me.\n# TYPE a_b_total counter\n\
                    a_b_total{x=\"# TYPE\"} 1\n# HELP g_bytes G.\n# TYPE g_bytes gauge\n\
                    g_bytes 2\n";
        assert_eq!(classic(open), want);
    }
}
