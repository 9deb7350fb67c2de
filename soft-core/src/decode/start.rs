//! From prompts and settings to a decoder, everything checked at the door.

use std::collections::VecDeque;
use std::time::Instant;

use super::decoder::Kind;
use super::draft::DraftLimit;
use super::row::Row;
use super::tuner::{Cycle, MOST_DRAFTED};
use crate::decode::decoder::Decoder;
use crate::decode::draft::DraftLength;
use crate::decode::row::Finish;
use crate::decode::settings::{DecodeError, DecodeSettings, Mode, Prompt, SettingsError};
use crate::decode::statistics::Statistics;
use crate::exit::{Exit, Exits};
use crate::model::decode_model::DecodeModel;
use crate::policy::exit_policy::{Always, ExitPolicy};
use crate::random::Random;

/// What a mode comes down to.
struct Plan {
    exits: Exits,
    kind: Kind,
    policy: Box<dyn ExitPolicy>,
    length: DraftLength,
}

impl Plan {
    fn of(mode: Mode) -> Result<Self, SettingsError> {
        let plan = |exits, kind| Self {
            exits,
            kind,
            policy: Box::new(Always),
            length: DraftLength::Fixed(1),
        };
        Ok(match mode {
            Mode::Static(exit) => plan(Exits::new([exit.depth()])?, Kind::Static),
            Mode::Dynamic(dynamic) => Self {
                policy: dynamic.policy,
                ..plan(dynamic.exits, Kind::Dynamic)
            },
            Mode::Speculative(speculation) => {
                let needs_probability = speculation.length.needs_probability();
                Self {
                    policy: speculation.policy,
                    length: speculation.length,
                    ..plan(speculation.exits, Kind::Speculative { needs_probability })
                }
            }
            Mode::Auto(tuner) => {
                let cycle = Cycle::Plain;
                Self {
                    length: DraftLength::Fixed(MOST_DRAFTED),
                    ..plan(tuner.exits().clone(), Kind::Auto { tuner, cycle })
                }
            }
        })
    }
}

impl<'m, M: DecodeModel> Decoder<'m, M> {
    /// A decoder for these prompts. Heads of draft tokens are made; the prompts are read with the first token asked for.
    ///
    /// # Errors
    /// A prompt without tokens or longer than the model's context, exits that the model does not
    /// have, thresholds or sampler settings outside their range, draft tokens that are none; the model's own.
    pub fn new(
        model: &'m M,
        prompts: &[Prompt],
        settings: DecodeSettings,
    ) -> Result<Self, DecodeError<M::Error>> {
        settings.check(model.depth())?;
        let context = model.context();
        check_prompts(prompts, context)?;
        let plan = Plan::of(settings.mode)?;
        let most = settings.max_new_tokens;
        let rows: Vec<Row> = prompts
            .iter()
            .map(|prompt| Row::new(prompt, most, context, &plan))
            .collect();
        // The last token of a text is never fed.
        let fed = |row: &Row| row.prompt.max(row.limit.0 - 1);
        let capacity = rows.iter().map(fed).max().unwrap_or(0);
        let mut decoder = Self {
            model,
            segments: plan.exits.segments().collect(),
            exits: plan.exits.iter().collect(),
            kind: plan.kind,
            sampling: settings.sampling,
            stop_tokens: settings.stop_tokens,
            draft_heads: Vec::new(),
            cache: model
                .empty_cache(rows.len(), capacity)
                .map_err(DecodeError::Model)?,
            rows,
            waiting: (1..plan.exits.len()).map(|_| None).collect(),
            steps: VecDeque::new(),
            statistics: Statistics {
                depth: plan.exits.last().depth(),
                ..Statistics::default()
            },
            started: false,
            failed: false,
        };
        decoder.make_draft_heads(settings.draft_tokens)?;
        Ok(decoder)
    }

    fn make_draft_heads(&mut self, tokens: Option<Vec<u32>>) -> Result<(), DecodeError<M::Error>> {
        let Some(mut tokens) = tokens.filter(|_| self.checks_later()) else {
            return Ok(());
        };
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.is_empty() {
            return Err(DecodeError::NoDraftTokens);
        }
        let begun = Instant::now();
        let drafting: &[Exit] = &self.exits[..self.exits.len() - 1];
        let heads = self.model.draft_heads(drafting, &tokens);
        self.draft_heads = heads.map_err(DecodeError::Model)?;
        self.statistics.prefill += begun.elapsed();
        Ok(())
    }
}

impl Row {
    fn new(prompt: &Prompt, max_new_tokens: usize, context: usize, plan: &Plan) -> Self {
        let asked = prompt.tokens.len().saturating_add(max_new_tokens);
        let longest = context.saturating_add(1);
        let limit = if asked <= longest {
            (asked, Finish::Length)
        } else {
            (longest, Finish::Context)
        };
        Self {
            tokens: prompt.tokens.clone(),
            prompt: prompt.tokens.len(),
            committed: prompt.tokens.len(),
            drafts: Vec::new(),
            draft_probability: 1.0,
            doubted: None,
            limit,
            finish: (max_new_tokens == 0).then_some(Finish::Length),
            emitted: 0,
            rng: Random::new(prompt.seed),
            policy: plan.policy.for_row(),
            length: DraftLimit::new(plan.length),
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
