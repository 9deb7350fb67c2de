//! Figures as SVG: curves with intervals, heat maps, shares, settings. PNG is made of the SVG.
//!
//! Colours are those of Okabe and Ito and, for ordered values, viridis: both are told apart by the colour-blind, viridis in black and white too. Curves
//! also differ in their marks. Text is text, in whatever sans-serif font the reader has. Knows numbers and names.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::palette::{COLOURS, dash, ordered};
use crate::EvalError;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (720, 420);
/// Width of what stands beside a legend.
const CHART: u32 = 540;
const FONT: (&str, u32) = ("sans-serif", 15);

/// One curve.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end at each point; none, or as many as points.
    pub intervals: Vec<(f64, f64)>,
}

/// Curves over depth or steps.
#[derive(Clone, Debug)]
pub struct Curves<'a> {
    /// What is on the horizontal axis.
    pub x: &'a str,
    /// What is on the vertical axis.
    pub y: &'a str,
    /// The curves.
    pub curves: &'a [Curve],
    /// Cuts the vertical axis here.
    pub highest: Option<f64>,
}

/// Values in rows and columns as colours.
#[derive(Clone, Debug)]
pub struct HeatMap<'a> {
    /// What is on the horizontal axis.
    pub x: &'a str,
    /// What is on the vertical axis.
    pub y: &'a str,
    /// Labels of the rows, the lowest first.
    pub rows: &'a [String],
    /// Values by row and column; none where there is nothing.
    pub values: &'a [Vec<Option<f64>>],
    /// Ends of the scale.
    pub range: (f64, f64),
}

/// A bar per name, divided into shares.
#[derive(Clone, Debug)]
pub struct Shares<'a> {
    /// What the shares add up to.
    pub x: &'a str,
    /// The bars: name, and the share of each part in percent.
    pub bars: &'a [(String, Vec<f64>)],
    /// Names of the parts, in order.
    pub parts: &'a [String],
}

/// Points with names.
#[derive(Clone, Debug)]
pub struct Points<'a> {
    /// What is on the horizontal axis.
    pub x: &'a str,
    /// What is on the vertical axis.
    pub y: &'a str,
    /// The points: name and place.
    pub points: &'a [(String, (f64, f64))],
    /// Indices of the points that are joined, in order.
    pub joined: &'a [usize],
}

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
    match low <= high {
        true => {
            let margin = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-9);
            (low - margin, high + margin)
        }
        false => (0.0, 1.0),
    }
}

impl Curves<'_> {
    /// The figure as SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String, EvalError> {
        let rows = self.curves.len() as u32;
        let height = SIZE.1.max(24 * rows + 60);
        let legend = 56 + width(self.curves.iter().map(|curve| &curve.name));
        svg(self.y, (CHART + legend, height), |area| self.draw(area))
    }

    fn draw(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let ends = || self.curves.iter().flat_map(|curve| &curve.intervals);
        let (left, right) = range(points().map(|point| point.0));
        let values = points().map(|point| point.1);
        let (low, high) = range(values.chain(ends().flat_map(|ends| [ends.0, ends.1])));
        let high = self.highest.unwrap_or(high).max(low + 1e-9);
        let (chart_area, legend) = area.split_horizontally(CHART);
        let mut chart = ChartBuilder::on(&chart_area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(left..right, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .label_style(FONT)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&whole)
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        for (index, curve) in self.curves.iter().enumerate() {
            let style = COLOURS[index % 8].stroke_width(2);
            let shown = || curve.points.iter().copied().filter(|point| point.1 <= high);
            let (length, gap) = dash(index / 8);
            match gap {
                0 => chart.draw_series(LineSeries::new(shown(), style))?,
                _ => chart.draw_series(DashedLineSeries::new(shown(), length, gap, style))?,
            };
            let bars = curve.points.iter().zip(&curve.intervals);
            let bars = bars.map(|(point, ends)| {
                let (bottom, top) = (ends.0.clamp(low, high), ends.1.clamp(low, high));
                PathElement::new(vec![(point.0, bottom), (point.0, top)], style)
            });
            chart.draw_series(bars)?;
            let filled = COLOURS[index % 8].filled();
            let marks = shown().map(|at| EmptyElement::at(at) + Polygon::new(mark(index), filled));
            chart.draw_series(marks)?;
            let y = 24 + 24 * index as i32;
            let ends = [(4, y), (34, y)];
            match gap {
                0 => legend.draw(&PathElement::new(ends.to_vec(), style))?,
                _ => legend.draw(&DashedPathElement::new(ends, length, gap, style))?,
            };
            legend.draw(&(EmptyElement::at((19, y)) + Polygon::new(mark(index), filled)))?;
            legend.draw(&Text::new(curve.name.clone(), (42, y - 8), FONT))?;
        }
        Ok(())
    }
}

/// Marks of curves, around the point in pixels: disc, triangle, diamond, square.
fn mark(index: usize) -> Vec<(i32, i32)> {
    match index % 4 {
        0 => vec![
            (-4, -2),
            (-2, -4),
            (2, -4),
            (4, -2),
            (4, 2),
            (2, 4),
            (-2, 4),
            (-4, 2),
        ],
        1 => vec![(0, -5), (5, 4), (-5, 4)],
        2 => vec![(0, -6), (6, 0), (0, 6), (-6, 0)],
        _ => vec![(-4, -4), (4, -4), (4, 4), (-4, 4)],
    }
}

/// Depths and steps are whole: nothing stands between them.
fn whole(value: &f64) -> String {
    match (value - value.round()).abs() < 1e-6 {
        true => format!("{value:.0}"),
        false => String::new(),
    }
}

/// Where the number of a point at this place stands so that it covers no other: beside the point, or further out where points crowd.
fn free(placed: &mut Vec<(i32, i32)>, (x, y): (i32, i32)) -> (i32, i32) {
    let around: [(i32, i32); 4] = [(6, -14), (6, 2), (-22, -14), (-22, 2)];
    let rings =
        (0..6i32).flat_map(|ring| around.map(|(dx, dy)| (dx + 18 * ring * dx.signum(), dy)));
    let clear = |&(dx, dy): &(i32, i32)| {
        let near = |&(px, py): &(i32, i32)| (x + dx - px).abs() < 17 && (y + dy - py).abs() < 14;
        !placed.iter().any(near)
    };
    let (dx, dy) = rings.clone().find(clear).unwrap_or(around[0]);
    placed.push((x + dx, y + dy));
    (dx, dy)
}

/// A number with few digits.
fn short(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 || magnitude == 0.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl HeatMap<'_> {
    /// The figure as SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String, EvalError> {
        let height = 110 + 26 * self.rows.len() as u32;
        svg(self.y, (SIZE.0, height), |area| self.draw(area))
    }

    fn draw(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let columns = self.values.iter().map(Vec::len).max().unwrap_or(1);
        let (map, scale) = area.split_horizontally(SIZE.0 - 90);
        let rows = self.rows.len();
        let mut chart = ChartBuilder::on(&map)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(
                (0..columns.max(1) - 1).into_segmented(),
                (0..rows.max(1) - 1).into_segmented(),
            )?;
        chart
            .configure_mesh()
            .disable_mesh()
            .label_style(FONT)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(columns.min(20))
            .y_labels(rows)
            .x_label_formatter(&|x| segment(x, ToString::to_string))
            .y_label_formatter(&|y| {
                segment(y, |row| self.rows.get(*row).cloned().unwrap_or_default())
            })
            .draw()?;
        let (low, high) = self.range;
        let share = |value: f64| (value - low) / (high - low).max(1e-12);
        for (row, values) in self.values.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let corners = [
                    (SegmentValue::Exact(column), SegmentValue::Exact(row)),
                    (
                        SegmentValue::Exact(column + 1),
                        SegmentValue::Exact(row + 1),
                    ),
                ];
                let cell = Rectangle::new(corners, ordered(share(*value)).filled());
                chart.draw_series([cell])?;
            }
        }
        self.draw_scale(&scale)
    }

    fn draw_scale(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let (_, height) = area.dim_in_pixel();
        let (top, bottom) = (14, height as i32 - 58);
        for y in top..bottom {
            let share = f64::from(bottom - y) / f64::from((bottom - top).max(1));
            let line = Rectangle::new([(4, y), (20, y + 1)], ordered(share).filled());
            area.draw(&line)?;
        }
        let (low, high) = self.range;
        for (value, y) in [
            (high, top),
            (0.5 * (low + high), (top + bottom) / 2),
            (low, bottom),
        ] {
            let style = TextStyle::from(FONT).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(short(value), (26, y), style))?;
        }
        Ok(())
    }
}

/// Labels stand at the middle of a cell.
fn segment<T>(value: &SegmentValue<T>, label: impl Fn(&T) -> String) -> String {
    match value {
        SegmentValue::CenterOf(value) => label(value),
        _ => String::new(),
    }
}

impl Shares<'_> {
    /// Width of the bars' names.
    fn names(&self) -> u32 {
        12 + width(self.bars.iter().map(|bar| &bar.0))
    }

    /// The figure as SVG.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String, EvalError> {
        let bars = 34 * self.bars.len() as u32;
        let parts = 24 * self.parts.len() as u32;
        let size = (
            CHART + self.names() + 40 + width(self.parts.iter()),
            80 + bars.max(parts),
        );
        svg(self.x, size, |area| self.draw(area))
    }

    fn draw(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let (chart_area, legend) = area.split_horizontally(CHART + self.names());
        let bars = self.bars.len();
        let mut chart = ChartBuilder::on(&chart_area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(self.names())
            .build_cartesian_2d(0.0..100.0, (0..bars.max(1) - 1).into_segmented())?;
        let name = |bar: &usize| self.bars[bars - 1 - bar].0.clone();
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .label_style(FONT)
            .x_desc(self.x)
            .y_labels(bars)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| {
                segment(y, |bar| {
                    if *bar < bars {
                        name(bar)
                    } else {
                        String::new()
                    }
                })
            })
            .draw()?;
        let parts = self.parts.len().saturating_sub(1).max(1) as f64;
        for (bar, (_, shares)) in self.bars.iter().rev().enumerate() {
            let mut left = 0.0;
            for (part, share) in shares.iter().enumerate() {
                let right = left + share;
                let corners = [
                    (left, SegmentValue::Exact(bar)),
                    (right, SegmentValue::Exact(bar + 1)),
                ];
                let mut cell = Rectangle::new(corners, ordered(part as f64 / parts).filled());
                cell.set_margin(5, 5, 0, 0);
                chart.draw_series([cell])?;
                left = right;
            }
        }
        for (part, name) in self.parts.iter().enumerate() {
            let y = 20 + 24 * part as i32;
            let colour = ordered(part as f64 / parts);
            legend.draw(&Rectangle::new([(4, y - 7), (20, y + 7)], colour.filled()))?;
            legend.draw(&Text::new(name.clone(), (28, y - 8), FONT))?;
        }
        Ok(())
    }
}

impl Points<'_> {
    /// The figure as SVG. Points bear numbers, which the legend explains.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String, EvalError> {
        let height = SIZE.1.max(22 * self.points.len() as u32 + 40);
        let legend = 60 + width(self.points.iter().map(|point| &point.0));
        svg(self.y, (CHART + legend, height), |area| self.draw(area))
    }

    fn draw(&self, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
        let (chart_area, legend) = area.split_horizontally(CHART);
        let (left, right) = range(self.points.iter().map(|point| point.1.0));
        let (low, high) = range(self.points.iter().map(|point| point.1.1));
        let mut chart = ChartBuilder::on(&chart_area)
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(left..right, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .label_style(FONT)
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()?;
        let joined = self.joined.iter().map(|&index| self.points[index].1);
        chart.draw_series(LineSeries::new(joined, COLOURS[0].stroke_width(2)))?;
        let mut placed: Vec<(i32, i32)> = Vec::new();
        for (index, (name, at)) in self.points.iter().enumerate() {
            let best = self.joined.contains(&index);
            let colour = if best { COLOURS[0] } else { COLOURS[1] };
            let number = (index + 1).to_string();
            let offset = free(&mut placed, chart.backend_coord(at));
            let label = EmptyElement::at(*at)
                + Circle::new((0, 0), 4, colour.filled())
                + Text::new(number.clone(), offset, FONT);
            chart.draw_series([label])?;
            let y = 20 + 22 * index as i32;
            legend.draw(&Circle::new((8, y), 4, colour.filled()))?;
            legend.draw(&Text::new(format!("{number}  {name}"), (18, y - 8), FONT))?;
        }
        Ok(())
    }
}
