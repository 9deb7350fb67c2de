//! The tokens of a rendered text, and where each comes from.

/// Tokens of what a template has rendered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rendered {
    pub tokens: Vec<u32>,
    /// For each control token among them, where in the text it ends, and how many tokens end there.
    pub ends: Vec<(usize, usize)>,
}

impl Rendered {
    /// These, and behind them those of the text that follows at byte `start`.
    pub fn and(mut self, start: usize, behind: Self) -> Self {
        let count = self.tokens.len();
        self.tokens.extend(behind.tokens);
        let ends = behind.ends.into_iter();
        self.ends
            .extend(ends.map(|(end, tokens)| (start + end, count + tokens)));
        self
    }
}
