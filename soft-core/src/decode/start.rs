//! Creates a decoder from prompts and settings, which are checked before anything is computed.

use std::collections::VecDeque;
use std::time::Instant;

use super::engine::{DraftHeads, Engine};
use super::row::{Limit, Row};
use super::strategy::{Auto, Dynamic, Fixed, Speculative, Strategy};
use crate::decode::decoder::Decoder;
use crate::decode::row::Finish;
use crate::decode::settings::{DecodeError, DecodeSettings, Mode, Prompt, SettingsError};
use crate::decode::statistics::Statistics;
use crate::exit::Exits;
use crate::model::decode_model::DecodeModel;
use crate::random::Random;

fn strategy_of(mode: Mode, rows: usize) -> Result<(Exits, Box<dyn Strategy>), SettingsError> {
    Ok(match mode {
        Mode::Static(exit) => (Exits::new([exit.depth()])?, Box::new(Fixed)),
        Mode::Dynamic(dynamic) => {
            let strategy = Dynamic::new(&*dynamic.policy, rows);
            (dynamic.exits, Box::new(strategy))
        }
        Mode::Speculative(speculation) => {
            let strategy = Speculative::new(&*speculation.policy, speculation.length, rows);
            (speculation.exits, Box::new(strategy))
        }
        Mode::Auto(tuner) => (tuner.exits().clone(), Box::new(Auto::new(tuner, rows))),
    })
}

impl<'m, M: DecodeModel> Decoder<'m, M> {
    /// Makes draft heads. The prompts are processed when the first token is requested.
    ///
    /// # Errors
    /// When a prompt is empty or longer than the model's context, the model lacks an exit,
    /// thresholds or sampler settings are out of range, or there are no tokens for a draft head;
    /// errors of the model.
    pub fn new(
        model: &'m M,
        prompts: &[Prompt],
        settings: DecodeSettings,
    ) -> Result<Self, DecodeError<M::Error>> {
        settings.check(model.depth())?;
        let context = model.context();
        check_prompts(prompts, context)?;
        let draft_tokens = settings.draft_tokens_in_use();
        let (exits, strategy) = strategy_of(settings.mode, prompts.len())?;
        let most = settings.max_new_tokens;
        let rows = prompts.iter().map(|prompt| Row::new(prompt, most, context));
        let rows: Vec<Row> = rows.collect();
        // The last token of a text is never fed.
        let fed = |row: &Row| row.prompt.max(row.limit.tokens - 1);
        let capacity = rows.iter().map(fed).max().unwrap_or(0);
        let cache = model.empty_cache(rows.len(), capacity);
        let mut engine = Engine {
            model,
            segments: exits.segments().collect(),
            exits: exits.iter().collect(),
            sampling: settings.sampling,
            stop_tokens: settings.stop_tokens,
            draft_heads: None,
            probes: settings.probes,
            cache: cache.map_err(DecodeError::Model)?,
            rows,
            waiting: (1..exits.len()).map(|_| None).collect(),
            passed: (0..exits.len()).map(|_| Vec::new()).collect(),
            steps: VecDeque::new(),
            statistics: Statistics {
                depth: exits.last().depth(),
                ..Statistics::default()
            },
        };
        if let Some(tokens) = draft_tokens {
            engine.make_draft_heads(tokens)?;
        }
        Ok(Self {
            engine,
            strategy,
            started: false,
            failed: false,
        })
    }
}

impl<M: DecodeModel> Engine<'_, M> {
    fn make_draft_heads(&mut self, mut tokens: Vec<u32>) -> Result<(), DecodeError<M::Error>> {
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.is_empty() {
            return Err(DecodeError::NoDraftTokens);
        }
        let begun = Instant::now();
        let drafting = &self.exits[..self.exits.len() - 1];
        let heads = self.model.draft_heads(drafting, &tokens);
        let heads = heads.map_err(DecodeError::Model)?;
        self.draft_heads = Some(DraftHeads { tokens, heads });
        self.statistics.prefill += begun.elapsed();
        Ok(())
    }
}

impl Row {
    fn new(prompt: &Prompt, max_new_tokens: usize, context: usize) -> Self {
        let requested = prompt.tokens.len().saturating_add(max_new_tokens);
        let longest = context.saturating_add(1);
        let limit = if requested <= longest {
            Limit {
                tokens: requested,
                finish: Finish::Length,
            }
        } else {
            Limit {
                tokens: longest,
                finish: Finish::Context,
            }
        };
        Self {
            tokens: prompt.tokens.clone(),
            prompt: prompt.tokens.len(),
            committed: prompt.tokens.len(),
            drafts: Vec::new(),
            draft_probability: 1.0,
            limit,
            finish: (max_new_tokens == 0).then_some(Finish::Length),
            emitted: 0,
            rng: Random::new(prompt.seed),
        }
    }
}

fn check_prompts<E: std::error::Error>(
    prompts: &[Prompt],
    context: usize,
) -> Result<(), DecodeError<E>> {
    for (row, prompt) in prompts.iter().enumerate() {
        let tokens = prompt.tokens.len();
        if tokens == 0 {
            return Err(DecodeError::EmptyPrompt { row });
        }
        if tokens > context {
            return Err(DecodeError::PromptTooLong {
                row,
                tokens,
                context,
            });
        }
    }
    Ok(())
}
