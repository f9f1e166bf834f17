//! Config files, good and bad: what people see, and what the daemon gets.
//!
//! Each `tests/golden/config/NAME.yaml` has its answer in `NAME.out`. After a wanted
//! change: `UPDATE_GOLDEN=1 cargo test config`, then read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log_capturer::cli::{check, man};
use log_capturer::config::checked::{Auth, Endpoint, SinkKind, StartAt};
use log_capturer::config::secret::Secret;
use log_capturer::config::{self, Config, Diagnostic, Env, Loaded, Severity, raw};
use proptest::prelude::*;

struct TestEnv;

impl Env for TestEnv {
    fn var(&self, name: &str) -> Option<String> {
        let vars = [("SECONDS_10", "10s"), ("URL", "https://loki:3100"), ("EMPTY", "")];
        vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    fn hostname(&self) -> String {
        "box".to_owned()
    }

    fn working_dir(&self) -> PathBuf {
        PathBuf::from("/srv/app")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    config::parse("test.yaml", text.as_bytes(), &TestEnv)
}

fn good(text: &str) -> Config {
    match parse(text) {
        Ok(loaded) => loaded.config,
        Err(found) => panic!("{}", show(&found)),
    }
}

fn show(found: &[Diagnostic]) -> String {
    found.iter().map(|d| format!("{d}\n")).collect()
}

fn compare_golden(path: &Path, got: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, got).unwrap();
    }
    let want = fs::read_to_string(path).unwrap_or_default();
    assert!(got == want, "{} differs, got:\n{got}\nexpected:\n{want}", path.display());
}

#[test]
fn each_golden_file_gets_its_answer() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("tests/golden/config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let got = match config::parse(name, &fs::read(&path).unwrap(), &TestEnv) {
            Ok(loaded) => format!("{}config OK\n", show(&loaded.warnings)),
            Err(found) => show(&found),
        };
        assert!(!got.contains("hunter2"), "{name} shows a secret:\n{got}");
        compare_golden(&path.with_extension("out"), &got);
    }
    assert!(count > 20, "only {count} golden files were found");
}

#[test]
fn every_mistake_is_reported_in_one_run_and_sorted_by_place() {
    let text = fs::read_to_string(root().join("tests/golden/config/units.yaml")).unwrap();
    let found = parse(&text).unwrap_err();
    let lines: Vec<usize> = found.iter().map(|d| d.line).collect();
    assert!(lines.is_sorted(), "{lines:?}");
    assert_eq!(found.iter().filter(|d| d.severity == Severity::Error).count(), 18);
}

#[test]
fn eight_lines_are_a_config_with_the_documented_defaults() {
    let text = fs::read_to_string(root().join("tests/golden/config/eight_lines.yaml")).unwrap();
    assert_eq!(text.lines().count(), 8);
    let config = good(&text);
    assert_eq!(config.data_dir, Path::new("/var/lib/log-capturer"));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(config.server.listen.unwrap().to_string(), "127.0.0.1:8401");
    let files = &config.files[0];
    assert_eq!(files.name, "files");
    let labels: Vec<_> = files.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(labels, ["host=box", "job=files"]);
    assert_eq!((files.start_at, &files.sinks[..]), (StartAt::End, &[0][..]));
    assert!(files.include.set.is_match("/var/log/a.log"));
    assert!(!files.include.set.is_match("/var/log/x/a.log"));
    assert_eq!(config.docker[0].endpoint, Endpoint::Unix("/var/run/docker.sock".into()));
    let SinkKind::Loki(loki) = &config.sinks[0].kind else { panic!("not loki") };
    assert_eq!(loki.url, "http://localhost:3100/loki/api/v1/push");
    assert_eq!((loki.senders, config.sinks[0].name.as_str()), (4, "loki"));
    assert_eq!(loki.max_age, Duration::from_secs(168 * 3600));
}

#[test]
fn values_arrive_as_they_were_written() {
    let config = good(
        "labels: { env: '${X:-prod}', host: '', version: 1.10, on: true, n: 007 }\n\
         sources:\n  files:\n  - include: [logs/*.log, ./a/../b]\n    exclude: ['*.gz', c/d]\n    \
         start_at: 1h30m\n    labels: { job: j }\n  docker:\n  - endpoint: tcp://[::1]:2376\n    \
         exclude: { names: ['buildkit*'], labels: [a=b, c] }\nsinks:\n- type: loki\n  url: \
         ${URL}/custom/push\n  auth: { basic: { user: u, password: 'p$$1' } }\n  tenant: 1\n",
    );
    let labels: Vec<_> = config.files[0].labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(labels, ["env=prod", "job=j", "n=007", "on=true", "version=1.10"]);
    assert_eq!(config.files[0].include.texts, ["/srv/app/logs/*.log", "/srv/app/b"]);
    assert_eq!(config.files[0].exclude.texts, ["*.gz", "/srv/app/c/d"]);
    assert_eq!(config.files[0].start_at, StartAt::Age(Duration::from_secs(5400)));
    let docker = &config.docker[0];
    assert_eq!(docker.endpoint, Endpoint::Tcp { host: "::1".to_owned(), port: 2376 });
    assert!(docker.exclude.names.is_match("buildkit-7") && docker.include.is_empty());
    assert_eq!(docker.exclude.labels[1], ("c".to_owned(), None));
    let SinkKind::Loki(loki) = &config.sinks[0].kind else { panic!("not loki") };
    assert_eq!(loki.url, "https://loki:3100/custom/push");
    assert_eq!(loki.tenant.as_deref(), Some("1"));
    let Auth::Basic { user, password } = &loki.auth else { panic!("no basic") };
    assert_eq!((user.as_str(), password), ("u", &Secret::Value("p$1".to_owned())));
}

#[test]
fn the_installed_config_and_the_quickstart_are_valid() {
    for name in ["log-capturer.yaml", "quickstart.yaml"] {
        let loaded = config::load(&root().join("conf").join(name), &TestEnv);
        let loaded = loaded.unwrap_or_else(|found| panic!("{}", show(&found)));
        assert!(loaded.warnings.is_empty(), "{}", show(&loaded.warnings));
        assert!(!check::report(&loaded.config).is_empty());
    }
}

#[test]
fn one_changed_line_of_the_quickstart_sends_to_loki() {
    let text = fs::read_to_string(root().join("conf/quickstart.yaml")).unwrap();
    let changed = text.replacen("  #- { name: loki", "  - { name: loki", 1);
    assert_ne!(text, changed);
    let config = good(&changed);
    assert!(matches!(&config.sinks[1].kind, SinkKind::Loki(_)));
    assert_eq!(config.files[0].sinks, [0, 1]);
    assert_eq!(good(&text).sinks.len(), 1);
}

/// Uncomments `# key:` lines: what they show must be valid too.
#[test]
fn the_commented_keys_of_the_installed_config_are_valid() {
    let text = fs::read_to_string(root().join("conf/log-capturer.yaml")).unwrap();
    let mut tried = 0;
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(key) = line.trim_start().strip_prefix("# ") else { continue };
        let indent = line.len() - line.trim_start().len();
        let name = key.split(':').next().unwrap();
        let is_key = key.contains(": ") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        // The last sink is commented whole.
        if !is_key || key.starts_with("name") || line.contains("token") || line.contains(".pem") {
            continue;
        }
        let mut changed = lines.clone();
        let uncommented = format!("{}{key}", " ".repeat(indent));
        changed[index] = &uncommented;
        let text = changed.join("\n").replace("credential:loki-password", "secret");
        match parse(&text) {
            Ok(_) => tried += 1,
            // Keys of the commented sink, outside of it.
            Err(found) if found.iter().all(|d| d.message.contains("is not a key of a sink")) => {}
            Err(found) => panic!("{uncommented}\n{}", show(&found)),
        }
    }
    assert!(tried > 20, "only {tried} commented keys were found");
}

#[test]
fn the_manual_has_every_key_and_no_other() {
    let accepted: BTreeSet<String> = raw::keys().into_iter().collect();
    let documented: BTreeSet<String> =
        man::keys::groups().iter().flat_map(|g| &g.keys).map(|k| k.key.clone()).collect();
    let missing: Vec<_> = accepted.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&accepted).collect();
    assert!(missing.is_empty() && stale.is_empty(), "missing {missing:?}, stale {stale:?}");
}

#[test]
fn the_committed_manual_is_what_the_program_prints() {
    compare_golden(&root().join("man/log-capturer.8"), &man::page());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.yaml");
    for path in [missing.as_path(), dir.path()] {
        let found = config::load(path, &TestEnv).unwrap_err();
        let text = show(&found);
        assert!(text.starts_with(&format!("{}: cannot be read: ", path.display())), "{text}");
    }
    let big = dir.path().join("big.yaml");
    fs::write(&big, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(show(&config::load(&big, &TestEnv).unwrap_err()).contains("larger than 1MiB"));
}

#[test]
fn a_file_of_mistakes_alone_is_answered_in_bounds() {
    let keys: String = (0..20_000).map(|n| format!("k{n}: [x], ")).collect();
    let found = parse(&format!("{{ {keys} }}")).unwrap_err();
    assert_eq!(found.len(), 500);
}

/// Text that looks like a config: known keys with values of every shape.
fn config_like() -> impl Strategy<Value = String> {
    let names: Vec<String> = raw::keys()
        .iter()
        .flat_map(|k| k.split(['.', '[']).map(|n| n.trim_end_matches(']').to_owned()))
        .filter(|n| !n.is_empty())
        .collect();
    let value = prop::sample::select(vec![
        "",
        "x",
        "1",
        "-1",
        "1.5",
        "true",
        "~",
        "[]",
        "{}",
        "[a, b]",
        "{a: b}",
        "1MiB",
        "10s",
        "${X}",
        "${X:-1s}",
        "$",
        "file:/dev/null",
        "http://x",
        "loki",
        "local_file",
        "&a x",
        "*a",
        "!t x",
        "|\n  x",
        "\"\\u0000\"",
        "/**",
        "[/**/{a,b}*]",
        "9999999999999999999999",
        "é",
    ]);
    let line = (0..4usize, prop::bool::ANY, prop::sample::select(names), value).prop_map(
        |(depth, item, name, value)| {
            format!("{}{}{name}: {value}\n", "  ".repeat(depth), if item { "- " } else { "" })
        },
    );
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    /// The installed config with lines left out, doubled and cut.
    #[test]
    fn damaged_configs_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, 0..60usize), 1..6),
    ) {
        let text = fs::read_to_string(root().join("conf/log-capturer.yaml")).unwrap();
        let mut lines: Vec<String> =
            text.lines().map(str::to_owned).collect();
        for (line, edit, at) in edits {
            let line = line.index(lines.len());
            let cut = lines[line].char_indices().nth(at).map_or(lines[line].len(), |(i, _)| i);
            match edit {
                0 => { lines.remove(line); }
                1 => lines.insert(line, lines[line].clone()),
                2 => lines[line].truncate(cut),
                _ => lines[line].insert_str(cut, ": ["),
            }
        }
        check_answer(config::parse("f", lines.join("\n").as_bytes(), &TestEnv))?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_answer(config::parse("f", &bytes, &TestEnv))?;
    }

    #[test]
    fn arbitrary_yaml_never_panics(text in "[-a-z:{}\\[\\], \n#&*!|>'\"$?~0-9]{0,120}") {
        check_answer(config::parse("f", text.as_bytes(), &TestEnv))?;
    }

    #[test]
    fn arbitrary_known_keys_never_panic(text in config_like()) {
        check_answer(config::parse("f", text.as_bytes(), &TestEnv))?;
    }
}

fn check_answer(answer: Result<Loaded, Vec<Diagnostic>>) -> Result<(), TestCaseError> {
    match answer {
        Ok(loaded) => {
            prop_assert!(!loaded.config.sinks.is_empty());
            check::report(&loaded.config);
        }
        Err(found) => {
            prop_assert!(found.iter().any(|d| d.severity == Severity::Error));
            for d in &found {
                prop_assert!(!d.to_string().is_empty());
            }
        }
    }
    Ok(())
}
