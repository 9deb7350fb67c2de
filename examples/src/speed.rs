//! Ways of decoding measured side by side on one model.

use std::cell::RefCell;

use anyhow::{Context, Result};
use soft_core::{DecodeSettings, Exits, Mode, Prompt};
use soft_eval::results::SpeedTable;
use soft_eval::{
    Journal, Setting, SpeedMeter, SpeedMode, SpeedSample, fastest, speed_figures, trace,
};

use crate::decoding::DecodingArgs;
use crate::progress::Progress;
use crate::subject::Subject;

/// What to measure, and how it is reported.
pub struct Contest<'a> {
    /// The model.
    pub subject: &'a Subject,
    /// Modes by name, the one that others are compared with first.
    pub modes: &'a [(String, DecodingArgs)],
    /// What tables call the prompts.
    pub data: String,
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// The recommended mode shares at least this much of its tokens with the full model.
    pub least_agreement: f64,
}

impl Contest<'_> {
    /// Measures every mode on every prompt; what the journal holds is taken from it.
    pub fn run(&self, journal: &mut Journal) -> Result<SpeedTable> {
        let subject = self.subject;
        let names: Vec<String> = self.modes.iter().map(|(name, _)| name.clone()).collect();
        let samples = self.measure(journal)?;
        let draft_tokens = subject.trained.draft_tokens.as_ref().map_or(0, Vec::len);
        let costs = subject.model.config().operation_costs(draft_tokens);
        let rows = speed_figures(&names, &samples, &costs);
        let agreements = self.agreements(&samples)?;
        let settings = rows.iter().zip(agreements).map(|(row, agreement)| Setting {
            name: row.mode.clone(),
            speed: row.speedup.map_or(1.0, |speedup| speedup.estimate),
            agreement,
        });
        let settings: Vec<_> = settings.collect();
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
            // Made once here, so that what cannot be made is refused before anything is measured.
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
        let mut samples = Vec::new();
        for (index, prompt) in self.prompts.iter().enumerate() {
            let key = format!("prompt/{index}");
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

    /// Of every mode the share of its tokens that the full model names on the same text.
    fn agreements(&self, samples: &[Vec<SpeedSample>]) -> Result<Vec<f64>> {
        let exits = Exits::full(self.subject.trained.depth)?;
        let total = self.modes.len() * self.prompts.len();
        let mut progress = Progress::new("comparing", total as u64, 0);
        let mut counts = vec![[0_usize; 2]; self.modes.len()];
        for (prompt, samples) in self.prompts.iter().zip(samples) {
            for (count, sample) in counts.iter_mut().zip(samples) {
                let text = [&prompt.tokens[..], &sample.answer].concat();
                let positions = prompt.tokens.len() - 1..text.len() - 1;
                let traced = trace(&self.subject.model, &exits, &text, positions)?;
                let pairs = traced.iter().zip(&sample.answer);
                let same = pairs.filter(|(traced, token)| traced.full == **token);
                count[0] += same.count();
                count[1] += sample.answer.len();
                progress.step("");
            }
        }
        progress.finish();
        let share = |[same, all]: [usize; 2]| same as f64 / all.max(1) as f64;
        Ok(counts.into_iter().map(share).collect())
    }
}
