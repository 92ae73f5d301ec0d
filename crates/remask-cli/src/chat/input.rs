//! What a user types in a conversation.

use std::io::{BufRead, IsTerminal, stdin};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::Failure;

/// A line of a conversation.
pub enum Line {
    /// For the model.
    Text(String),
    /// For the program.
    Command(Command),
    /// Begins with a slash and is no command.
    Unknown(String),
}

/// What the program can be told.
pub enum Command {
    Help,
    Undo,
    Again,
    Clear,
    Quit,
    /// The new system text; none where it is empty.
    System(String),
    /// To this file.
    Save(String),
}

/// The commands, for people.
pub const HELP: &str = "/undo          take the last message and its answer back
/again         answer the last message anew, with another seed
/system TEXT   begin anew with this system text
/clear         begin anew
/save FILE     write the conversation as JSON
/quit          leave, as Ctrl-D does
Ctrl-C ends an answer that is under way. A message that begins with a slash is written with two.";

/// Where lines come from.
pub enum Input {
    /// A terminal, with a history and keys to edit by.
    Terminal(Box<DefaultEditor>),
    /// Anything else, line by line.
    Lines(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    pub fn open() -> Result<Self, Failure> {
        if !stdin().is_terminal() {
            return Ok(Self::Lines(stdin().lock().lines()));
        }
        DefaultEditor::new().map(|editor| Self::Terminal(Box::new(editor))).map_err(Failure::from)
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line that is not empty; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let text = match self {
                Self::Lines(lines) => match lines.next().transpose()? {
                    Some(line) => line,
                    None => return Ok(None),
                },
                Self::Terminal(editor) => match editor.readline("> ") {
                    Ok(line) => {
                        // A history that is full forgets by itself; nothing else can go wrong.
                        let _ = editor.add_history_entry(&line);
                        line
                    }
                    // Ctrl-C drops what has been typed.
                    Err(ReadlineError::Interrupted) => continue,
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(problem) => return Err(problem.into()),
                },
            };
            if !text.trim().is_empty() {
                return Ok(Some(parse(text.trim())));
            }
        }
    }
}

fn parse(text: &str) -> Line {
    let Some(command) = text.strip_prefix('/') else { return Line::Text(text.to_owned()) };
    if command.starts_with('/') {
        return Line::Text(command.to_owned());
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim().to_owned();
    Line::Command(match (name, rest.is_empty()) {
        ("help" | "?", true) => Command::Help,
        ("undo", true) => Command::Undo,
        ("again" | "retry", true) => Command::Again,
        ("clear" | "reset", true) => Command::Clear,
        ("quit" | "exit" | "bye", true) => Command::Quit,
        ("system", _) => Command::System(rest),
        ("save", false) => Command::Save(rest),
        _ => return Line::Unknown(text.to_owned()),
    })
}
