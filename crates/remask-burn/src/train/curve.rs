//! The loss curve as a picture.

use plotters::prelude::*;
use remask_core::{Error, Result};

/// A point of a curve: step and loss.
pub type Point = (u32, f32);

/// The smooth line averages over one in this many of all steps.
const SMOOTH: usize = 20;

const TRAINING: RGBColor = RGBColor(30, 80, 160);
const HELD_OUT: RGBColor = RGBColor(200, 80, 20);

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
    let mut losses: Vec<_> = all().map(|p| p.1).collect();
    losses.sort_by(f32::total_cmp);
    // A few steps with little masked stand far above and below the others, which are to be seen.
    let outliers = losses.len() / 200;
    let held_out_high = held_out.iter().map(|p| p.1).filter(|loss| loss.is_finite()).fold(0.0, f32::max);
    let low = losses.get(outliers).copied().unwrap_or(0.0);
    let high = losses.iter().rev().nth(outliers).copied().unwrap_or(1.0).max(held_out_high);
    let (low, high) = if low < high { (low, high) } else { (0.0, high.max(1.0)) };
    let margin = (high - low) * 0.05;
    let area = SVGBackend::with_string(text, (900, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Loss: cross-entropy a masked token, weighted by 1/t", ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(0..last, (low - margin).max(0.0)..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .x_desc("step")
        .y_desc("loss (nats)")
        .draw()?;
    chart.draw_series(LineSeries::new(training.iter().copied(), TRAINING.mix(0.25)))?;
    let width = (training.len() / SMOOTH).max(1);
    let mean = |w: &[Point]| (w[w.len() / 2].0, w.iter().map(|p| p.1).sum::<f32>() / w.len() as f32);
    let smooth = training.windows(width).step_by(width.div_ceil(4)).map(mean);
    chart
        .draw_series(LineSeries::new(smooth, TRAINING.stroke_width(2)))?
        .label("training, each step and smooth")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TRAINING.stroke_width(2)));
    if !held_out.is_empty() {
        chart
            .draw_series(LineSeries::new(held_out.iter().copied(), HELD_OUT.stroke_width(2)).point_size(3))?
            .label("held out, averaged weights")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], HELD_OUT.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()
}
