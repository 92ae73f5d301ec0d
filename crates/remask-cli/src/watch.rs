//! `--watch`: the canvas in the terminal while it is being unmasked.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use ratatui::backend::CrosstermBackend;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Wrap};
use ratatui::{Terminal, TerminalOptions, Viewport};
use remask_core::{Cell, Model, StepReport};

use crate::view::Colours;

/// Lines of the terminal that the canvas takes.
const HEIGHT: u16 = 14;

/// A part of the terminal, below what was printed before.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<io::Stdout>>,
    has_text: bool,
    colours: Colours,
}

impl Screen {
    /// Takes the next lines of the terminal.
    pub fn open(has_text: bool, colours: Colours) -> io::Result<Self> {
        let backend = CrosstermBackend::new(io::stdout());
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport: Viewport::Inline(HEIGHT) })?;
        Ok(Self { terminal, has_text, colours })
    }

    /// Shows the canvas after a step. Ends the generation where the terminal is gone.
    pub fn draw(&mut self, model: &Model, report: &StepReport) -> ControlFlow<()> {
        let text = self.render(model, report);
        let drawn = self.terminal.draw(|frame| {
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), frame.area());
        });
        if drawn.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn render<'a>(&self, model: &Model, report: &StepReport) -> Text<'a> {
        let canvas = report.canvas;
        let proposals: HashMap<_, _> = report.candidates.iter().map(|s| (s.position, s.candidate)).collect();
        // What is there, and what the model would put into holes now, if it has been asked.
        let shown = |(position, id): (usize, &u32)| match proposals.get(&position) {
            Some(candidate) if canvas.is_hole(position) => Some(candidate.token),
            _ => (!canvas.is_hole(position)).then_some(*id),
        };
        let texts = self.texts(model, &canvas.tokens().iter().enumerate().map(shown).collect::<Vec<_>>());
        let mut lines = Vec::new();
        let mut spans = Vec::new();
        for ((position, cell), text) in canvas.cells().iter().enumerate().zip(texts) {
            let (text, style) = match cell {
                Cell::Given => (text, Style::new().add_modifier(Modifier::DIM)),
                Cell::Decided { probability, step } => {
                    let mut style = Style::new().fg(match self.colours {
                        Colours::Confidence => confidence_color(*probability),
                        Colours::Depth => depth_color(report.so_far.depth[position]),
                    });
                    if *step == report.step {
                        style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
                    }
                    (text, style)
                }
                Cell::Hole if proposals.contains_key(&position) => {
                    (text, Style::new().fg(Color::DarkGray).add_modifier(Modifier::ITALIC))
                }
                Cell::Hole => ("\u{2591}".to_owned(), Style::new().fg(Color::DarkGray)),
            };
            for (i, piece) in text.split('\n').enumerate() {
                if i > 0 {
                    lines.push(Line::from(std::mem::take(&mut spans)));
                }
                spans.push(Span::styled(piece.to_owned(), style));
            }
        }
        lines.push(Line::from(spans));
        let status = format!(
            "pass {}  block {}..{}  {} of {} tokens decided",
            report.step + 1,
            report.block.start,
            report.block.end,
            canvas.cells().iter().filter(|c| matches!(c, Cell::Decided { .. })).count(),
            canvas.cells().iter().filter(|c| !matches!(c, Cell::Given)).count(),
        );
        lines.insert(0, Line::styled(status, Style::new().add_modifier(Modifier::REVERSED)));
        Text::from(lines)
    }

    /// The text of each position: a dot for what ends an answer, numbers where there is no text.
    fn texts(&self, model: &Model, tokens: &[Option<u32>]) -> Vec<String> {
        let tokenizer = model.tokenizer.as_ref().filter(|_| self.has_text);
        let pieces = tokenizer.and_then(|tokenizer| tokenizer.pieces(tokens, false).ok());
        let numbers = || tokens.iter().map(|id| id.map_or_else(String::new, |id| format!("{id} "))).collect();
        let ends = |id: &Option<u32>| id.is_some_and(|id| model.vocabulary.stop.contains(&id));
        let texts = pieces.unwrap_or_else(numbers).into_iter().zip(tokens);
        texts.map(|(text, id)| if ends(id) { "\u{00B7}".to_owned() } else { text }).collect()
    }

    /// Gives the terminal back below the last canvas.
    pub fn close(mut self) {
        let below = self.terminal.get_frame().area().bottom().saturating_sub(1);
        // A terminal that refuses is gone, and so is whoever watched it.
        let _ = self.terminal.set_cursor_position((0, below));
        let _ = self.terminal.show_cursor();
        let _ = writeln!(io::stdout());
    }
}

/// Green where the model was sure, through yellow to red where it was not.
fn confidence_color(probability: f32) -> Color {
    match probability {
        p if p >= 0.9 => Color::Green,
        p if p >= 0.7 => Color::LightGreen,
        p if p >= 0.5 => Color::Yellow,
        p if p >= 0.3 => Color::LightRed,
        _ => Color::Red,
    }
}

/// Blue where one pass was enough, through to magenta where a token took many.
fn depth_color(passes: u32) -> Color {
    match passes {
        0 => Color::DarkGray,
        1 => Color::Blue,
        2 => Color::Cyan,
        3..=4 => Color::Yellow,
        5..=8 => Color::LightRed,
        _ => Color::Magenta,
    }
}
