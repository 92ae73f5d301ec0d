//! Quality against compute, a curve a decoder.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::measure::Measured;
use crate::Failure;

const SIZE: (u32, u32) = (1560, 600);
/// Width of the list of curves.
const LEGEND: u32 = 240;

/// Draws two panels as SVG: known answers given (similarity to the first setting where none are known)
/// and likelihood, over the rows computed.
pub fn draw(path: &Path, measured: &[Measured]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let curves = curves(measured);
    let drawn = root.fill(&WHITE).map_err(failed).and_then(|()| {
        let (panels, legend) = root.split_horizontally(SIZE.0 - LEGEND);
        let (left, right) = panels.split_horizontally((SIZE.0 - LEGEND) / 2);
        if measured.iter().all(|m| m.accuracy.is_some()) {
            panel(&left, "Known answers given, %", measured, &curves, |m| m.accuracy.map(|a| 100.0 * a))?;
        } else {
            panel(&left, "Similarity to the first setting", measured, &curves, |m| Some(m.similarity))?;
        }
        panel(&right, "Negative log-likelihood bound, nats a token", measured, &curves, |m| m.nll)?;
        list(&legend, &curves)
    });
    let finished = drawn.and_then(|()| root.present().map_err(failed));
    finished.map_err(|e| Failure::Message(format!("drawing {}: {e}", path.display())))
}

fn failed(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// The curves in the order they come, with their colours: hues apart from each other, however many.
fn curves(measured: &[Measured]) -> Vec<(&str, HSLColor)> {
    let mut curves: Vec<(&str, HSLColor)> = Vec::new();
    for m in measured {
        if !curves.iter().any(|(name, _)| *name == m.curve) {
            let i = curves.len();
            let color = HSLColor((i as f64 * 0.381_966) % 1.0, 0.75, if i.is_multiple_of(2) { 0.38 } else { 0.55 });
            curves.push((&m.curve, color));
        }
    }
    curves
}

fn panel(
    area: &DrawingArea<SVGBackend, Shift>,
    title: &str,
    measured: &[Measured],
    curves: &[(&str, HSLColor)],
    quality: impl Fn(&Measured) -> Option<f64>,
) -> Result<(), String> {
    let points: Vec<_> = measured.iter().filter_map(|m| quality(m).map(|q| (m, m.rows, q))).collect();
    let Some(x) = bounds(points.iter().map(|p| p.1)) else { return Ok(()) };
    let Some(y) = bounds(points.iter().map(|p| p.2)) else { return Ok(()) };
    let margin = (y.1 - y.0).max(1e-3) * 0.06;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d((x.0 * 0.9..x.1 * 1.1).log_scale().base(2.0), y.0 - margin..y.1 + margin)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("rows computed a prompt (log scale)")
        .x_labels(8)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    for (name, color) in curves {
        let own: Vec<_> = points.iter().filter(|p| p.0.curve == *name).collect();
        // Points of a range of values are joined; names are not in any order.
        if own.iter().all(|p| p.0.is_in_range()) {
            let mut line: Vec<_> = own.iter().map(|p| (p.1, p.2)).collect();
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart.draw_series(LineSeries::new(line, color.stroke_width(1))).map_err(failed)?;
        }
        chart.draw_series(own.iter().map(|p| Circle::new((p.1, p.2), 4, color.filled()))).map_err(failed)?;
    }
    Ok(())
}

fn list(area: &DrawingArea<SVGBackend, Shift>, curves: &[(&str, HSLColor)]) -> Result<(), String> {
    for (i, (name, color)) in curves.iter().enumerate() {
        let y = 40 + 21 * i as i32;
        area.draw(&Circle::new((12, y), 5, color.filled())).map_err(failed)?;
        area.draw(&Text::new((*name).to_owned(), (26, y - 7), ("sans-serif", 14))).map_err(failed)?;
    }
    Ok(())
}

/// Least and greatest of what is finite.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).map(|v| (v, v)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}
