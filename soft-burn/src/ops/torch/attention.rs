//! PyTorch's scaled dot-product attention: fused kernels that hold no score matrix where the device
//! has them.

use burn::tensor::Tensor;

use super::autograd::{Input, apply};

/// Which keys a position sees.
pub(crate) enum Seen<'a> {
    All,
    /// Position i sees keys 0 to i.
    Causal,
    /// As an added mask says, `[rows or 1, 1, seq, keys]`.
    Masked(&'a Tensor<4>),
}

/// `ops::attention::attend`.
pub(crate) fn attention(
    q: &Tensor<4>,
    (k, v): (&Tensor<4>, &Tensor<4>),
    seen: Seen,
) -> Option<Tensor<4>> {
    let shared = q.dims()[1] != k.dims()[1];
    let inputs = [Input::new(q)?, Input::new(k)?, Input::new(v)?];
    let mask = match seen {
        Seen::Masked(mask) => Some(Input::new(mask)?),
        Seen::All | Seen::Causal => None,
    };
    let causal = matches!(seen, Seen::Causal);
    let run = |q: &tch::Tensor, k: &tch::Tensor, v: &tch::Tensor, mask: Option<&tch::Tensor>| {
        let half = matches!(q.kind(), tch::Kind::Half | tch::Kind::BFloat16);
        // Of CUDA's fused kernels only the one for 16 bits takes fewer key heads, and no mask.
        let fused = !q.device().is_cuda() || (half && mask.is_none());
        let native = shared && fused;
        let repeats = if native { 1 } else { q.size()[1] / k.size()[1] };
        let [k, v] = [k, v].map(|tensor| match repeats {
            1 => tensor.shallow_clone(),
            _ => tensor.repeat_interleave_self_int(repeats, 1, None),
        });
        let mask = mask.map(|mask| mask.to_kind(q.kind()));
        tch::Tensor::scaled_dot_product_attention(q, &k, &v, mask, 0.0, causal, None, native)
    };
    match mask {
        None => apply(inputs, |[q, k, v]| run(q, k, v, None)),
        Some(mask) => {
            let [q, k, v] = inputs;
            apply([q, k, v, mask], |[q, k, v, mask]| run(q, k, v, Some(mask)))
        }
    }
}
