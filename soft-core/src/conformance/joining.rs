//! The law of continuous batching: a request that joins a running decoder gets the answer that it
//! gets alone, whatever the modes, lengths and prompts of the others.

use super::case::{Case, Rule, Way};
use super::trial::{Answer, Trial};
use super::{Equality, LawBroken, Observed, failed};
use crate::decode::decoder::Decoder;
use crate::decode::row::Finish;
use crate::decode::settings::Prompt;
use crate::decode::start::SharedSettings;
use crate::decode::step::Step;
use crate::random::Random;
use crate::sampling::sampler::Sampling;

const LAW: &str = "a request that joins = the request alone";

/// A request in a row of the decoder.
struct Joined<'a> {
    case: &'a Case,
    prompt: &'a Prompt,
    steps: Vec<Step>,
    /// It is stopped after this many tokens.
    hangs_up: Option<usize>,
}

impl<'a, M: Observed> Trial<'a, M> {
    /// Decodes all cases for all prompts in a few rows, at random times.
    pub(super) fn joining_changes_nothing(&mut self, stop_token: u32) -> Result<(), LawBroken> {
        let cases = self.joining_cases(stop_token);
        let laws = self.laws;
        let prompts = &laws.prompts;
        let mut rng = Random::new(prompts[0].seed);
        let mut requests: Vec<(&Case, &Prompt)> = cases
            .iter()
            .flat_map(|case| prompts.iter().map(move |prompt| (case, prompt)))
            .collect();
        shuffle(&mut requests, &mut rng);
        let rows = 2 + below(&mut rng, 3);
        let mut decoder = self.open_decoder(rows, 1 + below(&mut rng, 4))?;
        let mut taken: Vec<Option<Joined>> = (0..rows).map(|_| None).collect();
        loop {
            while decoder.free_rows() > 0 && rng.uniform() < 0.7 {
                let Some((case, prompt)) = requests.pop() else {
                    break;
                };
                let settings = self.typical.settings(case).map_err(failed(LAW))?;
                let row = decoder.join(prompt, settings).map_err(failed(LAW))?;
                let hangs_up = rng.uniform() < 0.1;
                taken[row] = Some(Joined {
                    case,
                    prompt,
                    steps: Vec::new(),
                    hangs_up: hangs_up.then(|| below(&mut rng, self.laws.max_new_tokens)),
                });
            }
            if requests.is_empty() && taken.iter().all(Option::is_none) {
                return Ok(());
            }
            decoder.round().map_err(failed(LAW))?;
            for step in decoder.take_steps() {
                if let Some(joined) = &mut taken[step.row] {
                    joined.steps.push(step);
                }
            }
            self.take_answers(&mut decoder, &mut taken)?;
        }
    }

    fn open_decoder(&self, rows: usize, prompt_chunk: usize) -> Result<Decoder<'a, M>, LawBroken> {
        let mut draft_tokens = self.laws.draft_tokens.clone();
        draft_tokens.sort_unstable();
        let shared = SharedSettings {
            rows,
            positions: self.laws.model.context(),
            prompt_chunk,
            exits: self.laws.exits.clone(),
            draft_tokens: Some(draft_tokens),
            probes: Some(self.typical.probes.clone()),
        };
        Decoder::with_free_rows(self.laws.model, shared).map_err(failed(LAW))
    }

    /// Checks the answers that have ended, and frees their rows.
    fn take_answers(
        &mut self,
        decoder: &mut Decoder<'a, M>,
        taken: &mut [Option<Joined>],
    ) -> Result<(), LawBroken> {
        for (row, taken) in taken.iter_mut().enumerate() {
            let Some(joined) = taken else { continue };
            if joined
                .hangs_up
                .is_some_and(|after| joined.steps.len() >= after)
            {
                decoder.stop(row);
            }
            let Some(finish) = decoder.finish(row) else {
                continue;
            };
            let answer = Answer {
                steps: std::mem::take(&mut joined.steps),
                finish: Some(finish),
            };
            let kept = decoder.answer(row) == answer.tokens();
            let (case, prompt) = (joined.case, joined.prompt);
            case.ensure(kept, row, || "the steps are not the answer".into())?;
            self.is_the_answer_alone(case, row, prompt, &answer)?;
            decoder.leave(row);
            *taken = None;
        }
        Ok(())
    }

    fn is_the_answer_alone(
        &mut self,
        case: &Case,
        row: usize,
        prompt: &Prompt,
        answer: &Answer,
    ) -> Result<(), LawBroken> {
        self.coverage.joined += 1;
        let stopped = answer.finish == Some(Finish::Stopped);
        if !stopped {
            self.verify(case, row, prompt, answer)?;
        }
        if self.laws.equality == Equality::WithinRounding || case.depends_on_time() {
            return Ok(());
        }
        let alone = self.decode(case, std::slice::from_ref(prompt))?;
        if stopped {
            let begins = alone[0].tokens().starts_with(&answer.tokens());
            return case.ensure(begins, row, || {
                format!("{:?} was stopped and gave {answer:?}", alone[0])
            });
        }
        Self::same(case, row, &alone[0], answer)
    }

    /// All modes, greedy and sampled, with and without draft heads and stop tokens.
    fn joining_cases(&self, stop_token: u32) -> Vec<Case> {
        let laws = self.laws;
        let statics = laws.exits.iter().map(Way::Static);
        let dynamics = Rule::LEAVING.into_iter().map(Way::Dynamic);
        let drafting = laws.exits.iter().take(laws.exits.len() - 1);
        let mut lengths = laws.lengths.iter().cycle();
        let mut length = || lengths.next().copied().unwrap_or(laws.lengths[0]);
        let drafts: Vec<Way> = drafting.map(|exit| Way::Draft(exit, length())).collect();
        let both: Vec<Way> = Rule::LEAVING
            .into_iter()
            .map(|rule| Way::Both(rule, length()))
            .collect();
        let ways = statics.chain(dynamics).chain(drafts).chain(both);
        let mut cases = Vec::new();
        for (index, way) in ways.chain([Way::Auto]).enumerate() {
            let plain = Case::greedy(LAW, way, laws.max_new_tokens);
            cases.push(Case {
                draft_tokens: (index % 2 == 0 && !matches!(way, Way::Static(_)))
                    .then(|| laws.draft_tokens.clone()),
                stop_tokens: (index % 3 == 0).then_some(stop_token).into_iter().collect(),
                ..plain.clone()
            });
            cases.push(Case {
                sampling: laws.sampling.clone(),
                ..plain.clone()
            });
            if index % 4 == 0 {
                cases.push(Case {
                    sampling: Sampling {
                        repetition_penalty: laws.sampling.repetition_penalty,
                        ..Sampling::greedy()
                    },
                    ..plain
                });
            }
        }
        cases
    }
}

fn below(rng: &mut Random, limit: usize) -> usize {
    ((rng.uniform() * limit as f64) as usize).min(limit - 1)
}

fn shuffle<T>(items: &mut [T], rng: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}
