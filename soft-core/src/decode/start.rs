//! Creates decoders, and admits requests, which are checked before anything is computed.

use std::collections::VecDeque;
use std::time::Instant;

use super::engine::{DraftHeads, Engine};
use super::row::{Limit, Row};
use super::row_exits::RowExits;
use super::strategies::Strategies;
use crate::decode::decoder::Decoder;
use crate::decode::row::Finish;
use crate::decode::settings::{DecodeError, DecodeSettings, Prompt, SettingsError};
use crate::decode::statistics::Statistics;
use crate::exit::Exits;
use crate::model::decode_model::DecodeModel;
use crate::policy::probe::ExitProbes;
use crate::random::Random;
use crate::sampling::sampler::Sampling;

/// What requests that join a decoder share.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// Number of rows: requests that are decoded at a time.
    pub rows: usize,
    /// Maximum number of positions of a row, at most the model's context.
    pub positions: usize,
    /// Maximum number of tokens of a prompt that are processed in one round.
    pub prompt_chunk: usize,
    /// The exits that requests may use.
    pub exits: Exits,
    /// The tokens of draft heads; `None` if no request has one.
    pub draft_tokens: Option<Vec<u32>>,
    /// The probes of the early exits; those of the requests' settings are not used.
    pub probes: Option<ExitProbes>,
}

impl<'m, M: DecodeModel> Decoder<'m, M> {
    /// A decoder for these prompts, one row each. Makes draft heads. The prompts are processed when
    /// the first token is requested.
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
        let longest = |prompt: &Prompt| settings.limit(prompt, context).fed(prompt.tokens.len());
        check_prompts(prompts, context)?;
        let mut decoder = Self::with_free_rows(
            model,
            SharedSettings {
                rows: prompts.len(),
                positions: prompts.iter().map(longest).max().unwrap_or(0),
                prompt_chunk: usize::MAX,
                exits: settings.exits().map_err(SettingsError::from)?,
                draft_tokens: settings.draft_tokens_in_use(),
                probes: settings.probes.clone(),
            },
        )?;
        for prompt in prompts {
            decoder.join(prompt, settings.clone())?;
        }
        Ok(decoder)
    }

    /// A decoder without requests, which [`join`](Self::join) it and leave it between rounds
    /// (continuous batching).
    ///
    /// # Errors
    /// When the model lacks an exit or there are no tokens for a draft head; errors of the model.
    pub fn with_free_rows(
        model: &'m M,
        shared: SharedSettings,
    ) -> Result<Self, DecodeError<M::Error>> {
        let exits = &shared.exits;
        exits
            .check_within(model.depth())
            .map_err(SettingsError::from)?;
        let cache = model.empty_cache(shared.rows, shared.positions);
        let mut engine = Engine {
            model,
            segments: exits.segments().collect(),
            exits: exits.iter().collect(),
            draft_heads: None,
            probes: shared.probes,
            cache: cache.map_err(DecodeError::Model)?,
            rows: (0..shared.rows).map(|_| Row::unused()).collect(),
            free: vec![true; shared.rows],
            prompt_chunk: shared.prompt_chunk.max(1),
            counted: vec![false; shared.rows],
            waiting: (1..exits.len()).map(|_| None).collect(),
            passed: (0..exits.len()).map(|_| Vec::new()).collect(),
            steps: VecDeque::new(),
            statistics: Statistics {
                depth: exits.last().depth(),
                ..Statistics::default()
            },
        };
        if let Some(tokens) = shared.draft_tokens {
            engine.make_draft_heads(tokens)?;
        }
        Ok(Self {
            engine,
            strategies: Strategies::new(shared.rows),
            joined: 0,
            context: model.context().min(shared.positions),
            failed: false,
        })
    }

    /// Admits a request as a free row, which is returned. Its prompt is processed in the next rounds,
    /// while other rows continue. Its answer does not depend on the other rows, except for
    /// rounding on some backends, and as [`Prompt::seed`] says. The row is taken until
    /// [`leave`](Self::leave).
    ///
    /// # Errors
    /// When no row is free, the prompt is empty or too long, settings are out of range, or the mode
    /// needs exits or draft tokens that the decoder was not created with.
    pub fn join(
        &mut self,
        prompt: &Prompt,
        settings: DecodeSettings,
    ) -> Result<usize, DecodeError<M::Error>> {
        let rows = self.engine.rows.len();
        let free = self.engine.free.iter().position(|free| *free);
        let row = free.ok_or(DecodeError::NoFreeRow { rows })?;
        settings.check(self.engine.model.depth())?;
        check_prompt(row, prompt, self.context)?;
        let draft_head = self.check_draft_tokens(&settings)?;
        let found = settings.exits().map_err(SettingsError::from)?;
        let Some(exits) = RowExits::of(&found, &self.engine.exits) else {
            let depths = self.engine.exits.iter().map(|exit| exit.depth());
            let expected = Exits::new(depths).map_err(SettingsError::from)?;
            return Err(DecodeError::OtherExits { found, expected });
        };
        let limit = settings.limit(prompt, self.context);
        let open = self.engine.rows.iter().filter(|row| row.is_open());
        let used: Vec<usize> = open.map(|row| row.strategy).collect();
        let strategy = self.strategies.add(row, settings.mode, &used);
        self.engine.purge(row)?;
        let nothing = limit.tokens == prompt.tokens.len();
        let scored = settings.logprobs.is_some_and(|logprobs| logprobs.prompt);
        self.engine.rows[row] = Row {
            tokens: prompt.tokens.clone(),
            prompt: prompt.tokens.len(),
            joined: self.joined,
            committed: prompt.tokens.len(),
            finish: (nothing && !scored).then_some(limit.finish),
            limit,
            rng: Random::new(prompt.seed),
            sampling: settings.sampling,
            stop_tokens: settings.stop_tokens,
            exits,
            strategy,
            draft_head,
            logprobs: settings.logprobs,
            ..Row::unused()
        };
        self.engine.free[row] = false;
        self.joined += 1;
        Ok(row)
    }

    /// Whether the settings use the decoder's draft heads.
    fn check_draft_tokens(&self, settings: &DecodeSettings) -> Result<bool, DecodeError<M::Error>> {
        let Some(tokens) = settings.draft_tokens_in_use() else {
            return Ok(false);
        };
        if tokens.is_empty() {
            return Err(DecodeError::NoDraftTokens);
        }
        let known = self.engine.draft_heads.as_ref();
        let known = known.map_or(&[][..], |heads| heads.tokens.as_slice());
        if tokens != known {
            return Err(DecodeError::OtherDraftTokens {
                found: tokens.len(),
                expected: known.len(),
            });
        }
        Ok(true)
    }

    /// Frees a row; its answer is lost, and ends if it has not.
    pub fn leave(&mut self, row: usize) {
        self.stop(row);
        self.engine.free[row] = true;
    }

    /// Number of rows that a request can join as.
    pub fn free_rows(&self) -> usize {
        self.engine.free.iter().filter(|free| **free).count()
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

    /// Removes what is left of the request that had this row.
    fn purge(&mut self, row: usize) -> Result<(), DecodeError<M::Error>> {
        self.cache.truncate(row, 0);
        for index in 0..self.waiting.len() {
            let others: Vec<bool> = (0..self.rows.len()).map(|other| other != row).collect();
            self.waiting[index] = self.take_waiting(index, &others)?;
        }
        self.drop_passed(|other| other != row)
    }
}

impl DecodeSettings {
    fn limit(&self, prompt: &Prompt, context: usize) -> Limit {
        let requested = prompt.tokens.len().saturating_add(self.max_new_tokens);
        let longest = context.saturating_add(1);
        if requested <= longest {
            Limit {
                tokens: requested,
                finish: Finish::Length,
            }
        } else {
            Limit {
                tokens: longest,
                finish: Finish::Context,
            }
        }
    }
}

impl Limit {
    /// Number of positions of a row: the last token of a text is never fed.
    fn fed(&self, prompt: usize) -> usize {
        prompt.max(self.tokens - 1)
    }
}

impl Row {
    /// A row that no request has.
    fn unused() -> Self {
        Self {
            tokens: Vec::new(),
            prompt: 0,
            joined: 0,
            prompt_fed: 0,
            committed: 0,
            drafts: Vec::new(),
            draft_probability: 1.0,
            limit: Limit {
                tokens: 0,
                finish: Finish::Stopped,
            },
            finish: Some(Finish::Stopped),
            emitted: 0,
            rng: Random::new(0),
            sampling: Sampling::greedy(),
            stop_tokens: Vec::new(),
            exits: RowExits::default(),
            strategy: 0,
            draft_head: false,
            logprobs: None,
            prompt_logprobs: Vec::new(),
            answer_logprobs: Vec::new(),
            stop_logprobs: None,
        }
    }
}

fn check_prompts<E: std::error::Error>(
    prompts: &[Prompt],
    context: usize,
) -> Result<(), DecodeError<E>> {
    let mut prompts = prompts.iter().enumerate();
    prompts.try_for_each(|(row, prompt)| check_prompt(row, prompt, context))
}

fn check_prompt<E: std::error::Error>(
    row: usize,
    prompt: &Prompt,
    context: usize,
) -> Result<(), DecodeError<E>> {
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
    Ok(())
}
