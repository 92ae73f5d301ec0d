//! The figure: how latencies are distributed, and what a load does to speed.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::lengths::COLOURS;
use super::load::Ran;
use super::stats::Distribution;
use crate::{Failure, Outcome};

const SIZE: (u32, u32) = (1100, 480);

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes it to a file.
pub fn write(path: &Path, runs: &[Ran]) -> Outcome {
    let svg = svg(runs)?;
    std::fs::write(path, svg).map_err(|e| Failure::Message(format!("{}: {e}", path.display())))
}

/// It as text.
pub fn svg(runs: &[Ran]) -> Result<String, Failure> {
    let mut text = String::new();
    draw(&mut text, runs).map_err(|e| Failure::Message(format!("drawing: {e}")))?;
    Ok(text)
}

fn draw(text: &mut String, runs: &[Ran]) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    if runs.iter().all(|ran| ran.all.answered == 0) {
        root.draw(&Text::new("no request was answered", (40, 40), ("sans-serif", 20)))?;
        root.present()?;
        return Ok(());
    }
    shares(&left, runs)?;
    match runs {
        [one] => scatter(&right, one)?,
        _ => speed(&right, runs)?,
    }
    root.present()?;
    Ok(())
}

/// A range with a little room, also where all values are one.
fn around(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (least, most) = values.fold((f64::INFINITY, 0f64), |(least, most), value| (least.min(value), most.max(value)));
    let least = least.max(1e-4).min(most.max(1e-4));
    (least / 1.2)..(most.max(least) * 1.2)
}

/// The share of requests that had their first text, and their end, within a time.
fn shares(area: &Area<'_>, runs: &[Ran]) -> Drawn {
    let all = |ran: &Ran| {
        let ends = |of: &Distribution| of.shares().into_iter().map(|(seconds, _)| seconds).collect::<Vec<_>>();
        [ends(&ran.all.first_text), ends(&ran.all.latency)].concat()
    };
    let x = around(runs.iter().flat_map(all));
    let mut chart = ChartBuilder::on(area)
        .caption("Share of requests with text (thin) and at their end (thick)", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(x.clone().log_scale(), 0.0..1.0)?;
    chart.configure_mesh().x_desc("seconds").draw()?;
    for (ran, colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        for (of, width) in [(&ran.all.first_text, 1), (&ran.all.latency, 3)] {
            // Stairs: nothing happens between two values.
            let mut below = 0.0;
            let mut line = vec![(x.start, 0.0)];
            for (seconds, share) in of.shares() {
                line.extend([(seconds.max(x.start), below), (seconds.max(x.start), share)]);
                below = share;
            }
            if of.len() > 0 {
                let drawn = chart.draw_series(LineSeries::new(line, colour.stroke_width(width)))?;
                if width > 1 {
                    drawn
                        .label(ran.load.to_string())
                        .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3)));
                }
            }
        }
    }
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}

/// Latency of each request against when it was sent.
fn scatter(area: &Area<'_>, ran: &Ran) -> Drawn {
    let points: Vec<_> = ran.records.iter().filter_map(|one| Some((one.at, one.latency?))).collect();
    let most = points.iter().map(|point| point.0).fold(1e-3, f64::max);
    let longest = points.iter().map(|point| point.1).fold(1e-3, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency of requests, by when they were sent", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..most * 1.05, 0.0..longest * 1.1)?;
    chart.configure_mesh().x_desc("sent after, seconds").y_desc("seconds").draw()?;
    let colour = BLUE.mix(0.6);
    chart.draw_series(points.into_iter().map(|point| Circle::new(point, 2, colour.filled())))?;
    Ok(())
}

/// Tokens, or where nobody counts them answers, a second, against latency: a point a load.
fn speed(area: &Area<'_>, runs: &[Ran]) -> Drawn {
    let counted = runs.iter().all(|ran| ran.all.answered == 0 || ran.all.counted > 0);
    let rate = |ran: &Ran| {
        let (tokens, answers) = (ran.all.tokens_a_second(ran.elapsed), ran.all.answers_a_second(ran.elapsed));
        if counted { tokens } else { answers }
    };
    let points = runs.iter().filter_map(|ran| Some((ran, rate(ran)?, ran.all.latency.percentile(50.0)?)));
    let points: Vec<_> = points.collect();
    let most = points.iter().map(|point| point.1).fold(1e-3, f64::max);
    let longest = points.iter().map(|point| point.2).fold(1e-3, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Median latency against speed, by load", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..most * 1.2, 0.0..longest * 1.2)?;
    let unit = if counted { "tokens a second" } else { "answers a second" };
    chart.configure_mesh().x_desc(unit).y_desc("seconds").draw()?;
    let line = points.iter().map(|(_, speed, latency)| (*speed, *latency));
    chart.draw_series(LineSeries::new(line, BLUE.stroke_width(2)).point_size(4))?;
    for (ran, speed, latency) in &points {
        let label = Text::new(ran.load.to_string(), (8, -14), ("sans-serif", 13));
        chart.draw_series([EmptyElement::at((*speed, *latency)) + label])?;
    }
    Ok(())
}
