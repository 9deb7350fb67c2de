//! Decoding passes by the CPU kernels, on slices of the model's tensors. Only states are copied.

use std::ops::Range;

use burn::tensor::Tensor;

use super::attention::{HeadStore, Place};
use super::block::{AttentionWeights, BlockRun, BlockWeights, FeedForwardWeights, Linear};
use super::host::{HostTensor, host, tensor};
use crate::error::Error;
use crate::ops::attention::Heads;
use crate::ops::decoder_block::{
    AttentionTensors, BlockTensors, DecodePass, FeedForwardTensors, LinearTensors,
};

/// Keys and values of each block on the host; row r and key head h are at `r * kv_heads + h`.
#[derive(Clone, Debug)]
pub(crate) struct HostStore(Vec<Vec<HeadStore>>);

impl HostStore {
    pub fn new(blocks: usize, rows: usize, heads: Heads) -> Self {
        Self(vec![
            vec![HeadStore::default(); rows * heads.key_value];
            blocks
        ])
    }

    pub fn blocks(&mut self, range: Range<usize>) -> &mut [Vec<HeadStore>] {
        &mut self.0[range]
    }
}

struct HostLinear {
    weight: HostTensor,
    bias: Option<HostTensor>,
}

impl HostLinear {
    fn new(layer: LinearTensors) -> Result<Self, Error> {
        Ok(Self {
            weight: host(layer.weight)?,
            bias: layer.bias.map(host).transpose()?,
        })
    }

    fn weights(&self) -> Linear<'_> {
        Linear {
            weight: self.weight.values(),
            bias: self.bias.as_ref().map(HostTensor::values),
        }
    }
}

struct HostAttention {
    norm: HostTensor,
    /// Query, key, value and output.
    layers: [HostLinear; 4],
    /// Of queries and keys.
    head_norms: [Option<HostTensor>; 2],
    window: Option<usize>,
}

struct HostFeedForward {
    norm: HostTensor,
    /// Gate, up and down.
    layers: [HostLinear; 3],
}

struct HostBlock {
    attention: Option<HostAttention>,
    feed_forward: Option<HostFeedForward>,
}

impl HostAttention {
    fn new(attention: AttentionTensors) -> Result<Self, Error> {
        let AttentionTensors { q, k, v, o, .. } = attention;
        let linear = HostLinear::new;
        Ok(Self {
            norm: host(attention.norm)?,
            layers: [linear(q)?, linear(k)?, linear(v)?, linear(o)?],
            head_norms: [
                attention.q_norm.map(host).transpose()?,
                attention.k_norm.map(host).transpose()?,
            ],
            window: attention.window,
        })
    }

    fn weights(&self) -> AttentionWeights<'_> {
        let [q, k, v, o] = self.layers.each_ref().map(HostLinear::weights);
        let [q_norm, k_norm] = self.head_norms.each_ref();
        let [q_norm, k_norm] = [q_norm, k_norm].map(|it| it.as_ref().map(HostTensor::values));
        AttentionWeights {
            norm: self.norm.values(),
            q,
            k,
            v,
            o,
            q_norm,
            k_norm,
            window: self.window,
        }
    }
}

impl HostFeedForward {
    fn new(layer: FeedForwardTensors) -> Result<Self, Error> {
        let linear = HostLinear::new;
        Ok(Self {
            norm: host(layer.norm)?,
            layers: [linear(layer.gate)?, linear(layer.up)?, linear(layer.down)?],
        })
    }

    fn weights(&self) -> FeedForwardWeights<'_> {
        let [gate, up, down] = self.layers.each_ref().map(HostLinear::weights);
        FeedForwardWeights {
            norm: self.norm.values(),
            gate,
            up,
            down,
        }
    }
}

impl HostBlock {
    fn new(block: BlockTensors) -> Result<Self, Error> {
        Ok(Self {
            attention: block.attention.map(HostAttention::new).transpose()?,
            feed_forward: block.feed_forward.map(HostFeedForward::new).transpose()?,
        })
    }

    fn weights(&self) -> BlockWeights<'_> {
        BlockWeights {
            attention: self.attention.as_ref().map(HostAttention::weights),
            feed_forward: self.feed_forward.as_ref().map(HostFeedForward::weights),
        }
    }
}

/// Runs packed states `[n, d_model]` through these blocks, each with its store.
pub(crate) fn decode_blocks(
    x: Tensor<2>,
    pass: &DecodePass,
    stores: &mut [Vec<HeadStore>],
    blocks: impl Iterator<Item = BlockTensors>,
) -> Result<Tensor<2>, Error> {
    let shape = x.dims();
    let blocks = blocks.map(HostBlock::new).collect::<Result<Vec<_>, _>>()?;
    let weights: Vec<_> = blocks.iter().map(HostBlock::weights).collect();
    forget_stale(pass, stores);
    let run = block_run(pass, shape[1]);
    let mut states = host(x.clone())?.values().to_vec();
    // A single switch to the thread pool for the whole pass.
    rayon::scope(|_| {
        for (weights, stores) in weights.iter().zip(stores) {
            run.block(weights, &mut states, stores);
        }
    });
    Ok(tensor(states, shape, &x))
}

/// Appends the keys and values of packed states `[n, d_model]` to the store of a block.
pub(crate) fn append_states(
    x: Tensor<2>,
    pass: &DecodePass,
    stores: &mut [Vec<HeadStore>],
    block: BlockTensors,
) -> Result<(), Error> {
    let [_, d_model] = x.dims();
    let block = HostBlock::new(block)?;
    forget_stale(pass, stores);
    let (run, states) = (block_run(pass, d_model), host(x)?);
    if let Some(attention) = &block.attention {
        for stores in stores {
            run.append_states(&attention.weights(), states.values(), stores);
        }
    }
    Ok(())
}

fn block_run(pass: &DecodePass, d_model: usize) -> BlockRun {
    BlockRun::new(
        pass.heads,
        d_model,
        pass.norm_eps,
        pass.rotary,
        places(pass),
    )
}

/// Truncates the stores of each row with new positions to the start of the pass.
fn forget_stale(pass: &DecodePass, stores: &mut [Vec<HeadStore>]) {
    let Heads { key_value, dim, .. } = pass.heads;
    let rows = pass.starts.iter().zip(pass.query_lens).enumerate();
    for (row, (&start, _)) in rows.filter(|(_, (_, new))| **new > 0) {
        let of_row = row * key_value..(row + 1) * key_value;
        for store in stores
            .iter_mut()
            .flat_map(|block| &mut block[of_row.clone()])
        {
            store.keys.truncate(start * dim);
            store.values.truncate(start * dim);
        }
    }
}

fn places(pass: &DecodePass) -> Vec<Place> {
    let rows = pass.starts.iter().zip(pass.query_lens).enumerate();
    let places = rows.flat_map(|(row, (&start, &count))| {
        (start..start + count).map(move |position| Place { row, position })
    });
    places.collect()
}
