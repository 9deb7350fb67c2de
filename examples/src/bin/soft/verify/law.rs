//! A property that decoding must have, and the outcome of its check.

use soft_data::Tokenizer;
use soft_examples::outln;
use soft_examples::table::table;

/// What is promised, and how it turned out.
#[derive(Default)]
pub struct Law {
    pub name: String,
    pub answers: usize,
    pub compared: usize,
    /// Tokens that differ; where texts part, the first of the answer alone, since the rest follows
    /// from it.
    pub different: usize,
    /// Tokens of early exits among those compared.
    pub early: usize,
    pub first: Option<Difference>,
}

pub struct Difference {
    pub prompt: usize,
    pub position: usize,
    pub expected: Option<u32>,
    pub found: Option<u32>,
    /// Between the two tokens, by the full model.
    pub gap: Option<f32>,
}

impl Law {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

pub fn print_laws(laws: &[Law], tokenizer: &Tokenizer) {
    let headings = [
        "promise",
        "answers",
        "tokens compared",
        "of them early or drafted",
        "different",
    ];
    let rows = laws.iter().map(|law| {
        vec![
            law.name.clone(),
            law.answers.to_string(),
            law.compared.to_string(),
            law.early.to_string(),
            law.different.to_string(),
        ]
    });
    outln!("{}", table(&headings, rows));
    for law in laws {
        let Some(first) = &law.first else { continue };
        let name = |token: Option<u32>| match token {
            Some(token) => format!(
                "{token} {:?}",
                tokenizer.decode(&[token]).unwrap_or_default()
            ),
            None => "the end".to_owned(),
        };
        let gap = first.gap.map_or(String::new(), |gap| {
            format!("; their logits differ by {gap:.2e} (near 0 is rounding)")
        });
        outln!(
            "{}: first difference at prompt {}, token {} of its answer: expected {}, found {}{gap}",
            law.name,
            first.prompt + 1,
            first.position + 1,
            name(first.expected),
            name(first.found),
        );
    }
}
