//! Quality against compute, a curve a decoder.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::measure::Measured;
use crate::Failure;

const SIZE: (u32, u32) = (1500, 620);

/// Draws two panels as SVG: similarity to the first setting (with accuracy where answers are known) and
/// likelihood, over the rows computed.
pub fn draw(path: &Path, measured: &[Measured]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = root.fill(&WHITE).map_err(failed).and_then(|()| {
        let panels = root.split_evenly((1, 2));
        let known = measured.iter().all(|m| m.accuracy.is_some());
        if known {
            panel(&panels[0], "Known answers given, %", measured, true, |m| m.accuracy.map(|a| 100.0 * a))?;
        } else {
            panel(&panels[0], "Similarity to the first setting", measured, true, |m| Some(m.similarity))?;
        }
        panel(&panels[1], "Negative log-likelihood bound, nats a token", measured, false, |m| m.nll)
    });
    drawn
        .and_then(|()| root.present().map_err(failed))
        .map_err(|e| Failure::Message(format!("drawing {}: {e}", path.display())))
}

fn failed(e: impl std::fmt::Display) -> String {
    e.to_string()
}

fn panel(
    area: &DrawingArea<SVGBackend, Shift>,
    title: &str,
    measured: &[Measured],
    legend: bool,
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
        .build_cartesian_2d((x.0 * 0.9..x.1 * 1.1).log_scale(), y.0 - margin..y.1 + margin)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("rows computed a prompt (log scale)")
        .light_line_style(BLACK.mix(0.05))
        .draw()
        .map_err(failed)?;
    let mut curves: Vec<&str> = Vec::new();
    for (m, ..) in &points {
        if !curves.contains(&m.curve.as_str()) {
            curves.push(&m.curve);
        }
    }
    for (i, curve) in curves.iter().enumerate() {
        // Hues apart from each other however many there are.
        let color = HSLColor((i as f64 * 0.381_966) % 1.0, 0.75, if i % 2 == 0 { 0.38 } else { 0.55 });
        let mut own: Vec<_> = points.iter().filter(|p| p.0.curve == *curve).map(|p| (p.1, p.2)).collect();
        own.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart.draw_series(LineSeries::new(own.iter().copied(), color.stroke_width(1))).map_err(failed)?;
        chart
            .draw_series(own.iter().map(|p| Circle::new(*p, 4, color.filled())))
            .map_err(failed)?
            .label(*curve)
            .legend(move |(x, y)| Circle::new((x + 6, y), 4, color.filled()));
    }
    if legend {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 12))
            .draw()
            .map_err(failed)?;
    }
    Ok(())
}

/// Least and greatest of what is finite.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).map(|v| (v, v)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}
