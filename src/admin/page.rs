//! The status page: what a person wants to know first, without scripts and without the net.
//!
//! Figures only: no line of any log, no config. Everything that comes from outside (names of
//! sources, reasons) is escaped.

use std::fmt::Write as _;

use super::figures::{Figures, word, worst};
use super::health::reasons;
use super::http::{Answer, Status};

/// Metrics that the page shows, in its order.
const SHOWN: [(&str, &str); 10] = [
    ("log_capturer_lines_read_total", "Lines read"),
    ("log_capturer_logs_sent_total", "Lines by what a sink made of them"),
    ("log_capturer_lines_pending", "Lines read and not yet answered for"),
    ("log_capturer_lines_diverted_total", "Lines in dead letters"),
    ("log_capturer_lines_filtered_total", "Lines left out by a rule"),
    ("log_capturer_bytes_at_risk", "Bytes at risk"),
    ("log_capturer_sink_queue_bytes", "Bytes queued for a sink"),
    ("log_capturer_errors_total", "Errors"),
    ("log_capturer_total_files_monitored", "Files followed"),
    ("log_capturer_total_containers_monitored", "Containers followed"),
];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;\
    padding:0 1em;color:#1c1c1c;background:#fff}table{border-collapse:collapse;width:100%}\
    th,td{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid #ddd;\
    vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}\
    .healthy{color:#176b2c}.degraded{color:#8a5a00}.unhealthy{color:#b00020}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}\
    th,td{border-color:#333}.healthy{color:#6fcf87}.degraded{color:#e0a83c}\
    .unhealthy{color:#ff6b7d}a{color:#8ab4f8}}";

/// The answer to `GET /`.
pub fn answer(figures: &Figures) -> Answer {
    let metrics = figures.render_metrics();
    let (audit, conditions) = figures.look();
    let status = word(worst(&conditions));
    let mut page = String::with_capacity(8 << 10);
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"10\"><title>log-capturer: {status}</title>\
         <style>{STYLE}</style></head><body><h1>log-capturer {}</h1>\
         <p>Status: <strong class=\"{status}\">{status}</strong>, up {}, {} of {} threads. \
         <a href=\"/health\">health</a>, <a href=\"/metrics\">metrics</a></p>",
        env!("CARGO_PKG_VERSION"),
        crate::units::show_duration(std::time::Duration::from_secs(
            figures.started.elapsed().as_secs()
        )),
        audit.running,
        audit.expected,
    );
    let reasons = reasons(&conditions);
    if !reasons.is_empty() {
        page.push_str("<h2>What is wrong</h2><ul>");
        for reason in &reasons {
            let _ = write!(page, "<li>{}</li>", escape(reason));
        }
        page.push_str("</ul>");
    }
    figures_table(&mut page, &metrics);
    page.push_str("<h2>Threads</h2><table><tr><th>name<th>state<th>for</tr>");
    for thread in &audit.threads {
        let (name, state) = (escape(&thread.name), thread.state.as_str());
        let _ = write!(page, "<tr><td>{name}<td>{state}<td>{} s</tr>", thread.since.as_secs());
    }
    page.push_str("</table></body></html>\n");
    Answer {
        status: Status::OK,
        content_type: "text/html; charset=utf-8",
        allow: None,
        body: page.into_bytes(),
    }
}

fn figures_table(page: &mut String, metrics: &str) {
    page.push_str("<h2>Figures</h2><table>");
    for (name, title) in SHOWN {
        for line in metrics.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let Some((labels, value)) = rest.rsplit_once(' ') else { continue };
            if !labels.is_empty() && !labels.starts_with('{') {
                continue;
            }
            let labels = escape(labels.trim_start_matches('{').trim_end_matches('}'));
            let _ =
                write!(page, "<tr><td>{title}<td>{labels}<td class=\"n\">{}</tr>", escape(value));
        }
    }
    page.push_str("</table>");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_only_whole_names_match() {
        let mut page = String::new();
        let metrics = "log_capturer_lines_pending{sink=\"<b>\"} 7\n\
                       log_capturer_lines_pending_other 8\n# TYPE log_capturer_lines_pending g\n";
        figures_table(&mut page, metrics);
        assert!(page.contains("<td>sink=&quot;&lt;b&gt;&quot;<td class=\"n\">7</tr>"), "{page}");
        assert_eq!(page.matches("<tr>").count(), 1, "{page}");
    }
}
