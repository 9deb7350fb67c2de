//! The decoding modes that must generate the same text as the full model.

use anyhow::{Result, ensure};
use soft_core::decode::{DraftLength, DynamicExits, Speculation, Tuner};
use soft_core::policy::{Confidence, Saturation};
use soft_core::{Exit, ExitPolicy, Mode, Thresholds};

use super::Verifier;

/// A named mode, made anew for every decoder.
type NamedMode<'a> = (String, Box<dyn Fn() -> Result<Mode> + 'a>);

impl Verifier<'_> {
    /// Drafts at every exit and by two policies, automatic mode, and dynamic exits at an
    /// unreachable threshold.
    pub fn exact_modes(&self) -> Result<Vec<NamedMode<'_>>> {
        let depth = self.exits.last().depth();
        let drafting: Vec<Exit> = self.exits.iter().take(self.exits.len() - 1).collect();
        ensure!(
            !drafting.is_empty(),
            "exits {}: expected one before the full depth",
            self.exits
        );
        let lengths = [
            ("4 tokens", DraftLength::Fixed(4)),
            ("adaptive", DraftLength::Adaptive { start: 2, most: 8 }),
        ];
        let mut modes: Vec<NamedMode> = Vec::new();
        for exit in drafting {
            for (name, length) in lengths {
                modes.push((
                    format!("speculative at {exit}, {name}"),
                    Box::new(move || Ok(Mode::Speculative(Speculation::at(exit, depth, length)?))),
                ));
            }
        }
        modes.push((
            "speculative, exit by confidence".to_owned(),
            Box::new(|| {
                let length = DraftLength::Confident {
                    least: 0.2,
                    most: 6,
                };
                Ok(self.speculative(Box::new(Confidence(Thresholds::all(0.3))), length))
            }),
        ));
        modes.push((
            "speculative, exit by saturation".to_owned(),
            Box::new(|| {
                let policy = Saturation(Thresholds::all(0.8));
                Ok(self.speculative(Box::new(policy), DraftLength::Fixed(3)))
            }),
        ));
        modes.push((
            "automatic".to_owned(),
            Box::new(|| Ok(Mode::Auto(Tuner::new(self.exits.clone())))),
        ));
        modes.push((
            "dynamic, thresholds above 1".to_owned(),
            Box::new(|| Ok(self.dynamic(1.1))),
        ));
        Ok(modes)
    }

    fn speculative(&self, policy: Box<dyn ExitPolicy>, length: DraftLength) -> Mode {
        Mode::Speculative(Speculation {
            exits: self.exits.clone(),
            policy,
            length,
        })
    }

    /// Dynamic exits at this probability of the best token.
    pub fn dynamic(&self, threshold: f64) -> Mode {
        Mode::Dynamic(DynamicExits::new(
            self.exits.clone(),
            Box::new(Confidence(Thresholds::all(threshold))),
        ))
    }
}
