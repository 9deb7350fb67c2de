//! Recipes are read, and invalid ones refused before anything is loaded.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use programs::soft;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

/// The error of `soft finetune --config`, in an empty folder.
fn complaint(recipe: &Path, flags: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = soft("finetune");
    finetune
        .current_dir(folder.path())
        .env_remove("RUST_BACKTRACE");
    let output = finetune
        .arg("--config")
        .arg(recipe)
        .args(flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    String::from_utf8(output.stderr).unwrap()
}

/// Every recipe is valid up to its model, which is missing.
#[test]
fn every_recipe_is_read() {
    let mut count = 0;
    for entry in fs::read_dir(recipes()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            text.starts_with("# ") && text.contains("# Memory: "),
            "{name}"
        );
        assert!(
            text.contains(&format!("soft finetune --config examples/recipes/{name}")),
            "{name}"
        );
        let fields: toml::Table = text.parse().unwrap();
        let model = fields["model"].as_str().unwrap();
        let error = complaint(&path, &[]);
        let expected = format!("no folder {model}");
        assert!(error.contains(&expected), "{name}: {error}");
        count += 1;
    }
    assert!(count > 8, "{count} recipes");
}

#[test]
fn wrong_recipes_are_refused_and_flags_override() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.toml");
    let whole = "model = \"nowhere\"\ndata = \"rows.json\"\nformat = \"alpaca\"\nout = \"run\"\n";
    let refused = |added: &str, flags: &[&str], part: &str| {
        fs::write(&path, format!("{whole}{added}")).unwrap();
        let error = complaint(&path, flags);
        assert!(error.contains(part), "{part:?} is not in: {error}");
    };
    refused(
        "exitss = \"2,4\"",
        &[],
        "unknown field `exitss`: expected one of accumulation, ",
    );
    refused("exits = \"4,2\"", &[], "exits must strictly increase");
    refused("batch = \"many\"", &[], "many");
    refused(
        "curriculum = \"sometimes\"",
        &[],
        "rotational=R or gradual=STEPS",
    );
    // Refused before model and data are read, which are missing.
    let soft = |more: &str| format!("exits = \"2,4\"\n{more}");
    for (wrong, part) in [
        ("exit_weights = [0.5, 0.6]", "weights that sum to 1"),
        (
            "exit_weights = [1]",
            "weights of the exits is 1 for 2 exits",
        ),
        ("sampled_exits = 0", "0 exits sampled"),
        ("sampled_exits = 3", "3 of 2"),
        (
            "lora = 4\nlora_targets = \"query\"",
            "lora target is `query`",
        ),
        ("lora = 0", "lora rank is 0"),
        ("lora = 4\nlast_blocks = 1", "lora is some, and last blocks"),
        (
            "method = \"balcony\"\nlora = 4",
            "lora is some, and method balcony",
        ),
        ("method = \"sft\"\nsampled_exits = 1", "and method sft"),
        ("layer_dropout = 1.5", "layer dropout is 1.5"),
        (
            "dtype = \"f16\"",
            "number type to train in is f16: expected f32 or bf16",
        ),
        ("distill = 2", "distillation share is 2"),
        (
            "combine_gradients = \"mean\"",
            "expected sum, clip-apart or project",
        ),
        (
            "device = \"cpu,cpu\"\naccumulation = 1",
            "2 devices for 1 micro-batches",
        ),
    ] {
        refused(&soft(wrong), &[], part);
    }
    refused(
        "constant = 1",
        &[],
        "field `constant` is 1: expected true or false",
    );
    refused("", &["--model", "elsewhere"], "no folder elsewhere");
}
