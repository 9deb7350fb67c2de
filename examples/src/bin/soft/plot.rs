//! `soft plot`: the loss at every exit over steps, from the logs of one or several runs, as SVG.
//!
//! Lines are the exponential moving average of the training loss, circles the validation loss. An
//! exit has the same color in all runs, a run the same dash pattern for all exits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use soft_burn::{ExitLoss, LogLine};
use soft_data::read_text;
use soft_eval::report::palette::{COLOURS, dash};
use soft_examples::outln;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// log.jsonl of a run, or the run's folder; may be given several times
    #[arg(long, required = true)]
    log: Vec<PathBuf>,
    /// SVG file to write; an existing one is replaced
    #[arg(long)]
    out: PathBuf,
    /// Weight of earlier steps in the running mean of the training loss, 0 to below 1
    #[arg(long, default_value_t = 0.9)]
    smooth: f64,
    /// Upper end of the loss axis in nats
    #[arg(long)]
    highest: Option<f64>,
}

/// Pairs of step and loss.
type Points = Vec<(f64, f64)>;

#[derive(Default)]
struct Curves {
    name: String,
    training: BTreeMap<usize, Points>,
    validation: BTreeMap<usize, Points>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&args.smooth),
        "--smooth is {}: expected 0 to below 1",
        args.smooth
    );
    ensure!(
        args.highest
            .is_none_or(|most| most.is_finite() && most > 0.0),
        "--highest is {}: expected a number above 0",
        args.highest.unwrap_or_default()
    );
    let runs = args.log.iter().map(|path| Curves::read(path, args.smooth));
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (960, 600)).into_drawing_area();
        draw(&area, &runs, args.highest)?;
        area.present()?;
    }
    fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))?;
    outln!("figure: {}", args.out.display());
    Ok(())
}

impl Curves {
    fn read(path: &Path, smooth: f64) -> Result<Self> {
        let path = if path.is_dir() {
            path.join("log.jsonl")
        } else {
            path.to_owned()
        };
        let text = read_text(&path)?;
        let folder = path.parent().and_then(Path::file_name);
        let mut curves = Self {
            name: folder
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .chars()
                .filter(|c| !c.is_control())
                .collect(),
            ..Self::default()
        };
        // A crash may truncate the last line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for (index, line) in whole.lines().enumerate() {
            let line: LogLine = serde_json::from_str(line)
                .with_context(|| format!("{}, line {}", path.display(), index + 1))?;
            curves.add(line, smooth);
        }
        ensure!(
            !curves.training.is_empty() || !curves.validation.is_empty(),
            "{} has no step and no validation yet",
            path.display()
        );
        Ok(curves)
    }

    fn add(&mut self, line: LogLine, smooth: f64) {
        match line {
            LogLine::Train(report) => {
                for ExitLoss { exit, loss, .. } in report.exits {
                    let points = self.training.entry(exit.depth()).or_default();
                    let before = points.last().map_or(loss, |&(_, before)| before);
                    points.push((report.step as f64, smooth * before + (1.0 - smooth) * loss));
                }
            }
            LogLine::Validation { step, exits } => {
                for ExitLoss { exit, loss, .. } in exits {
                    let points = self.validation.entry(exit.depth()).or_default();
                    points.push((step as f64, loss));
                }
            }
        }
    }

    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.training
            .values()
            .chain(self.validation.values())
            .flatten()
    }
}

fn draw(
    area: &DrawingArea<SVGBackend, Shift>,
    runs: &[Curves],
    highest: Option<f64>,
) -> Result<()> {
    area.fill(&WHITE)?;
    let points = || runs.iter().flat_map(Curves::points);
    let steps = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max);
    let top = highest.unwrap_or(1.05 * top);
    let mut depths: Vec<usize> = runs
        .iter()
        .flat_map(|run| run.training.keys().chain(run.validation.keys()).copied())
        .collect();
    depths.sort_unstable();
    depths.dedup();
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..steps, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(("sans-serif", 16))
        .x_desc("optimizer step")
        .y_desc("loss in nats per token")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .draw()?;
    for (index, run) in runs.iter().enumerate() {
        for (&depth, points) in &run.training {
            let color = COLOURS[depths.iter().position(|&other| other == depth).unwrap_or(0) % 8];
            let style = color.stroke_width(2);
            let (length, gap) = dash(index);
            let points = points.iter().copied();
            let label = format!("{} exit {depth}", run.name);
            let series = match gap {
                0 => chart.draw_series(LineSeries::new(points, style))?,
                _ => chart.draw_series(DashedLineSeries::new(points, length, gap, style))?,
            };
            series.label(label).legend(move |(x, y)| {
                let ends = [(x, y), (x + 24, y)];
                match gap {
                    0 => PathElement::new(ends.to_vec(), style).into_dyn(),
                    _ => DashedPathElement::new(ends, length, gap, style).into_dyn(),
                }
            });
        }
        for (&depth, points) in &run.validation {
            let color = COLOURS[depths.iter().position(|&other| other == depth).unwrap_or(0) % 8];
            let shown = points.iter().filter(|point| point.1 <= top);
            chart.draw_series(shown.map(|&point| Circle::new(point, 4, color.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 16))
        .draw()?;
    Ok(())
}
