//! The programs under test, as cargo built them beside the tests, and the model they run on.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The example `name`.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    Command::new(profile.join("examples").join(name))
}

#[allow(dead_code)] // not every test file fine-tunes
/// `finetune` on the quickstart's model; what else it needs the caller adds.
pub fn finetune(data: &Path, out: &Path) -> Command {
    let mut command = example("finetune");
    command.arg("--model").arg(tiny_llama());
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// The committed model of the quickstart.
pub fn tiny_llama() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tiny-llama")
}
