//! Points with numbers, which the legend explains.

use plotters::prelude::*;

use super::{Area, CHART, FONT, SIZE, range, short, svg, width};
use crate::EvalError;
use crate::report::palette::COLOURS;

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
/// Where the number of a point at this place stands so that it covers no other: beside the point,
/// or further out where points crowd.
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
