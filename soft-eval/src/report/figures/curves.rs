//! Curves with intervals, over depth or steps.

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::{Area, CHART, FONT, SIZE, range, short, svg, width};
use crate::EvalError;
use crate::report::palette::{COLOURS, dash};

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
    if (value - value.round()).abs() < 1e-6 {
        format!("{value:.0}")
    } else {
        String::new()
    }
}
