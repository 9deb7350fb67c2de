//! Decoder blocks over a cache for few states: six launches a block.

use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;

use super::matvec::{MOST_STATES, Operand};
use super::ragged::Ragged;
use super::tensor::{buffer, runs_on, tensor};
use crate::ops::decoder_block::{AttentionTensors, BlockTensors, DecodePass, FeedForwardTensors};
use crate::ops::tensor_store::{Span, TensorStore};

/// The weights of a block of LLaMA, for which there are kernels.
pub(crate) struct PlainBlock {
    /// Query, key, value, attention output, gate, up and down.
    projections: [Tensor<2>; 7],
    /// Before attention and before the feed-forward layer.
    norms: [Tensor<1>; 2],
    window: Option<usize>,
}

impl PlainBlock {
    /// `None` for a block with biases or head norms, or without one of its halves.
    pub fn of(block: BlockTensors) -> Option<Self> {
        let (attention, fed) = block.attention.zip(block.feed_forward)?;
        if attention.q_norm.is_some() || attention.k_norm.is_some() {
            return None;
        }
        let AttentionTensors { q, k, v, o, .. } = attention;
        let FeedForwardTensors { gate, up, down, .. } = fed;
        let layers = [q, k, v, o, gate, up, down];
        if layers.iter().any(|layer| layer.bias.is_some()) {
            return None;
        }
        Some(Self {
            projections: layers.map(|layer| layer.weight),
            norms: [attention.norm, fed.norm],
            window: attention.window,
        })
    }
}

/// Whether [`decode_blocks`] takes these states.
pub(crate) fn decodes(x: &Tensor<2>) -> bool {
    let [states, _] = x.dims();
    states <= MOST_STATES && runs_on(&x.device()) && !x.device().is_autodiff()
}

/// `ops::decoder_block::decode_blocks` of states that [`decodes`] takes.
pub(crate) fn decode_blocks(
    x: Tensor<2>,
    pass: &DecodePass,
    stores: &mut [TensorStore],
    blocks: Vec<PlainBlock>,
) -> Tensor<2> {
    let span = Span::new(pass.starts.to_vec(), pass.longest());
    let rows = Ragged::new(pass.rotary, pass.query_lens, &span, &x.device());
    let mut x = buffer(x);
    for (block, store) in blocks.into_iter().zip(stores) {
        x = decode_block(x, pass, (&rows, store), block);
    }
    tensor(x)
}

fn decode_block(
    x: CubeTensor,
    pass: &DecodePass,
    (rows, store): (&Ragged, &mut TensorStore),
    block: PlainBlock,
) -> CubeTensor {
    let [q, k, v, o, gate, up, down] = block.projections.map(buffer);
    let [attention_norm, feed_forward_norm] = block.norms.map(buffer);
    let plain = |x| Operand { x, norm: None };
    let normed = Operand {
        x: &x,
        norm: Some((&attention_norm, pass.norm_eps)),
    };
    let qkv = normed.project_three([&q, &k, &v]);
    let mixed = rows.attend_to_store(qkv, pass.heads, (store, block.window));
    let x = plain(&mixed).project(&o, Some(&x), x.dtype);
    let normed = Operand {
        x: &x,
        norm: Some((&feed_forward_norm, pass.norm_eps)),
    };
    let fed = normed.project_gated(&gate, &up);
    plain(&fed).project(&down, Some(&x), x.dtype)
}
