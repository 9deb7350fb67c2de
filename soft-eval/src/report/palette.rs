//! Colors and dash patterns of figures.

use plotters::style::RGBColor;
use plotters::style::colors::colormaps::{ColorMap, ViridisRGB};

/// Eight colors for color-blind readers: those of Okabe and Ito, with a dark olive in place of
/// yellow.
pub const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 100, 30),
    RGBColor(0, 0, 0),
];

/// Dash pattern of a line: lengths of dash and gap in pixels. The first line is solid.
pub fn dash(line: usize) -> (u32, u32) {
    [(1, 0), (8, 4), (2, 3), (12, 3)][line % 4]
}

/// The viridis color of a value from 0 (dark) to 1 (bright), which keeps the order in grayscale.
pub fn ordered(share: f64) -> RGBColor {
    ViridisRGB.get_color(share.clamp(0.0, 1.0))
}
