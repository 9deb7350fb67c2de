//! The arguments of `soft finetune`, and the training settings they stand for.

use std::path::PathBuf;

use soft_burn::{
    AdamWSettings, Balance, Combination, Curriculum, DType, Decay, Distillation, Error,
    FlatSettings, LayerDropout, Lora, MethodName, Objective, SampledPerBatch, Schedule,
    TrainSettings, Weights,
};
use soft_core::Exits;
use soft_examples::device_profile::ProfileArgs;
use soft_examples::tokens::TokenArgs;

use crate::rows::RowArgs;

#[derive(clap::Args, Debug)]
#[command(args_override_self = true)] // flags override a recipe's
pub struct Args {
    /// Recipe: a TOML file with these flags as fields, as in examples/recipes/; flags override it
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Model folder (config.json, safetensors, tokenizer.json); with the feature `hub` also
    /// `org/name[@revision]`
    #[arg(long)]
    pub model: PathBuf,
    #[command(flatten)]
    pub rows: RowArgs,
    /// soft: all exits; sft: the full model only; ict: one new head per exit, all else frozen;
    /// balcony: one new block and norm per exit, all else frozen
    #[arg(long, default_value = "soft", value_parser = method)]
    pub method: MethodName,
    /// Exits, the last one the full depth: "12:30:3", "12,16,20..24" [default: 4, 8, 12,
    /// ..., and the full depth]
    #[arg(long)]
    pub exits: Option<Exits>,
    /// Train the last K blocks, the final norm and an untied head only [default: everything]
    #[arg(long)]
    pub last_blocks: Option<usize>,
    /// Also train the rest of the model, on the loss of the full depth only, so that the exits do
    /// not influence it (balcony only)
    #[arg(long)]
    pub train_body: bool,
    /// Train low-rank adapters of this rank instead of the weights; they are written to OUT/adapter
    /// in the format of PEFT, and merged into OUT/model
    #[arg(long)]
    pub lora: Option<usize>,
    /// The product of the adapter matrices is scaled by ALPHA / rank
    #[arg(long, default_value_t = 16.0, requires = "lora")]
    pub lora_alpha: f64,
    /// Weights that get adapters: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj
    /// [default: all]
    #[arg(long, value_delimiter = ',', requires = "lora")]
    pub lora_targets: Option<Vec<String>>,
    /// Blocks that get adapters, counted from 0: "0,1,2" [default: all]
    #[arg(long, value_delimiter = ',', requires = "lora")]
    pub lora_layers: Option<Vec<usize>>,
    /// Layer dropout: a row skips the last block with this probability, the first never
    #[arg(long)]
    pub layer_dropout: Option<f64>,
    /// Dtype of the weights in training: f32, or bf16 with an f32 copy in the optimizer
    #[arg(long = "dtype", alias = "weights", default_value = "f32")]
    pub weights: DType,
    /// Keep only the inputs of blocks and recompute each block in the backward pass: less memory,
    /// more time
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Weights of the exits in the loss (soft only): equal, linear, quadratic, square-root or
    /// inverse in the depth, or one per exit, shallowest first: "4,1" [default: equal]
    #[arg(long, value_parser = weights)]
    pub exit_weights: Option<Weights>,
    /// Which exits are trained at which steps (soft only): rotational=R or gradual=STEPS
    /// [default: all exits at every step]
    #[arg(long, value_parser = curriculum)]
    pub curriculum: Option<Curriculum>,
    /// Train this many exits per micro-batch, sampled by their weights, instead of all (soft only)
    #[arg(long)]
    pub sampled_exits: Option<usize>,
    /// Share of the divergence from the full depth in the loss of the other exits, above 0, at most
    /// 1
    #[arg(long)]
    pub distill: Option<f64>,
    /// Temperature of that divergence
    #[arg(long, default_value_t = 1.0, requires = "distill")]
    pub temperature: f64,
    /// Limit the gradient of an exit into the blocks to this multiple of the full depth's, each per
    /// unit of weight (soft only)
    #[arg(long)]
    pub gradient_limit: Option<f64>,
    /// How the exits' gradient is combined with the full depth's: sum, clip-apart (the sum, each
    /// clipped to --clip first) or project (the sum, without what opposes the full depth's); the
    /// last two take two passes (soft only)
    #[arg(long, default_value = "sum", value_parser = combination)]
    pub combine_gradients: Combination,
    /// How the loss is differentiated: flat (memory-flat) or plain (one graph over all exits)
    #[arg(long, default_value = "flat", value_parser = objective)]
    pub objective: Objective,
    #[command(flatten)]
    pub tokens: TokenArgs,
    /// New folder for log, checkpoints and the trained model
    #[arg(long)]
    pub out: PathBuf,
    /// Continue the run in --out from its newest checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Device: cpu, ndarray, torch-cpu; wgpu, vulkan, metal, cuda, torch-cuda, also numbered, as in
    /// cuda:1; or ws://host:port; each if it is compiled in (`soft devices` lists those found).
    /// Several, separated by commas, share the micro-batches of every step
    #[arg(long, default_value = "cpu", help_heading = "Device")]
    pub device: String,
    /// Packing: as many rows per micro-batch as have this many tokens together; --batch then only
    /// sets how many rows are sorted together
    #[arg(long)]
    pub pack: Option<usize>,
    /// Micro-batches per optimizer step
    #[arg(long, default_value_t = 8)]
    pub accumulation: usize,
    /// Epochs; --steps overrides it
    #[arg(long, default_value_t = 2.0)]
    pub epochs: f64,
    /// Optimizer steps
    #[arg(long)]
    pub steps: Option<u64>,
    /// Peak learning rate
    #[arg(long, default_value_t = 2e-5)]
    pub lr: f64,
    /// Steps of linear warm-up
    #[arg(long, default_value_t = 0)]
    pub warmup: u64,
    /// Keep the learning rate constant after warm-up instead of a cosine decay
    #[arg(long)]
    pub constant: bool,
    /// Weight decay of matrices
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f32,
    /// Decay of the mean squared gradient
    #[arg(long, default_value_t = 0.999)]
    pub beta2: f32,
    /// Maximum gradient norm; 0 for no clipping
    #[arg(long, default_value_t = 1.0)]
    pub clip: f64,
    /// Seed of the order of rows and of the sampled exits
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Rows held out for validation [default: 128, or a tenth of the rows if that is less]
    #[arg(long)]
    pub validation: Option<usize>,
    /// Steps between validations
    #[arg(long, default_value_t = 100)]
    pub validate_every: u64,
    /// Steps between comparisons of a device other than `cpu` with the CPU: the losses and the
    /// gradient of one row, at the start too; needs memory for weights and gradients in f32 there.
    /// 0: never
    #[arg(long, default_value_t = 1000)]
    pub canary: u64,
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 100)]
    pub checkpoint_every: u64,
    /// Also write the log as TensorBoard events, to OUT/tensorboard
    #[arg(long)]
    pub tensorboard: bool,
    /// Checkpoints to keep
    #[arg(long, default_value_t = 2)]
    pub keep: usize,
}

impl Args {
    /// The settings of the trainer.
    ///
    /// # Errors
    /// When flags contradict each other.
    pub fn train_settings(&self, exits: Exits, steps: u64) -> Result<TrainSettings, Error> {
        TrainSettings::try_from(FlatSettings {
            method: self.method,
            exits,
            steps,
            loss_schedule: None,
            accumulation: self.accumulation,
            schedule: Schedule {
                peak: self.lr,
                warmup_steps: self.warmup,
                decay: if self.constant {
                    Decay::Constant
                } else {
                    Decay::Cosine
                },
            },
            optimizer: AdamWSettings {
                beta2: self.beta2,
                weight_decay: self.weight_decay,
                clip_norm: (self.clip != 0.0).then_some(self.clip),
                ..AdamWSettings::default()
            },
            objective: self.objective,
            last_blocks: self.last_blocks,
            train_body: self.train_body,
            lora: self.lora.map(|rank| self.lora(rank)),
            layer_dropout: self.layer_dropout.map(|rate| LayerDropout {
                rate,
                seed: self.seed,
            }),
            weights: self.weights,
            gradient_checkpointing: self.gradient_checkpointing,
            exit_weights: self.exit_weights.clone(),
            curriculum: self.curriculum,
            sampled_exits: self.sampled_exits.map(|draws| SampledPerBatch {
                draws,
                seed: self.seed,
            }),
            distillation: self.distill.map(|share| Distillation {
                share,
                temperature: self.temperature,
            }),
            balance: Balance {
                limit: self.gradient_limit,
                combination: self.combine_gradients,
            },
        })
    }

    fn lora(&self, rank: usize) -> Lora {
        let all = Lora::new(rank);
        Lora {
            alpha: self.lora_alpha,
            targets: self.lora_targets.clone().unwrap_or(all.targets),
            layers: self.lora_layers.clone(),
            seed: self.seed,
            ..all
        }
    }
}

fn weights(text: &str) -> Result<Weights, String> {
    if let Ok(by_depth) = text.parse() {
        return Ok(Weights::ByDepth(by_depth));
    }
    let numbers = text.split(',').map(|number| number.trim().parse());
    numbers
        .collect::<Result<_, _>>()
        .map(Weights::PerExit)
        .map_err(|_| {
            "expected equal, linear, quadratic, square-root, inverse, or one number per exit"
                .to_owned()
        })
}

fn curriculum(text: &str) -> Result<Curriculum, String> {
    let expected = || "expected rotational=R or gradual=STEPS".to_owned();
    let (name, number) = text.split_once('=').ok_or_else(expected)?;
    let number = number.parse().map_err(|_| expected())?;
    match name {
        "rotational" => Ok(Curriculum::Rotational { every: number }),
        "gradual" => Ok(Curriculum::Gradual { steps: number }),
        _ => Err(expected()),
    }
}

fn combination(name: &str) -> Result<Combination, String> {
    match name {
        "sum" => Ok(Combination::Sum),
        "clip-apart" => Ok(Combination::ClipApart),
        "project" => Ok(Combination::Project),
        _ => Err("expected sum, clip-apart or project".to_owned()),
    }
}

fn objective(name: &str) -> Result<Objective, String> {
    match name {
        "flat" => Ok(Objective::Flat),
        "plain" => Ok(Objective::Plain),
        _ => Err("expected flat or plain".to_owned()),
    }
}

fn method(name: &str) -> Result<MethodName, String> {
    let mut all = MethodName::ALL.into_iter();
    let found = all.find(|method| method.as_str() == name);
    found.ok_or_else(|| "expected soft, sft, ict or balcony".to_owned())
}
