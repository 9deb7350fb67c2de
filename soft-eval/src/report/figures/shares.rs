//! Bars divided into shares.

use plotters::prelude::*;

use super::{Area, CHART, FONT, segment, svg, width};
use crate::EvalError;
use crate::report::palette::ordered;

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
