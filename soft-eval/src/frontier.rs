//! The Pareto frontier of speed and agreement.

use serde::{Deserialize, Serialize};

/// A decoding setting with its speed and its agreement with the full model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The name of the setting.
    pub name: String,
    /// Speed relative to plain decoding.
    pub speed: f64,
    /// Share of tokens that the full model predicts too, from 0 to 1.
    pub agreement: f64,
    /// Lower end of the 95 % interval of that share.
    pub least: f64,
}

/// Indices of the settings on the Pareto frontier, slowest first.
pub fn frontier(settings: &[Setting]) -> Vec<usize> {
    let beats = |a: &Setting, b: &Setting| {
        a.speed >= b.speed
            && a.agreement >= b.agreement
            && (a.speed > b.speed || a.agreement > b.agreement)
    };
    let unbeaten = |index: &usize| !settings.iter().any(|a| beats(a, &settings[*index]));
    let mut indices: Vec<usize> = (0..settings.len()).filter(unbeaten).collect();
    indices.sort_by(|a, b| settings[*a].speed.total_cmp(&settings[*b].speed));
    indices
}

/// Index of the fastest setting whose lower end of agreement is at least `least_agreement`.
pub fn fastest(settings: &[Setting], least_agreement: f64) -> Option<usize> {
    let enough = settings
        .iter()
        .enumerate()
        .filter(|(_, setting)| setting.least >= least_agreement);
    let best = enough.max_by(|(_, a), (_, b)| a.speed.total_cmp(&b.speed));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_by_hand() {
        let setting = |speed, agreement| Setting {
            name: String::new(),
            speed,
            agreement,
            least: agreement,
        };
        let settings = [
            setting(1.0, 1.0),
            setting(1.5, 1.0),
            setting(1.2, 0.9),
            setting(2.0, 0.9),
            setting(2.0, 0.9),
            setting(3.0, 0.2),
        ];
        assert_eq!(frontier(&settings), [1, 3, 4, 5]);
        assert_eq!(fastest(&settings, 0.95), Some(1));
        assert_eq!(fastest(&settings, 0.1), Some(5));
        assert_eq!(fastest(&settings, 1.1), None);
        let lucky = Setting {
            least: 0.8,
            ..setting(9.0, 1.0)
        };
        assert_eq!(fastest(&[settings[0].clone(), lucky], 0.95), Some(0));
    }
}
