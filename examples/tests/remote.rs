//! Two compute servers on loopback share a run: losses and weights equal those of one device, and
//! there is a clear error when one of them dies.

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
        let mut serve = programs::soft("serve");
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
    command.args(["--batch", "2", "--accumulation", "2", "--validation", "4"]);
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

#[test]
fn two_servers_are_one_device_with_both_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    write_rows(&data);
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    succeeded(finetune(&data, &one, "cpu", "6").output().unwrap());
    let servers = [Server::start(), Server::start()];
    let addresses = format!("{},{}", servers[0].address, servers[1].address);
    succeeded(finetune(&data, &two, &addresses, "6").output().unwrap());

    let (one_losses, two_losses) = (losses(&one), losses(&two));
    assert_eq!(one_losses.len(), two_losses.len());
    for (one, two) in one_losses.iter().zip(&two_losses) {
        assert!((one - two).abs() < 1e-4 * one, "{one} and {two}");
    }
    let worst = weights(&one).into_iter().zip(weights(&two));
    let worst = worst
        .map(|(one, two)| (one - two).abs())
        .fold(0.0, f32::max);
    // AdamW changes a weight by 1e-3 per step whatever the size of the gradient, and near 0
    // rounding determines the sign.
    assert!(worst < 1e-3, "{worst}");
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
    let checkpoints = || fs::read_dir(out.join("checkpoints")).map_or(0, Iterator::count);
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
