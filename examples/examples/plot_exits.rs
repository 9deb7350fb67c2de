//! Draws what `evaluate --json` wrote: the loss at every depth, one line per model, as SVG.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use serde::Deserialize;
use soft_examples::palette::{COLOURS, dash};

#[derive(Parser, Debug)]
#[command(about = "Draw the loss at every depth of several models")]
struct Args {
    /// Files that `evaluate --json` wrote, named by what their model is: "SoFT=soft.json"
    #[arg(required = true)]
    scores: Vec<String>,
    /// SVG file to write; one that is there is replaced
    #[arg(long)]
    out: PathBuf,
    /// Cut the axis of the loss at this many nats
    #[arg(long)]
    highest: Option<f64>,
}

/// What is needed of such a file.
#[derive(Deserialize)]
struct Scores {
    exits: Vec<Score>,
}

#[derive(Deserialize)]
struct Score {
    exit: usize,
    loss: f64,
}

/// One line: a model's losses by depth.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let lines = args.scores.iter().map(|scores| Line::read(scores));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let text = draw(&lines, args.highest)?;
    fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))?;
    println!("figure: {}", args.out.display());
    Ok(())
}

impl Line {
    fn read(scores: &str) -> Result<Self> {
        let (name, path) = match scores.split_once('=') {
            Some((name, path)) => (name.to_owned(), Path::new(path)),
            None => {
                let path = Path::new(scores);
                let stem = path.file_stem().unwrap_or_default();
                (stem.to_string_lossy().into_owned(), path)
            }
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let found: Scores =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(!found.exits.is_empty(), "{} has no exit", path.display());
        let points = found.exits.iter();
        let points = points.map(|score| (score.exit as f64, score.loss));
        Ok(Self {
            name,
            points: points.collect(),
        })
    }
}

fn draw(lines: &[Line], highest: Option<f64>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (960, 600)).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || lines.iter().flat_map(|line| &line.points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let least = points().map(of).fold(f64::INFINITY, f64::min);
            (least, points().map(of).fold(0.0, f64::max))
        };
        let ((first, last), (least, most)) = (range(|point| point.0), range(|point| point.1));
        let top = highest.unwrap_or(1.05 * most);
        // Room for the legend beside the curves.
        let (curves, legend) = area.split_horizontally(700);
        let mut chart = ChartBuilder::on(&curves)
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(first - 0.5..last + 0.5, 0.95 * least..top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .label_style(("sans-serif", 16))
            .x_desc("exit: blocks run")
            .y_desc("loss in nats per token")
            .x_label_formatter(&|depth| format!("{depth:.0}"))
            .draw()?;
        for (index, line) in lines.iter().enumerate() {
            let style = COLOURS[index % 8].stroke_width(2);
            let (length, gap) = dash(index / 8);
            let shown = || line.points.iter().copied().filter(|point| point.1 <= top);
            match gap {
                0 => chart.draw_series(LineSeries::new(shown(), style))?,
                _ => chart.draw_series(DashedLineSeries::new(shown(), length, gap, style))?,
            };
            let dots = shown().map(|point| Circle::new(point, 4, COLOURS[index % 8].filled()));
            chart.draw_series(dots)?;
            let y = 32 + 24 * index as i32;
            let ends = [(8, y), (36, y)];
            match gap {
                0 => legend.draw(&PathElement::new(ends.to_vec(), style))?,
                _ => legend.draw(&DashedPathElement::new(ends, length, gap, style))?,
            };
            let label = Text::new(line.name.clone(), (44, y - 8), ("sans-serif", 16));
            legend.draw(&label)?;
        }
        area.present()?;
    }
    Ok(text)
}
