//! Agreement of exits with the full depth, by position.

use super::Names;
use crate::numbers::{number, percent};
use crate::report::document::Section;
use crate::report::figures::HeatMap;
use crate::results::AgreementTable;
use crate::{EvalError, PositionAgreement};

type Figure = fn(&PositionAgreement) -> f64;

pub(super) fn agreement(
    tables: &[&AgreementTable],
    names: &mut Names,
) -> Result<Section, EvalError> {
    let mut section = Section::new("Exits beside the full depth, token by token");
    section.text(
        "Every exit and the full model read the same text, the full model's own greedy answers. KL is that of the exit's next-token distribution from the \
         full model's, in nats; the cosine is that of the hidden states before the final norm.",
    );
    // All maps of a kind share a scale, so that they can be compared.
    let highest = |of: fn(&PositionAgreement) -> f64| {
        let exits = tables.iter().flat_map(|table| &table.exits);
        let positions = exits.flat_map(|exit| &exit.positions);
        let values = positions.filter(|position| position.answers > 0).map(of);
        values.fold(0.0, f64::max)
    };
    let most_nats = highest(|position| position.kl);
    let mut rows = Vec::new();
    for table in tables {
        let pairing = format!("{} exits, {} full depth", table.model, table.reference);
        for exit in &table.exits {
            let mean = exit.overall();
            rows.push(vec![
                pairing.clone(),
                exit.exit.to_string(),
                percent(mean.top1),
                number(mean.kl),
                number(mean.cosine),
                mean.answers.to_string(),
            ]);
        }
        let labels: Vec<String> = table
            .exits
            .iter()
            .map(|exit| exit.exit.to_string())
            .collect();
        let kinds: [(&str, &str, Figure, (f64, f64)); 3] = [
            ("KL divergence in nats", "kl", |p| p.kl, (0.0, most_nats)),
            ("cosine similarity", "cosine", |p| p.cosine, (0.0, 1.0)),
            ("share of equal tokens", "top1", |p| p.top1, (0.0, 1.0)),
        ];
        for (what, name, of, range) in kinds {
            let values: Vec<Vec<Option<f64>>> = table
                .exits
                .iter()
                .map(|exit| {
                    let positions = exit.positions.iter();
                    positions.map(|p| (p.answers > 0).then(|| of(p))).collect()
                })
                .collect();
            let map = HeatMap {
                x: "position in the answer",
                y: "exit",
                rows: &labels,
                values: &values,
                range,
            };
            section.figure(
                names.of(name),
                map.svg()?,
                format!("{pairing}: {what}, {}.", table.data),
            );
        }
    }
    let headings = [
        "pairing",
        "exit",
        "same token %",
        "KL, nats",
        "cosine",
        "tokens",
    ];
    section.table("Means over all positions.", &headings, rows);
    Ok(section)
}
