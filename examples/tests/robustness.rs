//! Conditions that must not lose a run, hang the program or end in a panic: closed pipes, a second
//! process, changed files, invalid files, huge numbers.

#![cfg(unix)]

mod programs;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use programs::{finetune, soft, tiny_llama};

fn rows(root: &Path) -> PathBuf {
    let path = root.join("rows.jsonl");
    let row = |i: usize| {
        let word = ["egg", "kale", "soup", "fig"][i % 4];
        format!(
            "{{\"prompt\": \"question : repeat the words {word} {i} . answer :\", \"response\": \" {word} .\"}}\n"
        )
    };
    fs::write(&path, (0..24).map(row).collect::<String>()).unwrap();
    path
}

/// A run of `steps` steps with a checkpoint every other one.
fn run(data: &Path, out: &Path, steps: &str) -> Command {
    let mut command = finetune(data, out);
    command.args([
        "--format",
        "jsonl",
        "--exits",
        "2:8:2",
        "--batch",
        "2",
        "--accumulation",
        "2",
    ]);
    command.args([
        "--validation",
        "2",
        "--validate-every",
        "2",
        "--checkpoint-every",
        "2",
        "--steps",
        steps,
    ]);
    command.env_remove("RUST_BACKTRACE");
    command
}

fn steps_logged(out: &Path) -> usize {
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
    log.lines()
        .filter(|line| line.starts_with("{\"train\""))
        .count()
}

fn wait_for_steps(child: &mut Child, out: &Path, steps: usize) {
    while steps_logged(out) < steps {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_survives_closed_pipes_and_a_full_disk_for_its_output() {
    let root = tempfile::tempdir().unwrap();
    let data = rows(root.path());
    for (name, redirection) in [
        ("closed", "2>&- >&-"),
        ("head", "2>&1 | head -n 1"),
        ("full", ">/dev/full 2>/dev/full"),
    ] {
        let out = root.path().join(name);
        let program = run(&data, &out, "8");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("\"$@\" {redirection}"), "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(steps_logged(&out), 8, "{name}");
        assert!(
            out.join("model/model.safetensors").exists(),
            "{name}: no model"
        );
    }
}

#[test]
fn closed_pipes_cause_no_panic() {
    for (subcommand, arguments) in [
        (
            "generate",
            &["--prompt", "question : where", "--max-new-tokens", "4"][..],
        ),
        ("lens", &["--prompt", "question : where"]),
        ("generate", &["--help"]),
    ] {
        for redirection in ["2>&1 >&- | cat", "2>&1 >/dev/full | cat", "| head -n 0"] {
            let program = soft(subcommand);
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("\"$@\" {redirection}"), "sh"]);
            shell.arg(program.get_program()).args(program.get_args());
            shell.arg("--model").arg(tiny_llama()).args(arguments);
            let output = shell.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let said = said + &String::from_utf8_lossy(&output.stderr);
            assert!(
                !said.contains("panicked"),
                "{subcommand} {redirection}: {said}"
            );
        }
    }
}

#[test]
fn a_second_process_leaves_a_run_to_the_first() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (rows(root.path()), root.path().join("out"));
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut first = quiet(&mut run(&data, &out, "40"));
    wait_for_steps(&mut first, &out, 3);
    let second = run(&data, &out, "40").arg("--resume").output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.contains("is in use"),
        "{said}"
    );
    assert!(first.wait().unwrap().success());
    assert_eq!(steps_logged(&out), 40);
    assert!(out.join("model").exists());
}

#[test]
fn changed_data_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (rows(root.path()), root.path().join("out"));
    let mut child = run(&data, &out, "400")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_steps(&mut child, &out, 3);
    child.kill().unwrap();
    child.wait().unwrap();
    // A word of the same length, so that all counts stay the same.
    let text = fs::read_to_string(&data).unwrap();
    fs::write(&data, text.replacen("kale", "soup", 1)).unwrap();
    let output = run(&data, &out, "400").arg("--resume").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("rows.jsonl was") && said.contains("when the run was started"),
        "{said}"
    );
}

#[test]
fn a_second_interrupt_stops_at_once() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (rows(root.path()), root.path().join("out"));
    // Steps long enough to be interrupted twice.
    let mut command = run(&data, &out, "40");
    command
        .args(["--accumulation", "2000"])
        .stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(&mut child, &out, 1);
    let interrupt = || {
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
    };
    assert!(interrupt().unwrap().success());
    std::thread::sleep(Duration::from_millis(30));
    assert!(interrupt().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("again to stop now"), "{said}");
    assert!(said.contains("stopped at once"), "{said}");
    assert_eq!(output.status.code(), Some(130));
    assert!(!out.join("model").exists());
}

/// Runs a command that must fail quickly, with an error that has `part` and without a panic.
#[track_caller]
fn refused(mut command: Command, part: &str) {
    command.env_remove("RUST_BACKTRACE");
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{command:?} hangs"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{command:?} was accepted");
    assert!(said.contains(part), "{part:?} is not in: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(
        output.status.code().is_some(),
        "{command:?} was aborted: {said}"
    );
}

#[test]
fn absurd_numbers_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (data, out) = (rows(root.path()), root.path().join("out"));
    for (arguments, part) in [
        (&["--lora", "4294967296"][..], "lora rank"),
        (&["--lora", "100000"], "lora rank"),
        (&["--accumulation", "4294967296"], "accumulation"),
        (&["--epochs", "inf"], "--epochs is inf"),
        (&["--epochs", "1e300"], "at most 1000000"),
        (&["--epochs=-1"], "--epochs is -1"),
        (&["--warmup", "50", "--steps", "5"], "50 of 5 steps"),
        (&["--lr", "1e400"], "learning rate"),
        (&["--batch", "0"], "batch"),
        (&["--clip=-1"], "clip"),
    ] {
        let mut command = finetune(&data, &out);
        command
            .args(["--format", "jsonl", "--exits", "4,8"])
            .args(arguments);
        refused(command, part);
        assert!(!out.exists());
    }
    let with_model = |subcommand: &str, arguments: &[&str]| {
        let mut command = soft(subcommand);
        command.arg("--model").arg(tiny_llama()).args(arguments);
        command
    };
    let prompts = data.to_str().unwrap();
    for (subcommand, arguments, part) in [
        (
            "sweep",
            &["--prompt", "a", "--exits", "4,8", "--least-agreement=NaN"][..],
            "--least-agreement is NaN",
        ),
        (
            "calibrate",
            &[
                "--prompts",
                prompts,
                "--exits",
                "4,8",
                "--batch",
                "0",
                "--dry-run",
            ],
            "--batch is 0",
        ),
        (
            "generate",
            &[
                "--prompt",
                "a",
                "--mode",
                "dynamic",
                "--exits",
                "4,8",
                "--thresholds",
                "1.5",
            ],
            "expected 0 to 1",
        ),
        (
            "generate",
            &[
                "--prompt",
                "a",
                "--mode",
                "dynamic:margin=4:2",
                "--exits",
                "4,8",
            ],
            "expected 0 to 1",
        ),
        (
            "generate",
            &[
                "--prompt",
                "a",
                "--mode",
                "dynamic:saturation=NaN",
                "--exits",
                "4,8",
            ],
            "expected -1 to 1",
        ),
        (
            "lens",
            &["--tokens", &"1,".repeat(200)[..399]],
            "context holds 128",
        ),
    ] {
        refused(with_model(subcommand, arguments), part);
    }
    let mut plot = soft("plot");
    plot.args(["--log", "nowhere", "--out", "nowhere", "--highest", "inf"]);
    refused(plot, "--highest is inf");
}

#[test]
fn pipes_devices_and_names_that_are_no_text_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let pipe = root.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for path in [&pipe, Path::new("/dev/zero"), root.path()] {
        let mut command = finetune(path, &root.path().join("out"));
        command.args(["--format", "jsonl"]);
        refused(command, "not a regular file");
        let mut command = soft("generate");
        command
            .arg("--model")
            .arg(tiny_llama())
            .arg("--prompts")
            .arg(path);
        refused(command, "not a regular file");
        let mut command = soft("finetune");
        command.arg("--config").arg(path);
        refused(command, "not a regular file");
    }
    for flag in ["--model", "--prompt", "--mode"] {
        let mut command = soft("generate");
        command.arg(flag).arg(OsStr::from_bytes(b"caf\xE9"));
        refused(command, "");
    }
}

#[test]
fn escape_codes_do_not_reach_the_terminal() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(tiny_llama()).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let template = "{{ raise_exception('\u{1b}[31mred\u{7}') }}";
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    let mut command = soft("generate");
    command.arg("--model").arg(&folder).args(["--chat", "a"]);
    let output = command.env_remove("RUST_BACKTRACE").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("[31mred") && !said.contains(['\u{1b}', '\u{7}']),
        "{said:?}"
    );
}
