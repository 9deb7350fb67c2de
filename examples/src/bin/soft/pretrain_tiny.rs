//! `soft pretrain-tiny`: pre-trains the quickstart's small LLaMA on text about an invented world.
//!
//! Ordinary next-token training of the full model (0.9 M parameters, 8 blocks). As in a real LLaMA,
//! intermediate exits are useless before sorted fine-tuning. `examples/tiny-llama` was made with
//! the defaults.

use std::path::PathBuf;

use anyhow::{Context, Result};
use soft_burn::{
    AdamWSettings, DType, Decay, Llama, LlamaConfig, Method, RopeScaling, SaveOptions, Schedule,
    SpecialTokens, TrainSettings, Trainer, keep_freed_memory,
};
use soft_core::{Batch, Example, Exits};
use soft_data::{Loader, LoaderConfig, Tokenizer, ordered_batches};
use soft_examples::device::DeviceArgs;
use soft_examples::outln;
use soft_examples::progress::Progress;
use soft_examples::tiny_world::{World, tokenizer_config_json, tokenizer_json, vocabulary};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// New folder for the model
    #[arg(long, default_value = "runs/tiny-llama")]
    out: PathBuf,
    /// Optimizer steps
    #[arg(long, default_value_t = 6000)]
    steps: u64,
    /// Documents per step, about 58 words each
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// Documents to train on
    #[arg(long, default_value_t = 40_000)]
    documents: usize,
    /// Seed of weights and order
    #[arg(long, default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The seed of the world, the same as in the quickstart.
const WORLD: u64 = 7;

pub fn run(args: Args) -> Result<()> {
    keep_freed_memory();
    anyhow::ensure!(
        !args.out.exists(),
        "{} is there already",
        args.out.display()
    );
    let device = args.device.open()?;
    let folder = tokenizer_folder()?;
    let tokenizer = Tokenizer::from_folder(folder.path(), vocabulary().len())?;
    let examples = World::new(WORLD)
        .pretraining_text(args.documents, args.seed)
        .iter()
        .map(|document| document_of(document, &tokenizer))
        .collect::<Result<Vec<_>>>()?;
    let (validation, train) = examples.split_at(256.min(args.documents / 4));
    let validation = ordered_batches(validation, 64)?;
    let loader = LoaderConfig {
        batch_size: args.batch,
        seed: args.seed,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(train.to_vec(), loader)?;

    let model = Llama::random(shape(&tokenizer), args.seed, &device)?;
    outln!("{} parameters", model.config().parameters());
    let trainer = Trainer::new(model, settings(&args)?)?;
    let model = train_model(trainer, loader, &validation)?;
    let options = SaveOptions {
        dtype: DType::Bf16, // half the size of f32
        companions: Some(folder.path()),
        ..SaveOptions::default()
    };
    model.save_pretrained(&args.out, &options)?;
    outln!("model: {}", args.out.display());
    Ok(())
}

fn tokenizer_folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json())?;
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        tokenizer_config_json(),
    )?;
    Ok(folder)
}

fn document_of(text: &str, tokenizer: &Tokenizer) -> Result<Example> {
    let mut tokens = tokenizer.encode_start(text)?;
    tokens.push(tokenizer.eos());
    Ok(Example::text(tokens))
}

fn shape(tokenizer: &Tokenizer) -> LlamaConfig {
    let special = SpecialTokens {
        bos_token_id: tokenizer.bos(),
        eos_token_id: Some(tokenizer.eos()),
        pad_token_id: Some(tokenizer.pad()),
    };
    LlamaConfig {
        vocab: vocabulary().len(),
        d_model: 96,
        d_feed_forward: 256,
        n_layers: 8,
        n_heads: 6,
        n_kv_heads: 6,
        head_dim: 16,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_positions: 128,
        tied: true,
        initializer_range: 0.04,
        architecture: soft_burn::Architecture::default(),
        other: special.to_keys(),
    }
}

fn settings(args: &Args) -> Result<TrainSettings> {
    Ok(TrainSettings {
        schedule: Schedule {
            peak: args.lr,
            warmup_steps: 100,
            decay: Decay::Cosine,
        },
        optimizer: AdamWSettings {
            beta2: 0.98,
            weight_decay: 0.1,
            ..AdamWSettings::default()
        },
        ..TrainSettings::new(Method::sft(), Exits::new([2, 4, 6, 8])?, args.steps)
    })
}

fn train_model(mut trainer: Trainer, mut loader: Loader, validation: &[Batch]) -> Result<Llama> {
    let steps = trainer.settings().steps;
    let mut progress = Progress::new("pre-training", steps, 0);
    for _ in 0..steps {
        let report = trainer.step(&mut loader)?;
        progress.step(&format!(
            "loss {:.3} {:.0} tokens/s",
            report.loss, report.tokens_per_second
        ));
        if report.step % 1000 == 0 || report.step == steps {
            let losses = trainer.validate(validation)?;
            let losses = losses
                .iter()
                .map(|exit| format!("{}: {:.3}", exit.exit, exit.loss));
            progress.say(&format!(
                "step {}: {}",
                report.step,
                losses.collect::<Vec<_>>().join("  ")
            ));
        }
    }
    progress.finish();
    Ok(trainer.trained())
}
