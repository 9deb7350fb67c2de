//! Flags with unexpected values: an exit status of 0, 1 or 2, no panic, no abort, no hang.
//!
//! `SOFT_FLAGS=5000 cargo test --release -p soft-examples --test flags` tries this many command
//! lines (default 250); `SOFT_SEED` sets the seed.

#![cfg(unix)]

#[path = "mutations/mutate.rs"]
#[allow(dead_code)] // used by the test `mutations`
mod mutate;
mod programs;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mutate::Random;
use programs::{soft, tiny_llama};

/// A subcommand, its fixed arguments, and the flags that get random values. Flags that take long
/// with large numbers, such as `--steps`, are left out.
struct Program {
    name: &'static str,
    always: &'static [&'static str],
    flags: &'static [&'static str],
}

const DECODING: [&str; 21] = [
    "--mode",
    "--exits",
    "--policy",
    "--thresholds",
    "--draft-length",
    "--temperature",
    "--top-k",
    "--top-p",
    "--min-p",
    "--repetition-penalty",
    "--max-new-tokens",
    "--batch",
    "--seed",
    "--limit",
    "--stop",
    "--device",
    "--dtype",
    "--chat",
    "--full-draft-head",
    "--ignore-eos",
    "--control-tokens",
];

/// `chat` reads standard input, which is empty here.
const CHAT: [&str; 6] = [
    "--mode", "--exits", "--policy", "--seed", "--system", "--stop",
];

const SWITCHES: [&str; 7] = [
    "--train-body",
    "--dry-run",
    "--full-draft-head",
    "--ignore-eos",
    "--control-tokens",
    "--gradient-checkpointing",
    "--constant",
];

const PROGRAMS: [Program; 10] = [
    Program {
        name: "generate",
        always: &["--prompt", "question : where"],
        flags: &DECODING,
    },
    Program {
        name: "generate",
        always: &["--prompts", "ROWS"],
        flags: &DECODING,
    },
    Program {
        name: "chat",
        always: &[],
        flags: &CHAT,
    },
    Program {
        name: "lm-eval",
        always: &["--task", "piqa", "--data", "ROWS"],
        flags: &[
            "--task", "--data", "--exits", "--limit", "--batch", "--out", "--device", "--dtype",
        ],
    },
    Program {
        name: "lens",
        always: &["--prompt", "question : where"],
        flags: &[
            "--prompt", "--tokens", "--exits", "--save", "--device", "--dtype",
        ],
    },
    Program {
        name: "finetune",
        always: &[
            "--data",
            "ROWS",
            "--format",
            "jsonl",
            "--out",
            "OUT",
            "--steps",
            "2",
            "--batch",
            "2",
            "--accumulation",
            "1",
            "--exits",
            "4,8",
        ],
        flags: &[
            "--method",
            "--exits",
            "--last-blocks",
            "--lora",
            "--lora-alpha",
            "--lora-targets",
            "--lora-layers",
            "--layer-dropout",
            "--dtype",
            "--exit-weights",
            "--curriculum",
            "--sampled-exits",
            "--distill",
            "--temperature",
            "--gradient-limit",
            "--combine-gradients",
            "--objective",
            "--limit",
            "--max-len",
            "--batch",
            "--pack",
            "--epochs",
            "--lr",
            "--warmup",
            "--weight-decay",
            "--beta2",
            "--clip",
            "--seed",
            "--validation",
            "--validate-every",
            "--checkpoint-every",
            "--keep",
            "--config",
            "--format",
            "--data",
            "--device",
            "--train-body",
            "--control-tokens",
            "--gradient-checkpointing",
            "--constant",
        ],
    },
    Program {
        name: "evaluate",
        always: &["--data", "ROWS", "--format", "jsonl", "--exits", "4,8"],
        flags: &[
            "--exits",
            "--limit",
            "--batch",
            "--max-len",
            "--format",
            "--mode",
            "--max-new-tokens",
            "--data",
            "--answer-exits",
            "--show",
            "--json",
            "--journal",
        ],
    },
    Program {
        name: "calibrate",
        always: &[
            "--prompts",
            "ROWS",
            "--exits",
            "4,8",
            "--max-new-tokens",
            "4",
            "--dry-run",
        ],
        flags: &[
            "--exits",
            "--limit",
            "--batch",
            "--disagreement",
            "--confidence",
            "--criterion",
            "--check",
            "--seed",
            "--text",
            "--control-tokens",
        ],
    },
    Program {
        name: "sweep",
        always: &[
            "--prompt",
            "question : where",
            "--exits",
            "4,8",
            "--max-new-tokens",
            "4",
        ],
        flags: &[
            "--exits",
            "--drafts",
            "--lengths",
            "--criteria",
            "--thresholds",
            "--mode",
            "--least-agreement",
            "--limit",
            "--seed",
        ],
    },
    Program {
        name: "extract",
        always: &["--out", "OUT", "--depth", "4"],
        flags: &["--depth"],
    },
];

const VALUES: [&str; 36] = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "-0.5",
    "1.5",
    "8",
    "9",
    "4294967296",
    "18446744073709551615",
    "99999999999999999999999999",
    "1e400",
    "-1e400",
    "NaN",
    "inf",
    "-inf",
    "1e-320",
    "4,8",
    "8,4",
    "4,4",
    "2:8:2",
    "8:2:-1",
    "1..8",
    "4:0.5",
    "4:NaN",
    "dynamic",
    "dynamic:margin=4:0.5",
    "speculative=4",
    "exit=0",
    "adaptive",
    "confident=2",
    "nowhere",
    "\u{1b}[31m,\u{fdd0}",
];

fn value(random: &mut Random) -> OsString {
    match random.below(20) {
        0 => OsStr::from_bytes(b"caf\xE9\xFF").to_owned(),
        1 => "9".repeat(400).into(),
        2 => "x,".repeat(3000).into(),
        3..=10 => random.pick(&["1", "2", "4", "8", "0.5", "4,8"]).into(),
        _ => random.pick(&VALUES).into(),
    }
}

#[test]
fn flags_with_strange_values_end_in_an_exit_status() {
    let number = |name: &str, otherwise: u64| {
        let given = std::env::var(name).ok();
        given.map_or(otherwise, |text| text.parse().unwrap())
    };
    let (count, seed) = (number("SOFT_FLAGS", 250), number("SOFT_SEED", 1));
    let root = tempfile::tempdir().unwrap();
    let rows = root.path().join("rows.jsonl");
    let row = "{\"prompt\": \"question : where\", \"response\": \" in .\"}\n";
    fs::write(
        &rows,
        row.repeat(6).replace("\"response\"", "\"completion\""),
    )
    .unwrap();
    let prompts = root.path().join("prompts.jsonl");
    fs::write(&prompts, "{\"prompt\": \"question : where\"}\n".repeat(3)).unwrap();
    let mut statuses = std::collections::BTreeMap::<i32, usize>::new();
    for index in 0..count {
        let mut random = Random(seed ^ index.wrapping_mul(0xA076_1D64_78BD_642F));
        let program = random.pick(&PROGRAMS);
        let out = root.path().join(format!("out-{index}"));
        let mut command = soft(program.name);
        command
            .env_remove("RUST_BACKTRACE")
            .current_dir(root.path());
        if random.below(12) > 0 {
            command.arg("--model").arg(tiny_llama());
        }
        let is_prompted = program.name == "generate" || program.name == "calibrate";
        let flags = (0..=random.below(2)).map(|_| *random.pick(program.flags));
        let flags = flags.collect::<std::collections::BTreeSet<_>>();
        // Most subcommands refuse a flag that is given twice.
        for pair in program.always.chunks(2) {
            if flags.contains(pair[0]) {
                continue;
            }
            command.arg(pair[0]);
            match pair.get(1) {
                Some(&"ROWS") if is_prompted => command.arg(&prompts),
                Some(&"ROWS") => command.arg(&rows),
                Some(&"OUT") => command.arg(&out),
                Some(value) => command.arg(value),
                None => &mut command,
            };
        }
        for flag in flags {
            let mut flag = OsString::from(flag);
            if !SWITCHES.contains(&flag.to_str().unwrap()) {
                flag.push("=");
                flag.push(value(&mut random));
            }
            command.arg(flag);
        }
        let status = finished(command, root.path());
        *statuses.entry(status).or_default() += 1;
        let _ = fs::remove_dir_all(&out);
    }
    println!("{count} command lines; exit statuses {statuses:?}");
    assert!(statuses.len() > 1, "nothing was accepted, or everything");
}

/// The exit status of a command, which must have one.
#[track_caller]
fn finished(mut command: std::process::Command, root: &Path) -> i32 {
    let said = root.join("said");
    let file = fs::File::create(&said).unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let said = String::from_utf8_lossy(&fs::read(&said).unwrap()).into_owned();
    assert!(!said.contains("panicked"), "{command:?}: {said}");
    status
        .code()
        .unwrap_or_else(|| panic!("{command:?} was aborted: {said}"))
}
