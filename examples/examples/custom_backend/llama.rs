//! LLaMA on candle with exits at any depth: the traits of training. Those of decoding are in
//! `decode.rs`.
//!
//! The error type is candle's, since every operation returns it.

use std::ops::Range;

use candle_core::{D, DType, Device, Error, Result, Tensor};
use candle_nn::{
    Embedding, Linear, Module, RmsNorm, VarBuilder, embedding, linear_no_bias, ops, rms_norm,
};
use soft_core::model::{KvCache, Score, TargetScore};
use soft_core::{Batch, BatchError, BatchModel, Exit, NestedModel, Past, TrainModel};

use crate::attention::{Attention, Held, Pass};
use crate::folder::{Config, Folder};

/// Keys and values of earlier positions, `[block][row]`.
pub type Store = Vec<Vec<Held>>;

/// A LLaMA whose first n blocks are models for every n.
#[derive(Clone)]
pub struct Llama {
    embedding: Embedding,
    pub blocks: Vec<Block>,
    pub norm: RmsNorm,
    pub head: Linear,
    frequencies: Vec<f32>,
    n_kv_heads: usize,
    /// Maximum number of positions of a row.
    pub context: usize,
}

/// One decoder block: x + attention(norm x), then x + feed-forward(norm x).
#[derive(Clone)]
pub struct Block {
    pub input_layernorm: RmsNorm,
    pub self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Block {
    fn new(config: &Config, weights: VarBuilder) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name| rms_norm(width, config.rms_norm_eps, weights.pp(name));
        let mlp = weights.pp("mlp");
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::new(config, weights.pp("self_attn"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_proj: linear_no_bias(width, inner, mlp.pp("gate_proj"))?,
            up_proj: linear_no_bias(width, inner, mlp.pp("up_proj"))?,
            down_proj: linear_no_bias(inner, width, mlp.pp("down_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass, held: &mut [Held]) -> Result<Tensor> {
        // `forward_diff` is differentiable, `forward` is not.
        let normed = self.input_layernorm.forward_diff(x)?;
        let x = (x + self.self_attn.forward(&normed, pass, held)?)?;
        let normed = self.post_attention_layernorm.forward_diff(&x)?;
        let gated = self.gate_proj.forward(&normed)?.silu()? * self.up_proj.forward(&normed)?;
        &x + self.down_proj.forward(&gated?)?
    }
}

impl Llama {
    pub fn new(folder: &Folder) -> Result<Self> {
        let config = &folder.config;
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let weights = VarBuilder::from_tensors(folder.tensors.clone(), DType::F32, &Device::Cpu);
        let body = weights.pp("model");
        let embedding = embedding(vocab, width, body.pp("embed_tokens"))?;
        let block = |layer| Block::new(config, body.pp(format!("layers.{layer}")));
        Ok(Self {
            blocks: (0..config.num_hidden_layers)
                .map(block)
                .collect::<Result<_>>()?,
            norm: rms_norm(width, config.rms_norm_eps, body.pp("norm"))?,
            head: if config.tie_word_embeddings {
                Linear::new(embedding.embeddings().clone(), None)
            } else {
                linear_no_bias(width, vocab, weights.pp("lm_head"))?
            },
            embedding,
            frequencies: config.frequencies(),
            n_kv_heads: config.n_kv_heads(),
            context: config.max_position_embeddings,
        })
    }

    /// Empty keys and values of every block and row.
    pub fn store(&self, rows: usize) -> Result<Store> {
        let held = Held::nothing(self.n_kv_heads, 2 * self.frequencies.len())?;
        Ok(vec![vec![held; rows]; self.depth()])
    }

    /// A tensor of concatenated rows of `seq` token ids each.
    pub fn token_tensor(&self, ids: &[u32], seq: usize) -> Result<Tensor> {
        let vocab = self.head.weight().dim(0)?;
        if let Some(index) = ids.iter().position(|&id| id as usize >= vocab) {
            let (row, position, token) = (index / seq, index % seq, ids[index]);
            return Err(Error::wrap(BatchError::OutsideVocabulary {
                row,
                position,
                token,
                vocab,
            }));
        }
        Tensor::from_slice(ids, (ids.len() / seq, seq), &Device::Cpu)
    }
}

impl NestedModel for Llama {
    type Tokens = Tensor;
    type Hidden = Tensor;
    type Logits = Tensor;
    type KvStore = Store;
    type Error = Error;

    fn depth(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        self.embedding.forward(tokens)
    }

    fn blocks(
        &self,
        hidden: Tensor,
        range: Range<usize>,
        past: Option<Past<Store>>,
    ) -> Result<Tensor> {
        let Some(past) = past else {
            // Without a cache: packed rows from position 0, with a temporary cache.
            let (rows, seq, width) = hidden.dims3()?;
            let mut cache = KvCache::new(self.store(rows)?, self.depth(), rows, seq);
            let past = Past {
                cache: &mut cache,
                query_lens: &vec![seq; rows],
            };
            let packed = hidden.reshape((1, rows * seq, width))?;
            return self
                .blocks(packed, range, Some(past))?
                .reshape((rows, seq, width));
        };
        let Past { cache, query_lens } = past;
        let room = cache.append(&range, query_lens, hidden.dim(1)?);
        let (starts, held) = room.map_err(Error::wrap)?;
        let pass = Pass::new(&starts, query_lens, &self.frequencies)?;
        let held = &mut held[range.clone()];
        let mut blocks = self.blocks[range].iter().zip(held);
        let states = hidden.squeeze(0)?;
        blocks
            .try_fold(states, |x, (block, held)| block.forward(&x, &pass, held))?
            .unsqueeze(0)
    }

    fn logits(&self, hidden: &Tensor, _exit: Exit) -> Result<Tensor> {
        self.head.forward(&self.norm.forward_diff(hidden)?)
    }
}

/// The positions with targets in a batch, and the tokens to predict; `[n]` each.
pub struct Targets {
    positions: Tensor,
    tokens: Tensor,
}

impl Llama {
    /// Logits and log-probabilities at the targets: `[n, vocab]` and `[n]`.
    fn at_targets(
        &self,
        hidden: &Tensor,
        exit: Exit,
        targets: &Targets,
    ) -> Result<(Tensor, Tensor)> {
        let states = hidden.flatten(0, 1)?.index_select(&targets.positions, 0)?;
        let logits = self.logits(&states, exit)?;
        let logs = ops::log_softmax(&logits, D::Minus1)?;
        let logs = logs.gather(&targets.tokens.unsqueeze(1)?, 1)?.squeeze(1)?;
        Ok((logits, logs))
    }
}

impl TrainModel for Llama {
    type Targets = Targets;
    type Loss = Tensor;

    fn loss(&self, hidden: &Tensor, exit: Exit, targets: &Targets) -> Result<Tensor> {
        let (_, logs) = self.at_targets(hidden, exit, targets)?;
        logs.sum_all()?.neg()
    }

    fn weighted_sum(&self, terms: &[(f64, Tensor)]) -> Result<Tensor> {
        let zero = Tensor::zeros((), DType::F32, &Device::Cpu);
        let mut terms = terms.iter();
        terms.try_fold(zero?, |sum, (weight, loss)| sum + (loss * *weight)?)
    }
}

impl BatchModel for Llama {
    fn prepare(&self, batch: &Batch) -> Result<(Tensor, Targets)> {
        let targets = batch.targets().iter();
        let seq = batch.seq();
        let positions = targets
            .clone()
            .map(|target| (target.row * seq + target.position) as u32);
        let targets = Targets {
            positions: Tensor::from_iter(positions, &Device::Cpu)?,
            tokens: Tensor::from_iter(targets.map(|target| target.token), &Device::Cpu)?,
        };
        Ok((self.token_tensor(&batch.padded(0), seq)?, targets))
    }

    fn target_scores(
        &self,
        hidden: &Tensor,
        exit: Exit,
        targets: &Targets,
    ) -> Result<Vec<TargetScore>> {
        let (logits, logs) = self.at_targets(hidden, exit, targets)?;
        let (logits, logs) = (logits.to_vec2::<f32>()?, logs.to_vec1::<f32>()?);
        let wanted = targets.tokens.to_vec1::<u32>()?;
        let rows = logits.iter().zip(logs).zip(wanted);
        let score = |((logits, log), wanted): ((&Vec<f32>, f32), u32)| TargetScore {
            nats: -f64::from(log),
            correct: Score::of_logits(logits).token == wanted,
        };
        Ok(rows.map(score).collect())
    }
}
