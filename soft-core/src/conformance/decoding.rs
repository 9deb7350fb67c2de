//! The laws of decoding: in every mode, each token is that of the sub-model it is attributed to.
//!
//! Sampled speculation preserves the distribution of the full model, which takes many draws to
//! test. Here its tokens are only checked to be possible.

use super::cache_laws::staircases_catch_up;
use super::case::{Case, Rule, Typical, Way};
use super::trial::{Answer, Trial};
use super::{Coverage, LawBroken, Observed, failed};
use crate::decode::decoder::Decoder;
use crate::decode::draft::DraftLength;
use crate::decode::row::Finish;
use crate::decode::settings::Prompt;
use crate::decode::step::Step;
use crate::exit::Exits;
use crate::sampling::sampler::Sampling;

/// How closely two runs of the decoder must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    /// A row's answer does not depend on other rows, to the bit: needs batch-invariant kernels.
    ToTheBit,
    /// Rounding may decide between tokens with similar scores.
    WithinRounding,
}

/// A model under test, prompts, and the parameters of the checks.
#[derive(Clone, Debug)]
pub struct DecodingLaws<'a, M> {
    /// The model under test. Its context is filled, so a few hundred positions at most are best.
    pub model: &'a M,
    /// At least one, best of different lengths. Needs `max_new_tokens` below the model's context.
    pub prompts: Vec<Prompt>,
    /// The exits; the last is the full model.
    pub exits: Exits,
    /// Maximum number of tokens of an answer, at least 2.
    pub max_new_tokens: usize,
    /// Draft lengths, at least one.
    pub lengths: Vec<DraftLength>,
    /// The tokens of a restricted draft head.
    pub draft_tokens: Vec<u32>,
    /// The sampler of the sampled laws. Its repetition penalty is also checked greedily.
    pub sampling: Sampling,
    /// The share of tokens that do not exit at an exit. Thresholds of policies are set accordingly.
    pub staying: f64,
    /// Rounding error of logits: a token may replace the best one if it scores lower by less than
    /// this. With 0, sampled tokens are checked as well.
    pub tolerance: f64,
    /// How closely a row alone and the same row in a batch must agree.
    pub equality: Equality,
}

impl<'a, M: Observed> DecodingLaws<'a, M> {
    /// Laws for a model without rounding errors, with answers of 12 tokens.
    pub fn new(model: &'a M, prompts: Vec<Prompt>, exits: Exits) -> Self {
        Self {
            model,
            prompts,
            exits,
            max_new_tokens: 12,
            lengths: vec![
                DraftLength::Fixed(1),
                DraftLength::Fixed(4),
                DraftLength::Adaptive { start: 2, most: 5 },
                DraftLength::Confident {
                    least: 0.4,
                    most: 6,
                },
            ],
            draft_tokens: (0..model.vocab() as u32).step_by(2).collect(),
            sampling: Sampling {
                temperature: 0.8,
                top_p: Some(0.95),
                repetition_penalty: 1.3,
                ..Sampling::greedy()
            },
            staying: 0.5,
            tolerance: 0.0,
            equality: Equality::ToTheBit,
        }
    }

    /// Checks all laws.
    ///
    /// # Errors
    /// The first law that is violated.
    pub fn check(&self) -> Result<Coverage, LawBroken> {
        let mut laws = Court::new(self)?;
        laws.states_catch_up()?;
        laws.static_is_its_sub_model()?;
        laws.thresholds_above_one_are_the_full_model()?;
        laws.dynamic_tokens_are_of_their_sub_models()?;
        laws.speculation_is_the_full_model()?;
        laws.policies_may_draft()?;
        laws.automatic_is_the_full_model()?;
        laws.answers_end_where_they_should()?;
        laws.contexts_may_be_filled()?;
        laws.a_stopped_row_leaves_the_others_alone()?;
        laws.trial.joining_changes_nothing(laws.stop_token)?;
        Ok(laws.trial.coverage)
    }
}

struct Court<'a, M> {
    laws: &'a DecodingLaws<'a, M>,
    trial: Trial<'a, M>,
    /// A token of the full model's answers, used as a stop token.
    stop_token: u32,
}

impl<'a, M: Observed> Court<'a, M> {
    /// Decodes with the full model to find typical values.
    fn new(laws: &'a DecodingLaws<'a, M>) -> Result<Self, LawBroken> {
        const LAW: &str = "the full model decodes";
        let texts: Vec<_> = laws.prompts.iter().map(|p| p.tokens.clone()).collect();
        let mut trial = Trial {
            laws,
            typical: Typical::of(laws, LAW, &texts)?,
            coverage: Coverage::default(),
        };
        let case = Case::greedy(LAW, Way::Static(laws.exits.last()), laws.max_new_tokens);
        let answers = trial.decode(&case, &laws.prompts)?;
        let tokens: Vec<_> = answers.iter().map(Answer::tokens).collect();
        let text = |(prompt, answer): (&Vec<u32>, &Vec<u32>)| [&prompt[..], answer].concat();
        let texts: Vec<_> = texts.iter().zip(&tokens).map(text).collect();
        trial.typical = Typical::of(laws, LAW, &texts)?;
        let longest = tokens.concat();
        let stop_token = longest.get(longest.len() / 2).copied().unwrap_or(0);
        Ok(Self {
            laws,
            trial,
            stop_token,
        })
    }

    fn states_catch_up(&self) -> Result<(), LawBroken> {
        let rows: Vec<_> = self.laws.prompts.iter().map(|p| p.tokens.clone()).collect();
        staircases_catch_up(
            self.laws.model,
            &rows,
            &self.laws.exits,
            self.laws.tolerance,
        )
    }

    fn static_is_its_sub_model(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "static exit = its sub-model without a cache";
        for exit in self.laws.exits.iter() {
            self.hold_in_variants(LAW, Way::Static(exit))?;
        }
        Ok(())
    }

    fn thresholds_above_one_are_the_full_model(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "thresholds above 1 = the full model";
        self.hold_in_variants(LAW, Way::Dynamic(Rule::Never))
    }

    /// This includes tokens at full depth after others exited early: the cache is exact.
    fn dynamic_tokens_are_of_their_sub_models(&mut self) -> Result<(), LawBroken> {
        const LAW: &str =
            "a token that left early = its sub-model without a cache on the same text";
        for rule in Rule::LEAVING {
            self.hold_in_variants(LAW, Way::Dynamic(rule))?;
        }
        Ok(())
    }

    fn speculation_is_the_full_model(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "self-speculation = the full model";
        let laws = self.laws;
        for exit in laws.exits.iter().take(laws.exits.len() - 1) {
            for &length in &laws.lengths {
                self.hold_in_variants(LAW, Way::Draft(exit, length))?;
            }
        }
        Ok(())
    }

    fn policies_may_draft(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "drafts that leave where a policy says = the full model";
        let laws = self.laws;
        let lengths = laws.lengths.iter().cycle();
        for (rule, &length) in Rule::LEAVING.into_iter().zip(lengths) {
            self.hold_in_variants(LAW, Way::Both(rule, length))?;
        }
        Ok(())
    }

    fn automatic_is_the_full_model(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "automatic speculation = the full model";
        self.hold_in_variants(LAW, Way::Auto)?;
        // Long enough for the tuner to adapt.
        let most = 3 * self.laws.max_new_tokens;
        self.trial.hold(&Case::greedy(LAW, Way::Auto, most))
    }

    fn answers_end_where_they_should(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "answers have as many tokens as asked for";
        for way in self.ways() {
            for most in 0..3 {
                self.trial.hold(&Case::greedy(LAW, way, most))?;
            }
        }
        Ok(())
    }

    /// The last token of a text is never fed, so that a full context allows one more.
    fn contexts_may_be_filled(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "answers end where the context does";
        let context = self.laws.model.context();
        let mut prompts = self.laws.prompts.clone();
        for (row, prompt) in prompts.iter_mut().enumerate() {
            let cycled = prompt.tokens.iter().copied().cycle();
            prompt.tokens = cycled.take(context - row % 4).collect();
        }
        for way in self.ways() {
            let case = Case::greedy(LAW, way, self.laws.max_new_tokens);
            self.trial.hold_for(&case, &prompts)?;
        }
        Ok(())
    }

    fn a_stopped_row_leaves_the_others_alone(&mut self) -> Result<(), LawBroken> {
        const LAW: &str = "a stopped row leaves the others alone";
        for way in self.ways() {
            let case = Case::greedy(LAW, way, self.laws.max_new_tokens);
            let expected = self.trial.decode(&case, &self.laws.prompts)?;
            for row in 0..expected.len() {
                for after in [0, 1, case.max_new_tokens / 2] {
                    let found = self.stopping(&case, row, after)?;
                    self.only_that_row_ends(&case, row, (&expected, &found))?;
                }
            }
        }
        Ok(())
    }

    /// Answers when `row` is stopped after `after` tokens of the batch's last row.
    fn stopping(
        &mut self,
        case: &Case,
        row: usize,
        after: usize,
    ) -> Result<Vec<Answer>, LawBroken> {
        let settings = self
            .trial
            .typical
            .settings(case)
            .map_err(failed(case.law))?;
        let prompts = &self.laws.prompts;
        let mut decoder =
            Decoder::new(self.laws.model, prompts, settings).map_err(failed(case.law))?;
        let mut steps: Vec<Vec<Step>> = vec![Vec::new(); prompts.len()];
        let last = prompts.len() - 1;
        if after == 0 {
            decoder.stop(row);
        }
        while let Some(step) = decoder.next() {
            let step = step.map_err(failed(case.law))?;
            steps[step.row].push(step);
            if step.row == last && steps[last].len() == after {
                decoder.stop(row);
            }
        }
        self.trial.coverage.sequences += prompts.len() as u64;
        let mut answers = Vec::new();
        for (row, steps) in steps.into_iter().enumerate() {
            let finish = decoder.finish(row);
            let answer = Answer { steps, finish };
            let handed_out = decoder.answer(row) == answer.tokens();
            case.ensure(handed_out, row, || "the steps are not the answer".into())?;
            answers.push(answer);
        }
        Ok(answers)
    }

    fn only_that_row_ends(
        &self,
        case: &Case,
        stopped: usize,
        (expected, found): (&[Answer], &[Answer]),
    ) -> Result<(), LawBroken> {
        if self.laws.equality == Equality::WithinRounding {
            return Ok(());
        }
        for (row, (expected, found)) in expected.iter().zip(found).enumerate() {
            if row != stopped || found.finish == expected.finish {
                Trial::<M>::same(case, row, expected, found)?;
                continue;
            }
            let begins = expected.tokens().starts_with(&found.tokens());
            let right = begins && found.finish == Some(Finish::Stopped);
            case.ensure(right, row, || {
                format!("{expected:?} was stopped and gave {found:?}")
            })?;
        }
        Ok(())
    }

    /// Checks a mode greedily, with a stop token, a penalty, a restricted draft head, and sampled.
    fn hold_in_variants(&mut self, law: &'static str, way: Way) -> Result<(), LawBroken> {
        let laws = self.laws;
        let plain = Case::greedy(law, way, laws.max_new_tokens);
        self.trial.hold(&plain)?;
        self.trial.hold(&Case {
            stop_tokens: vec![self.stop_token],
            ..plain.clone()
        })?;
        self.trial.hold(&Case {
            sampling: Sampling {
                repetition_penalty: laws.sampling.repetition_penalty,
                ..Sampling::greedy()
            },
            ..plain.clone()
        })?;
        self.trial.hold(&Case {
            sampling: laws.sampling.clone(),
            stop_tokens: vec![self.stop_token],
            ..plain.clone()
        })?;
        if matches!(way, Way::Static(_)) {
            return Ok(());
        }
        for sampling in [Sampling::greedy(), laws.sampling.clone()] {
            self.trial.hold(&Case {
                draft_tokens: Some(laws.draft_tokens.clone()),
                sampling,
                ..plain.clone()
            })?;
        }
        Ok(())
    }

    fn ways(&self) -> Vec<Way> {
        let long = DraftLength::Fixed(5);
        let mut ways = vec![
            Way::Static(self.laws.exits.last()),
            Way::Dynamic(Rule::Confidence),
            Way::Both(Rule::Saturation, long),
            Way::Auto,
        ];
        let drafting = self.laws.exits.iter().take(self.laws.exits.len() - 1);
        ways.extend(drafting.map(|exit| Way::Draft(exit, long)).take(1));
        ways
    }
}
