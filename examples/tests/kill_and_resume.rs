//! A training run killed at ten random moments and resumed each time equals an uninterrupted run.
//!
//! The real program, SIGKILL, and the committed tiny model; on `cpu`, or the device in
//! `SOFT_TEST_DEVICE`.

mod programs;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use programs::write_rows;
use serde_json::Value;

const KILLS: u32 = 10;
const STEPS: &str = "60";

fn finetune(data: &Path, out: &Path, resume: bool) -> Child {
    let mut command = programs::finetune(data, out);
    command.args([
        "--format", "jsonl", "--exits", "2:8:2", "--steps", STEPS, "--lr", "1e-3",
    ]);
    command.args(["--batch", "2", "--accumulation", "2", "--validation", "4"]);
    command.args(["--validate-every", "7", "--checkpoint-every", "3"]);
    if resume {
        command.arg("--resume");
    }
    if let Some(device) = std::env::var_os("SOFT_TEST_DEVICE") {
        command.arg("--device").arg(device);
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The log without wall times, and the bytes of the final weights.
fn outcome(out: &Path) -> (Vec<Value>, Vec<u8>) {
    let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let untimed = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if let Some(report) = line.get_mut("train").and_then(Value::as_object_mut) {
            report.remove("seconds");
            report.remove("tokens_per_second");
        }
        line
    };
    (
        log.lines().map(untimed).collect(),
        fs::read(out.join("model/model.safetensors")).unwrap(),
    )
}

/// Knuth's linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn logged(out: &Path) -> usize {
    fs::read_to_string(out.join("log.jsonl")).map_or(0, |log| log.lines().count())
}

#[test]
fn ten_kills_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("rows.jsonl");
    write_rows(&data);

    let whole = root.path().join("whole");
    assert!(finetune(&data, &whole, false).wait().unwrap().success());
    let expected = outcome(&whole);

    let killed = root.path().join("killed");
    let seed = std::process::id();
    println!("seed {seed}");
    let mut random = Random(seed.into());
    let (mut kills, mut after_a_checkpoint) = (0, 0);
    while kills < KILLS {
        let mut child = finetune(&data, &killed, killed.exists());
        // After some more lines of the log, at a moment within the next step.
        let goal = logged(&killed) + random.below(12) as usize;
        while logged(&killed) < goal && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(random.below(40)));
        if child.try_wait().unwrap().is_some() {
            // The run finished before the kill: undo the finish and try again.
            fs::remove_dir_all(killed.join("model")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        after_a_checkpoint += u32::from(killed.join("checkpoints").exists());
    }
    println!("{after_a_checkpoint} of {KILLS} kills fell after a checkpoint");
    assert!(
        after_a_checkpoint > KILLS / 2,
        "seed {seed}: the kills came too early to mean much"
    );
    assert!(finetune(&data, &killed, true).wait().unwrap().success());
    let found = outcome(&killed);
    assert_eq!(found.0, expected.0, "seed {seed}: the logs differ");
    assert!(found.1 == expected.1, "seed {seed}: the weights differ");
}

/// On Ctrl-C the current step is finished, a checkpoint is written, and the exit status is 0.
#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint_and_exits_cleanly() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("rows.jsonl");
    write_rows(&data);
    let (whole, stopped) = (root.path().join("whole"), root.path().join("stopped"));
    assert!(finetune(&data, &whole, false).wait().unwrap().success());

    let mut child = finetune(&data, &stopped, false);
    while logged(&stopped) < 9 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    assert!(child.wait().unwrap().success(), "Ctrl-C is a clean exit");
    assert!(!stopped.join("model").exists(), "the run is not finished");

    let steps = fs::read_to_string(stopped.join("log.jsonl")).unwrap();
    let steps = steps
        .lines()
        .filter(|line| line.contains("\"train\""))
        .count();
    assert!(
        stopped
            .join(format!("checkpoints/step-{steps:06}"))
            .exists(),
        "{steps} steps"
    );
    assert!(finetune(&data, &stopped, true).wait().unwrap().success());
    assert!(outcome(&stopped) == outcome(&whole));
}
