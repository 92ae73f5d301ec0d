//! What is shown while tokens are being decided: a bar, or the canvas itself.

use std::io::{IsTerminal, stdout};
use std::ops::ControlFlow;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use remask_core::{Model, StepReport};

use crate::Failure;
use crate::report::tell;
use crate::watch::Screen;

/// What the colours of the canvas mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colours {
    /// How probable a token was when it was decided
    Confidence,
    /// In how many passes a token was computed before it was decided
    Depth,
}

/// A display of a generation under way.
pub enum View {
    /// The canvas in the terminal.
    Screen(Screen),
    /// A progress bar.
    Bar(ProgressBar),
}

impl View {
    /// The canvas where it is asked for and there is a terminal, else a bar over `holes` tokens.
    pub fn new(watch: Option<Colours>, model: &Model, holes: usize) -> Result<Self, Failure> {
        if let Some(colours) = watch {
            if stdout().is_terminal() {
                return Ok(Self::Screen(Screen::open(model.tokenizer.is_some(), colours)?));
            }
            tell("note", "--watch needs a terminal; printing the text only");
        }
        let bar = ProgressBar::new(holes as u64);
        if let Ok(style) = ProgressStyle::with_template("decoding {bar:30} {pos}/{len} tokens, {msg}") {
            bar.set_style(style);
        }
        Ok(Self::Bar(bar))
    }

    /// Shows a step.
    pub fn step(&mut self, model: &Model, report: &StepReport) -> ControlFlow<()> {
        match self {
            Self::Screen(screen) => screen.draw(model, report),
            Self::Bar(bar) => {
                bar.set_message(format!("{} passes", report.step + 1));
                bar.set_position(bar.length().unwrap_or(0).saturating_sub(report.canvas.holes() as u64));
                ControlFlow::Continue(())
            }
        }
    }

    /// Gives the terminal back.
    pub fn finish(self) {
        match self {
            Self::Screen(screen) => screen.close(),
            Self::Bar(bar) => bar.finish_and_clear(),
        }
    }
}
