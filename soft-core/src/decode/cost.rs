//! The floating-point operations of decoding, computed from its statistics.
//!
//! Only matrix products are counted, with two operations per weight and state; norms, softmax and
//! rotary embeddings add a few percent. The pass over the prompts is not counted.

use serde::{Deserialize, Serialize};

use crate::decode::statistics::Statistics;

/// Floating-point operations per counted unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationCosts {
    /// One block's weights applied to one state.
    pub block: f64,
    /// Keys and values of one state in one block.
    #[serde(default)]
    pub appended: f64,
    /// One state attending to one position in one block: its score and its value.
    pub attended: f64,
    /// The full head applied to one state.
    pub head: f64,
    /// The draft head applied to one state.
    pub draft_head: f64,
}

impl OperationCosts {
    /// Operations per token, without the pass over the prompts.
    pub fn per_token(&self, counted: &Statistics) -> f64 {
        let sum = self.block * counted.block_states as f64
            + self.appended * counted.appended_states as f64
            + self.attended * counted.attended as f64
            + self.head * counted.head_states as f64
            + self.draft_head * counted.draft_head_states as f64;
        sum / counted.later_tokens() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decoder::Decoder;
    use crate::decode::settings::{DecodeSettings, Mode, Prompt};
    use crate::exit::Exit;
    use crate::toy::ToyModel;

    #[test]
    fn operations_of_a_plain_answer_by_hand() {
        // Three blocks; prompts of 4 and 2 tokens, 3 new tokens each. The pass over the prompts
        // generates the first, so two states are fed per row, at positions 4, 5 and 2, 3. Each
        // attends to itself and to earlier positions.
        let model = ToyModel::new(3, 4, 8, 9).restless();
        let prompts = [vec![1, 2, 3, 4], vec![5, 6]].map(Prompt::from);
        let settings = DecodeSettings::greedy(Mode::Static(Exit::new(3).unwrap()), 3);
        let mut decoder = Decoder::new(&model, &prompts, settings).unwrap();
        decoder.run().unwrap();
        let counted = decoder.statistics();
        assert_eq!(counted.attended, 3 * (5 + 6 + 3 + 4));
        let costs = OperationCosts {
            block: 100.0,
            appended: 1e9,
            attended: 1.0,
            head: 10.0,
            draft_head: 1e9,
        };
        let sum = 100.0 * 12.0 + 54.0 + 10.0 * 4.0;
        assert_eq!(costs.per_token(counted), sum / 4.0);
    }

    #[test]
    fn the_stop_token_is_counted_too() {
        let model = ToyModel::new(3, 6, 40, 3).restless();
        let prompt = [Prompt::from(vec![1, 2, 3, 4])];
        let settings = || DecodeSettings::greedy(Mode::Static(Exit::new(3).unwrap()), 20);
        let answer = Decoder::new(&model, &prompt, settings())
            .unwrap()
            .answers()
            .unwrap();
        // A token after the first that differs from all earlier ones.
        let mut later = 1..20;
        let before = later.find(|&index| !answer[0][..index].contains(&answer[0][index]));
        let before = before.unwrap();
        let stop = answer[0][before];
        let mut decoder = Decoder::new(&model, &prompt, settings().stop_at(&[stop])).unwrap();
        decoder.run().unwrap();
        let counted = decoder.statistics();
        assert_eq!(counted.tokens(), before as u64);
        // The pass over the prompt generated the first token; the stop token took its own pass.
        assert_eq!(counted.generated, before as u64);
        assert_eq!(counted.blocks_per_token(), 3.0);
    }
}
