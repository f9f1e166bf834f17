//! The command line from outside: exit codes, where what is printed, the tables of `check`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn log_capturer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_log-capturer"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn check(name: &str, args: &[&str], code: i32, stdout: &str, stderr: &str) -> String {
    let out = log_capturer(args);
    let (o, e) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{name}: stdout:\n{o}\nstderr:\n{e}");
    assert!(o.contains(stdout), "{name}: expected {stdout:?} in stdout:\n{o}\nstderr:\n{e}");
    assert!(e.contains(stderr), "{name}: expected {stderr:?} in stderr:\n{e}\nstdout:\n{o}");
    assert!(!stderr.is_empty() || e.is_empty(), "{name}: stderr:\n{e}");
    o.into_owned()
}

#[test]
fn exit_codes_are_those_of_the_manual() {
    let quickstart = ["check", "--config", "conf/quickstart.yaml"];
    check("a good config", &quickstart, 0, "config OK: conf/quickstart.yaml", "");
    let golden = "tests/golden/config/missing.yaml";
    check("a bad config", &["-c", golden, "check"], 3, "", "missing.yaml:3:7: sources.files[0]");
    check("a bad config of run", &["run", "-c", golden], 3, "", "11 mistakes");
    check("no config", &["check", "-c", "/no/such/file"], 3, "", "/no/such/file: cannot be read");
    check("no command", &[], 2, "", "Usage");
    check("an unknown option", &["check", "--zebra"], 2, "", "--zebra");
    check("an unknown command", &["walk"], 2, "", "walk");
    check("help", &["--help"], 0, "Check the config", "");
    check("version", &["--version"], 0, env!("CARGO_PKG_VERSION"), "");
}

#[test]
fn the_default_config_is_the_one_that_packages_install() {
    check("help", &["check", "--help"], 0, "[default: /etc/log-capturer/log-capturer.yaml]", "");
}

#[test]
fn check_prints_threads_and_budgets() {
    let text = check("check", &["check", "-c", "conf/log-capturer.yaml"], 0, "threads: 16", "");
    for part in ["send-loki-N", "memory: at most ", "queue.memory 8MiB", "disk: at most "] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn check_in_json_has_the_same_figures_and_mistakes() {
    let good = check("good", &["check", "--json", "-c", "conf/log-capturer.yaml"], 0, "", "");
    let good: serde_json::Value = serde_json::from_str(&good).unwrap();
    assert_eq!(good["ok"], true);
    let threads = good["threads"].as_array().unwrap();
    let count: u64 = threads.iter().map(|t| t["count"].as_u64().unwrap()).sum();
    assert_eq!(count, 16);
    for budget in ["memory_bytes", "disk_bytes", "file_descriptors"] {
        let items = good[budget]["items"].as_array().unwrap();
        let sum: u64 = items.iter().map(|i| i["amount"].as_u64().unwrap()).sum();
        assert_eq!(good[budget]["total"], sum, "{budget}");
    }
    let args = ["check", "--json", "-c", "tests/golden/config/tag.yaml"];
    let bad: serde_json::Value = serde_json::from_str(&check("bad", &args, 3, "", "")).unwrap();
    let first = &bad["diagnostics"][0];
    assert_eq!(
        (&bad["ok"], &first["line"], &first["column"]),
        (&false.into(), &1.into(), &11.into())
    );
    assert_eq!(first["key"], "data_dir");
}

#[test]
fn a_pattern_that_reads_the_captured_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.yaml");
    let captured = dir.path().join("captured");
    let text = format!(
        "data_dir: {0}/data\nsources: {{ files: [{{ include: ['{0}/**'] }}] }}\n\
         sinks: [{{ type: local_file, path: '{1}' }}]\n",
        dir.path().display(),
        captured.display()
    );
    fs::write(&config, &text).unwrap();
    let path = config.to_str().unwrap();
    check("loop", &["check", "-c", path], 3, "", "feedback loop");
    // The same through another name of the directory.
    let link = dir.path().join("link");
    fs::create_dir(&captured).unwrap();
    std::os::unix::fs::symlink(&captured, &link).unwrap();
    let text = format!(
        "data_dir: /nonexistent\nsources: {{ files: [{{ include: ['{}/*'] }}] }}\n\
         sinks: [{{ type: local_file, path: '{}' }}]\n",
        captured.display(),
        link.display()
    );
    fs::write(&config, text).unwrap();
    check("loop by link", &["check", "-c", path], 3, "", "feedback loop");
    assert!(!Path::new(path).with_file_name("data").exists(), "check made the data directory");
}
