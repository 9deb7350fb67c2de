//! Compute servers on loopback share a run: losses and weights equal those of one device, the bytes
//! between them are those of the sharding, and there is a clear error when one of them dies.

mod programs;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use programs::{losses, write_rows};

/// A compute server, killed when it is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut serve = programs::soft("serve-device");
        serve.args(["--listen", "127.0.0.1:0"]);
        let mut child = serve
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        // The server logs there, and would block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("ws://"));
        let address = address.unwrap().trim_end_matches(';').to_owned();
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn finetune(data: &Path, out: &Path, devices: &str, steps: &str) -> Command {
    let mut command = programs::finetune(data, out);
    command.args(["--format", "jsonl", "--exits", "2,8", "--lr", "1e-3"]);
    command.args(["--batch", "1", "--accumulation", "4", "--validation", "4"]);
    command.args([
        "--steps",
        steps,
        "--checkpoint-every",
        "2",
        "--device",
        devices,
    ]);
    command
}

fn weights(out: &Path) -> Vec<f32> {
    let bytes = fs::read(out.join("model/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| {
        let view = tensors.tensor(name).unwrap();
        let values = view.data().as_chunks::<4>().0.to_vec();
        values.into_iter().map(f32::from_le_bytes)
    };
    let mut names = tensors.names();
    names.sort_unstable();
    names.into_iter().flat_map(numbers).collect()
}

fn succeeded(output: Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// The bytes between devices at every step, as `--profile-device` prints them.
fn bytes_between_devices(stderr: &[u8]) -> Vec<u64> {
    let stderr = String::from_utf8_lossy(stderr);
    let lines = stderr.lines().filter(|line| line.starts_with("step "));
    let bytes = |line: &str| {
        let (before, _) = line.split_once(" B between devices")?;
        before.rsplit(' ').next()?.parse().ok()
    };
    lines.filter_map(bytes).collect()
}

#[test]
fn servers_that_share_the_micro_batches_are_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    write_rows(&data);
    let one = folder.path().join("one");
    succeeded(finetune(&data, &one, "cpu", "6").output().unwrap());
    for number in [2, 4] {
        let servers: Vec<_> = (0..number).map(|_| Server::start()).collect();
        let addresses: Vec<_> = servers.iter().map(|it| it.address.clone()).collect();
        let many = folder.path().join(format!("{number}"));
        let mut run = finetune(&data, &many, &addresses.join(","), "6");
        let output = run.arg("--profile-device").output().unwrap();
        // Every gradient goes to the owner of its parameter and every weight from there; apart from
        // these, two losses of every micro-batch.
        let parameters = weights(&many).len() as u64;
        let expected = 2 * (number - 1) * parameters * 4;
        let steps = bytes_between_devices(&output.stderr);
        succeeded(output);
        assert_eq!(steps.len(), 6, "{number} devices");
        for bytes in steps {
            assert!(
                (expected..=expected + 64).contains(&bytes),
                "{bytes}, {expected}"
            );
        }

        let (one_losses, many_losses) = (losses(&one), losses(&many));
        assert_eq!(one_losses.len(), many_losses.len());
        for (one, many) in one_losses.iter().zip(&many_losses) {
            assert!((one - many).abs() < 1e-4 * one, "{one} and {many}");
        }
        let worst = weights(&one).into_iter().zip(weights(&many));
        let worst = worst
            .map(|(one, many)| (one - many).abs())
            .fold(0.0, f32::max);
        // AdamW changes a weight by 1e-3 per step whatever the size of the gradient, and near 0
        // rounding determines the sign.
        assert!(worst < 1e-3, "{worst}");
    }
}

#[test]
fn a_server_that_dies_ends_the_run_and_leaves_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    write_rows(&data);
    let out = folder.path().join("run");
    let (first, second) = (Server::start(), Server::start());
    let addresses = format!("{},{}", first.address, second.address);
    let mut run = finetune(&data, &out, &addresses, "40");
    let mut run = run
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that is being written is hidden.
    let is_whole = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    let checkpoints = || {
        let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten();
        entries.flatten().filter(is_whole).count()
    };
    while checkpoints() == 0 {
        assert!(run.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(second);
    let output = run.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let part = "the last good checkpoint is step";
    assert!(error.contains(part) && error.contains("failed"), "{error}");
    // The run can be resumed on another device.
    let mut rest = finetune(&data, &out, "cpu", "40");
    succeeded(rest.arg("--resume").output().unwrap());
    assert!(out.join("model/model.safetensors").exists());
    drop(first);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    write_rows(&data);
    let out = folder.path().join("run");
    let output = finetune(&data, &out, "ws://127.0.0.1:9", "4")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let part = "cannot connect to the compute server at ws://127.0.0.1:9";
    assert!(error.contains(part), "{error}");
    assert!(!out.exists());
}
