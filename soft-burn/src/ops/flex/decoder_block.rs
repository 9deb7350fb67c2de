//! Decoding passes by the CPU kernels, on slices of the model's tensors. Only states are copied.

use std::ops::Range;

use burn::tensor::Tensor;

use super::attention::{HeadStore, Place};
use super::block::{BlockRun, BlockWeights};
use super::host::{HostTensor, host, tensor};
use crate::error::Error;
use crate::ops::attention::Heads;
use crate::ops::decoder_block::{BlockTensors, DecodePass};

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

struct HostBlock {
    projections: [HostTensor; 7],
    norms: [HostTensor; 2],
}

impl HostBlock {
    fn new(block: BlockTensors) -> Result<Self, Error> {
        let [q, k, v, o, gate, up, down] = block.projections;
        let [attention, feed_forward] = block.norms;
        Ok(Self {
            projections: [
                host(q)?,
                host(k)?,
                host(v)?,
                host(o)?,
                host(gate)?,
                host(up)?,
                host(down)?,
            ],
            norms: [host(attention)?, host(feed_forward)?],
        })
    }

    fn weights(&self) -> BlockWeights<'_> {
        let [q, k, v, o, gate, up, down] = self.projections.each_ref().map(HostTensor::values);
        let [attention_norm, feed_forward_norm] = self.norms.each_ref().map(HostTensor::values);
        BlockWeights {
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
            attention_norm,
            feed_forward_norm,
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
    for stores in stores {
        run.append_states(&block.weights(), states.values(), stores);
    }
    Ok(())
}

fn block_run(pass: &DecodePass, d_model: usize) -> BlockRun {
    BlockRun::new(
        pass.heads,
        d_model,
        pass.norm_eps,
        pass.frequencies,
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
