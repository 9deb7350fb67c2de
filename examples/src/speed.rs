//! Measures decoding modes side by side on one model.

use std::cell::RefCell;

use anyhow::{Context, Result};
use soft_core::policy::ExitHead;
use soft_core::{DecodeSettings, Exits, Mode, Prompt};
use soft_eval::results::SpeedTable;
use soft_eval::{
    AnsweredPrompt, Interval, Journal, Setting, SpeedMeter, SpeedMode, SpeedSample, fastest,
    speed_figures,
};

use crate::decoding::DecodingArgs;
use crate::eval_model::EvalModel;
use crate::progress::Progress;

/// What to measure, and how to report it.
pub struct SpeedRun<'a> {
    /// The model.
    pub subject: &'a EvalModel,
    /// Named modes, the first of which is the reference.
    pub modes: &'a [(String, DecodingArgs)],
    /// The name of the prompts in tables.
    pub data: String,
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// Minimum agreement of the recommended mode with the full model.
    pub least_agreement: f64,
}

impl SpeedRun<'_> {
    /// Measures every mode on every prompt. Results in the journal are reused.
    pub fn run(&self, journal: &mut Journal) -> Result<SpeedTable> {
        let subject = self.subject;
        let names: Vec<String> = self.modes.iter().map(|(name, _)| name.clone()).collect();
        let samples = self.measure(journal)?;
        let draft_tokens = subject.trained.draft_tokens.as_ref().map_or(0, Vec::len);
        let costs = subject.model.config().operation_costs(draft_tokens);
        let rows = speed_figures(&names, &samples, &costs);
        let agreements = self.agreements(&samples, journal)?;
        let modes = rows.iter().zip(self.modes).zip(agreements);
        let settings = modes.map(|((row, (_, decoding)), counts)| {
            // Without a token after the first, nothing can differ.
            let found = Interval::of_share(&counts);
            let agreement = found.map_or(1.0, |share| share.estimate);
            // What holds by construction needs no more texts to be shown.
            let known = agreement == 1.0 && decoding.gives_the_full_models_tokens()?;
            let least = found.filter(|_| !known).map_or(1.0, |share| share.low);
            Ok(Setting {
                name: row.mode.clone(),
                speed: row.speedup.map_or(1.0, |speedup| speedup.estimate),
                agreement,
                least,
            })
        });
        let settings = settings.collect::<Result<Vec<_>>>()?;
        Ok(SpeedTable {
            model: subject.name.clone(),
            data: self.data.clone(),
            prompts: self.prompts.len() as u64,
            rows,
            recommended: fastest(&settings, self.least_agreement),
            settings,
            least_agreement: self.least_agreement,
        })
    }

    fn measure(&self, journal: &mut Journal) -> Result<Vec<Vec<SpeedSample>>> {
        let subject = self.subject;
        let full = Exits::full(subject.trained.depth)?.last();
        let failed = RefCell::new(None);
        let mode = |(name, decoding): &'_ (String, DecodingArgs)| {
            let (decoding, failed) = (decoding.clone(), &failed);
            // Invalid settings fail here, before anything is measured.
            let settings = decoding.settings(&subject.trained, &subject.tokenizer);
            settings.with_context(|| format!("mode {name:?}"))?;
            Ok(SpeedMode {
                name: name.clone(),
                settings: Box::new(move || {
                    let settings = decoding.settings(&subject.trained, &subject.tokenizer);
                    settings.unwrap_or_else(|error| {
                        *failed.borrow_mut() = Some(error);
                        DecodeSettings::greedy(Mode::Static(full), 0)
                    })
                }),
            })
        };
        let modes = self.modes.iter().map(mode).collect::<Result<Vec<_>>>()?;
        let mut meter = SpeedMeter::new(&subject.model, &modes);
        let mut progress = Progress::new("decoding", self.prompts.len() as u64, 0);
        let described = self
            .modes
            .iter()
            .map(|(_, decoding)| decoding.description(&subject.trained));
        let how = format!(
            "speed/{}",
            described.collect::<Result<Vec<_>>>()?.join("; ")
        );
        let mut samples = Vec::new();
        for prompt in self.prompts {
            let key = subject.key(&how, &prompt.tokens);
            let of_prompt = match journal.get(&key)? {
                Some(known) => known,
                None => {
                    let measured = meter.measure(prompt)?;
                    if let Some(error) = failed.borrow_mut().take() {
                        return Err(error);
                    }
                    journal.record(&key, &measured)?;
                    measured
                }
            };
            samples.push(of_prompt);
            progress.step("");
        }
        progress.finish();
        Ok(samples)
    }

    /// `[mode][prompt]`: the number of tokens and stop tokens that the full model predicts too on
    /// the same text, and their total. The first token of an answer is left out, since the full
    /// model generates it in every mode.
    fn agreements(
        &self,
        samples: &[Vec<SpeedSample>],
        journal: &mut Journal,
    ) -> Result<Vec<Vec<(f64, f64)>>> {
        let exits = Exits::full(self.subject.trained.depth)?;
        let total = self.modes.len() * self.prompts.len();
        let mut progress = Progress::new("comparing", total as u64, 0);
        let mut counts = vec![Vec::new(); self.modes.len()];
        for (prompt, samples) in self.prompts.iter().zip(samples) {
            for (counts, sample) in counts.iter_mut().zip(samples) {
                let text = AnsweredPrompt {
                    prompt: prompt.tokens.clone(),
                    answer: sample.answer.clone(),
                    ended: sample.ended,
                };
                let traced =
                    self.subject
                        .traces((&exits, ExitHead::Full), &[text], journal, || ())?;
                let stops = self.subject.tokenizer.stop_tokens();
                let generated = sample.answer.iter().skip(1).map(Some).chain([None]);
                let pairs = traced.iter().flatten().zip(generated);
                let same = pairs.filter(|(traced, generated)| match generated {
                    Some(token) => traced.full == **token,
                    None => stops.contains(&traced.full),
                });
                counts.push((same.count() as f64, traced[0].len() as f64));
                progress.step("");
            }
        }
        progress.finish();
        Ok(counts)
    }
}
