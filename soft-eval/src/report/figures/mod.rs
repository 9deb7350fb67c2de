//! Figures as SVG: curves with intervals, heat maps, shares, settings. PNG is made of the SVG.
//!
//! Colors are those of Okabe and Ito and, for ordered values, viridis: both are told apart by the
//! color-blind, viridis in black and white too. Curves also differ in their marks. Text is text,
//! in whatever sans-serif font the reader has. Knows numbers and names.

mod curves;
mod heat_map;
mod points;
mod shares;

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::prelude::*;

pub use curves::{Curve, Curves};
pub use heat_map::HeatMap;
pub use points::Points;
pub use shares::Shares;

use crate::EvalError;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (720, 420);
/// Width of what stands beside a legend.
const CHART: u32 = 540;
const FONT: (&str, u32) = ("sans-serif", 15);

/// Runs a drawing and returns its SVG.
fn svg<E: Display>(
    figure: &str,
    size: (u32, u32),
    draw: impl FnOnce(&Area) -> Result<(), E>,
) -> Result<String, EvalError> {
    let mut text = String::new();
    let failed = |reason: String| EvalError::Figure {
        figure: figure.to_owned(),
        reason,
    };
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let filled = area.fill(&WHITE);
        filled.map_err(|error| failed(error.to_string()))?;
        draw(&area).map_err(|error| failed(error.to_string()))?;
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    Ok(text)
}

/// Pixels that the longest of some names takes, about.
fn width<'a>(names: impl Iterator<Item = &'a String>) -> u32 {
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    9 * longest as u32
}

/// Least and greatest of some values, a little apart.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low <= high {
        let margin = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-9);
        (low - margin, high + margin)
    } else {
        (0.0, 1.0)
    }
}

/// A number with few digits.
fn short(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 || magnitude == 0.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Labels stand at the middle of a cell.
fn segment<T>(value: &SegmentValue<T>, label: impl Fn(&T) -> String) -> String {
    match value {
        SegmentValue::CenterOf(value) => label(value),
        _ => String::new(),
    }
}
