//! The loss curve as a picture.

use plotters::prelude::*;
use remask_core::{Error, Result};

/// A point of a curve: step and loss.
pub type Point = (u32, f32);

/// Steps that the smooth line averages over, as a share of all.
const SMOOTH: usize = 50;

/// An SVG of the training loss (each step and a smooth line) and the held-out loss.
///
/// # Errors
/// [`Error::Request`] where it cannot be drawn.
pub fn svg(training: &[Point], held_out: &[Point]) -> Result<Vec<u8>> {
    let mut text = String::new();
    draw(&mut text, training, held_out).map_err(|e| Error::Request(format!("cannot draw the loss curve: {e}")))?;
    Ok(text.into_bytes())
}

fn draw(
    text: &mut String,
    training: &[Point],
    held_out: &[Point],
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>> {
    let all = || training.iter().chain(held_out).filter(|(_, loss)| loss.is_finite());
    let last = all().map(|p| p.0).max().unwrap_or(0).max(1);
    let (low, high) = all().fold((f32::MAX, 0f32), |(low, high), p| (low.min(p.1), high.max(p.1)));
    let (low, high) = if low < high { (low, high) } else { (0.0, high.max(1.0)) };
    let margin = (high - low) * 0.05;
    let area = SVGBackend::with_string(text, (900, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Loss: cross-entropy a token, weighted by 1/t", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0..last, (low - margin).max(0.0)..high + margin)?;
    chart.configure_mesh().x_desc("step").y_desc("loss").draw()?;
    chart.draw_series(LineSeries::new(training.iter().copied(), RGBColor(190, 205, 225)))?;
    let width = (training.len() / SMOOTH).max(1);
    let mean = |w: &[Point]| (w[w.len() / 2].0, w.iter().map(|p| p.1).sum::<f32>() / w.len() as f32);
    let smooth = training.windows(width).step_by(width.div_ceil(4)).map(mean);
    chart
        .draw_series(LineSeries::new(smooth, RGBColor(30, 80, 160).stroke_width(2)))?
        .label("training")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RGBColor(30, 80, 160)));
    if !held_out.is_empty() {
        chart
            .draw_series(LineSeries::new(held_out.iter().copied(), RGBColor(200, 80, 20).stroke_width(2)))?
            .label("held out, averaged weights")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], RGBColor(200, 80, 20)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()
}
