//! Values in rows and columns as colors.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, FONT, SIZE, segment, short, svg};
use crate::EvalError;
use crate::report::palette::ordered;

/// Values in rows and columns as colors.
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
