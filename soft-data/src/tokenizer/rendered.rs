//! Tokens of a rendered text, with the positions of control tokens.

#[derive(Clone, Debug, Default)]
pub(crate) struct Rendered {
    pub tokens: Vec<u32>,
    /// For each control token, its end in the text, in bytes, and the number of tokens up to it.
    pub ends: Vec<(usize, usize)>,
}

impl Rendered {
    /// Appends the tokens of the text that follows at byte `start`.
    pub fn and(mut self, start: usize, behind: Self) -> Self {
        let count = self.tokens.len();
        self.tokens.extend(behind.tokens);
        let ends = behind.ends.into_iter();
        self.ends
            .extend(ends.map(|(end, tokens)| (start + end, count + tokens)));
        self
    }
}
