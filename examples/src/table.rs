//! Text tables for the terminal.

use comfy_table::{CellAlignment, Table, presets};

/// A table with these headings and rows. All columns but the first are aligned right.
pub fn table<R: IntoIterator<Item = String>>(
    headings: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(headings.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// A number with three decimals, or in scientific notation from 1e5 on.
pub fn figure(value: f64) -> String {
    if value.abs() >= 1e5 {
        format!("{value:.2e}")
    } else {
        format!("{value:.3}")
    }
}

/// A share from 0 to 1 in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}
