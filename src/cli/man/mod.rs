//! log-capturer(8): generated from the clap definition, the table of keys and the texts.
//!
//! The page that packages install is `man/log-capturer.8`; a test compares it with what
//! is generated here, and the table of keys with what the config accepts.

pub mod keys;
mod text;

use std::io::Write as _;

use clap_mangen::Man;

use super::exit::Exit;

/// Prints the page on standard output.
pub fn print() -> Exit {
    match std::io::stdout().write_all(page().as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failure,
    }
}

/// The whole page as roff.
pub fn page() -> String {
    let definition = super::definition();
    let version = format!("log-capturer {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(definition.clone())
        .title("LOG-CAPTURER")
        .section("8")
        .source(version)
        .manual("System Administration");
    let mut out = String::new();
    push(&mut out, |w| man.render_title(w));
    section(&mut out, "NAME", "log-capturer - ship log files and Docker logs to Grafana Loki");
    push(&mut out, |w| man.render_synopsis_section(w));
    section(&mut out, "DESCRIPTION", text::DESCRIPTION);
    commands(&mut out, &definition);
    push(&mut out, |w| man.render_options_section(w));
    configuration(&mut out);
    section(&mut out, "FILES", text::FILES);
    section(&mut out, "SIGNALS", text::SIGNALS);
    exit_status(&mut out);
    metrics(&mut out);
    section(&mut out, "EXAMPLES", text::EXAMPLES);
    section(&mut out, "SEE ALSO", text::SEE_ALSO);
    out
}

fn push(out: &mut String, render: impl Fn(&mut dyn std::io::Write) -> std::io::Result<()>) {
    let mut bytes = Vec::new();
    render(&mut bytes).unwrap_or_else(|e| panic!("writing to memory failed: {e}"));
    out.push_str(&String::from_utf8_lossy(&bytes));
}

/// Escapes text for roff; a hyphen stays one that can be copied.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// A section of the small markup of `text`: blank line: paragraph; `= term`: a term, its
/// text on the next lines; four blanks: literal.
fn section(out: &mut String, title: &str, body: &str) {
    out.push_str(&format!(".SH {title}\n"));
    let mut literal = false;
    for line in body.lines() {
        let is_literal = line.starts_with("    ");
        if is_literal != literal {
            out.push_str(if is_literal { ".PP\n.nf\n.RS 4\n" } else { ".RE\n.fi\n" });
            literal = is_literal;
        }
        match line.strip_prefix("= ") {
            Some(term) => out.push_str(&format!(".TP\n\\fB{}\\fR\n", escape(term))),
            None if line.is_empty() => out.push_str(".PP\n"),
            None => {
                out.push_str(&format!("{}\n", escape(line.strip_prefix("    ").unwrap_or(line))))
            }
        }
    }
    if literal {
        out.push_str(".RE\n.fi\n");
    }
}

fn commands(out: &mut String, definition: &clap::Command) {
    out.push_str(".SH COMMANDS\n");
    for command in definition.get_subcommands().filter(|c| !c.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        out.push_str(&format!(".TP\n\\fB{}\\fR\n{}.\n", command.get_name(), escape(&about)));
        for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
            let (Some(long), Some(help)) = (arg.get_long(), arg.get_help()) else { continue };
            if long != "help" && long != "config" {
                let help = escape(&help.to_string());
                out.push_str(&format!("With \\fB\\-\\-{}\\fR: {help}.\n", escape(long)));
            }
        }
    }
}

fn configuration(out: &mut String) {
    section(out, "CONFIGURATION", text::CONFIGURATION);
    for group in keys::groups() {
        out.push_str(&format!(".SS {}\n", escape(group.title)));
        for key in group.keys {
            out.push_str(&format!(".TP\n\\fB{}\\fR\n", escape(&key.key)));
            out.push_str(&format!("{}. {}.\n", escape(key.kind), escape(key.sentence)));
            if !key.limits.is_empty() {
                out.push_str(&format!("Limits: {}.\n", escape(&key.limits)));
            }
            out.push_str(&format!("Default: {}.\n", escape(&key.default)));
        }
    }
}

fn exit_status(out: &mut String) {
    out.push_str(".SH EXIT STATUS\n");
    for exit in Exit::ALL {
        out.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", exit.code(), escape(exit.meaning())));
    }
}

fn metrics(out: &mut String) {
    section(out, "METRICS", text::METRICS);
    for (name, labels, meaning) in text::METRIC_NAMES {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let name = escape(&format!("{name}{labels}"));
        out.push_str(&format!(".TP\n\\fB{name}\\fR\n{}.\n", escape(meaning)));
    }
}
