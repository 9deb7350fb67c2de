//! Decodes a case, checks the statistics, and compares every token with the uncached sub-models.

use super::case::{Case, Rule, Typical, Way};
use super::uncached::{Choice, Uncached};
use super::{Coverage, DecodingLaws, Equality, LawBroken, Observed, failed};
use crate::decode::decoder::Decoder;
use crate::decode::row::Finish;
use crate::decode::settings::Prompt;
use crate::decode::statistics::Statistics;
use crate::decode::step::Step;
use crate::exit::Exit;
use crate::random::Random;

#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub steps: Vec<Step>,
    pub finish: Option<Finish>,
}

impl Answer {
    pub fn tokens(&self) -> Vec<u32> {
        self.steps.iter().map(|step| step.token).collect()
    }
}

pub(super) struct Trial<'a, M> {
    pub laws: &'a DecodingLaws<'a, M>,
    pub typical: Typical,
    pub coverage: Coverage,
}

impl<M: Observed> Trial<'_, M> {
    /// Checks the case for the batch, and for each row alone.
    pub fn hold(&mut self, case: &Case) -> Result<(), LawBroken> {
        self.hold_for(case, &self.laws.prompts)
    }

    pub fn hold_for(&mut self, case: &Case, prompts: &[Prompt]) -> Result<(), LawBroken> {
        let together = self.decode(case, prompts)?;
        for (row, (prompt, answer)) in prompts.iter().zip(&together).enumerate() {
            self.verify(case, row, prompt, answer)?;
        }
        if self.laws.equality == Equality::WithinRounding || case.depends_on_time() {
            return Ok(());
        }
        for (row, (prompt, expected)) in prompts.iter().zip(&together).enumerate() {
            let alone = self.decode(case, std::slice::from_ref(prompt))?;
            Self::same(case, row, expected, &alone[0])?;
        }
        Ok(())
    }

    /// Asserts that two runs of a row agree; the exits of drafts may differ.
    pub fn same(
        case: &Case,
        row: usize,
        expected: &Answer,
        found: &Answer,
    ) -> Result<(), LawBroken> {
        let exits = |answer: &Answer| -> Vec<_> {
            let exit = |step: &Step| (!case.speculative()).then_some(step.exit);
            answer.steps.iter().map(exit).collect()
        };
        let same = expected.tokens() == found.tokens()
            && expected.finish == found.finish
            && exits(expected) == exits(found);
        case.ensure(same, row, || {
            format!("one run gives {expected:?}, another {found:?}")
        })
    }

    pub fn decode(&mut self, case: &Case, prompts: &[Prompt]) -> Result<Vec<Answer>, LawBroken> {
        let settings = self.typical.settings(case).map_err(failed(case.law))?;
        let mut decoder =
            Decoder::new(self.laws.model, prompts, settings).map_err(failed(case.law))?;
        let mut steps = vec![Vec::new(); prompts.len()];
        for step in &mut decoder {
            let step = step.map_err(failed(case.law))?;
            steps[step.row].push(step);
        }
        let mut answers = Vec::new();
        for (row, steps) in steps.into_iter().enumerate() {
            let answer = Answer {
                steps,
                finish: decoder.finish(row),
            };
            let handed_out = decoder.answer(row) == answer.tokens();
            case.ensure(handed_out, row, || "the steps are not the answer".into())?;
            self.end_is_right(case, row, &prompts[row], &answer)?;
            answers.push(answer);
        }
        self.books_balance(case, &answers, decoder.statistics())?;
        self.cover(case, &answers, decoder.statistics());
        Ok(answers)
    }

    fn cover(&mut self, case: &Case, answers: &[Answer], statistics: &Statistics) {
        self.coverage.sequences += answers.len() as u64;
        self.coverage.saw_drafts(statistics);
        for answer in answers {
            if matches!(case.way, Way::Dynamic(_)) {
                let full = self.laws.exits.last();
                self.coverage.saw_exits(&answer.steps, full);
            }
            let ended_by = |finish| u64::from(answer.finish == Some(finish));
            self.coverage.stopped_by_token += ended_by(Finish::StopToken);
            self.coverage.filled_the_context += ended_by(Finish::Context);
        }
    }

    /// The length of the answer matches its finish reason.
    fn end_is_right(
        &self,
        case: &Case,
        row: usize,
        prompt: &Prompt,
        answer: &Answer,
    ) -> Result<(), LawBroken> {
        let tokens = answer.tokens();
        let asked = tokens.len() == case.max_new_tokens;
        let full = prompt.tokens.len() + tokens.len() == self.laws.model.context() + 1;
        let right = match answer.finish {
            Some(Finish::Length) => asked,
            Some(Finish::Context) => full && !asked,
            Some(Finish::StopToken) => !full && !asked && !case.stop_tokens.is_empty(),
            Some(Finish::Stopped) | None => false,
        };
        case.ensure(right, row, || {
            format!("{} tokens, finish {:?}", tokens.len(), answer.finish)
        })?;
        let stop = tokens.iter().find(|token| case.stop_tokens.contains(token));
        case.ensure(stop.is_none(), row, || {
            format!("the stop token {stop:?} belongs to the answer")
        })
    }

    fn books_balance(
        &self,
        case: &Case,
        answers: &[Answer],
        statistics: &Statistics,
    ) -> Result<(), LawBroken> {
        let steps = || answers.iter().flat_map(|answer| &answer.steps);
        let tell = |what: &str| format!("{what}: {statistics:?}");
        let by_depth = statistics.tokens_by_depth.iter().all(|(&depth, &tokens)| {
            steps().filter(|step| step.exit.depth() == depth).count() as u64 == tokens
        });
        let tokens = by_depth && statistics.tokens() == steps().count() as u64;
        case.ensure(tokens, 0, || tell("tokens by depth"))?;
        let accepted = steps().filter(|step| step.accepted).count() as u64;
        // Accepted stop tokens are not part of an answer.
        let most = accepted + answers.len() as u64;
        let drafts = (accepted..=most).contains(&statistics.accepted)
            && statistics.accepted <= statistics.checked
            && statistics.checked <= statistics.drafted
            && (case.speculative() || statistics.drafted == 0);
        case.ensure(drafts, 0, || tell("accepted, checked, drafted"))?;
        // The prompt's pass generates the first token, and each state fed later a token or the end.
        let stopped = |answer: &Answer| answer.finish == Some(Finish::StopToken);
        let named = |answer: &Answer| (answer.steps.len() + usize::from(stopped(answer))) as u64;
        let fed: u64 = answers
            .iter()
            .map(|answer| named(answer).saturating_sub(1))
            .sum();
        let [least, most] = self.bounds(case, fed, statistics);
        let states = (least..=most).contains(&statistics.block_states)
            && statistics.block_states + statistics.appended_states <= most;
        case.ensure(states, 0, || {
            tell(&format!("block states, {least} to {most} expected"))
        })
    }

    /// Minimum and maximum of blocks times states for `fed` states.
    fn bounds(&self, case: &Case, fed: u64, statistics: &Statistics) -> [u64; 2] {
        let exits = &self.laws.exits;
        let own = |exit: Exit| u64::from(self.laws.model.exit_block(exit).is_some());
        let full = depth_of(exits.last());
        let with_own = full + exits.iter().map(own).sum::<u64>();
        let first = exits.iter().next().unwrap_or(exits.last());
        match case.way {
            Way::Static(exit) => [fed * (depth_of(exit) + own(exit)); 2],
            Way::Dynamic(Rule::Never) => [fed * full, fed * with_own],
            Way::Dynamic(_) => [fed * depth_of(first), fed * with_own],
            // The full model processes the state of every token, including accepted ones.
            Way::Draft(..) | Way::Both(..) | Way::Auto => {
                let least = fed * full;
                [least, (fed + statistics.drafted) * with_own]
            }
        }
    }

    /// Every token is that of an uncached sub-model, and of the right exit.
    pub fn verify(
        &self,
        case: &Case,
        row: usize,
        prompt: &Prompt,
        answer: &Answer,
    ) -> Result<(), LawBroken> {
        let tokens = answer.tokens();
        let stopped = answer.finish == Some(Finish::StopToken);
        if tokens.is_empty() && !stopped {
            return Ok(());
        }
        let mut text = [&prompt.tokens[..], &tokens].concat();
        if !stopped {
            // The last token may not fit the context, and nothing follows it.
            text.pop();
        }
        let known = (&self.laws.exits, &self.typical.probes);
        let mut uncached = Uncached::of(case.law, self.laws.model, known, &text)?;
        if let (Way::Dynamic(_), Some(tokens)) = (case.way, &case.draft_tokens) {
            uncached = uncached.restricted_to(tokens);
        }
        let mut rng = Random::new(prompt.seed);
        for index in 0..tokens.len() + usize::from(stopped) {
            let position = prompt.tokens.len() + index - 1;
            let step = answer.steps.get(index);
            let exits = self.exits_of(case, index, position, &uncached);
            self.exit_is_right(case, row, index, (step, &exits))?;
            let found = tokens.get(index..=index).unwrap_or(&case.stop_tokens);
            let mut wanted = None;
            for exit in exits {
                let named_here = step.is_none_or(|step| case.speculative() || step.exit == exit);
                if !named_here {
                    continue;
                }
                let choice = Choice {
                    sampling: &case.sampling,
                    logits: uncached.logits(exit, position),
                    seen: &text[..=position],
                    tolerance: self.laws.tolerance,
                };
                wanted = self.wanted(case, &choice, found, &mut rng)?;
                if wanted.is_none() {
                    break;
                }
            }
            case.ensure(wanted.is_none(), row, || {
                format!("token {index} is one of {found:?}, expected {wanted:?}, of {tokens:?}")
            })?;
        }
        Ok(())
    }

    /// The token expected instead. The draws of sampled drafts are not reproduced.
    fn wanted(
        &self,
        case: &Case,
        choice: &Choice,
        found: &[u32],
        rng: &mut Random,
    ) -> Result<Option<u32>, LawBroken> {
        if case.speculative() && !case.sampling.is_greedy() {
            let allowed = choice.allows(found).map_err(failed(case.law))?;
            return Ok((!allowed).then(|| super::uncached::best_token(choice.logits)));
        }
        choice.instead_of(found, rng).map_err(failed(case.law))
    }

    /// The exits that may generate the token at this index, the most likely first.
    fn exits_of(
        &self,
        case: &Case,
        index: usize,
        position: usize,
        uncached: &Uncached,
    ) -> Vec<Exit> {
        let full = self.laws.exits.last();
        match case.way {
            Way::Static(exit) => vec![exit],
            // The pass over the prompt runs all blocks.
            Way::Dynamic(rule) if index > 0 => self.within_rounding(rule, position, uncached),
            _ => vec![full],
        }
    }

    /// The exits at which a policy may let the token at `position` exit, given rounding.
    fn within_rounding(&self, rule: Rule, position: usize, uncached: &Uncached) -> Vec<Exit> {
        let mut policy = self.typical.policy(rule);
        uncached.exits_within(&mut *policy, position, self.laws.tolerance as f32)
    }

    fn exit_is_right(
        &self,
        case: &Case,
        row: usize,
        index: usize,
        (step, exits): (Option<&Step>, &[Exit]),
    ) -> Result<(), LawBroken> {
        let Some(step) = step else {
            return Ok(());
        };
        let right = if case.speculative() {
            step.accepted == (step.exit != self.laws.exits.last())
        } else {
            !step.accepted && exits.contains(&step.exit)
        };
        case.ensure(right, row, || {
            format!("token {index} is {step:?}, expected exit {exits:?}")
        })
    }
}

fn depth_of(exit: Exit) -> u64 {
    exit.depth() as u64
}
