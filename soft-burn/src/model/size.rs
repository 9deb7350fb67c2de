//! Size of a model, and the operations that decoding with it takes.

use soft_core::decode::OperationCosts;

use crate::model::block::PROJECTIONS;
use crate::model::config::LlamaConfig;

impl LlamaConfig {
    /// Floating-point operations of matrix products in decoding, given the number of draft tokens.
    pub fn operation_costs(&self, draft_tokens: usize) -> OperationCosts {
        let attention = self.n_heads * self.head_dim;
        let heads = 2 * attention + 2 * self.n_kv_heads * self.head_dim;
        let block = self.d_model * (heads + 3 * self.d_feed_forward);
        let head = |tokens: usize| 2.0 * (tokens * self.d_model) as f64;
        OperationCosts {
            block: 2.0 * block as f64,
            appended: (4 * self.d_model * self.n_kv_heads * self.head_dim) as f64,
            attended: 4.0 * attention as f64,
            head: head(self.vocab),
            draft_head: head(draft_tokens),
        }
    }

    /// Number of parameters; a tied head is not counted.
    pub fn parameters(&self) -> usize {
        let layers = PROJECTIONS.iter().map(|layer| {
            let [d_out, d_in] = (layer.shape)(self);
            d_out * (d_in + usize::from((layer.has_bias)(&self.architecture)))
        });
        let head_norms = 2 * self.head_dim * usize::from(self.architecture.qk_norm);
        let block = layers.sum::<usize>() + 2 * self.d_model + head_norms;
        let embeddings = if self.tied { 1 } else { 2 } * self.vocab * self.d_model;
        embeddings + self.n_layers * block + self.d_model
    }
}
