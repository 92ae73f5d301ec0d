//! What can go wrong with a template.

/// Result of anything that a template does.
pub(crate) type Outcome<T> = Result<T, Fault>;

/// Why a template does not parse or render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The template called `raise_exception` with these words.
    Refused(String),
    /// Anything else.
    Broken {
        /// The line of the template, where it is known.
        line: Option<u32>,
        /// What is wrong.
        problem: String,
    },
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self::Broken { line: None, problem: problem.into() }
    }

    pub(super) fn at(line: u32, problem: impl Into<String>) -> Self {
        Self::Broken { line: Some(line), problem: problem.into() }
    }

    /// The fault with this line, where it has none yet.
    pub(super) fn in_line(self, line: u32) -> Self {
        match self {
            Self::Broken { line: None, problem } => Self::at(line, problem),
            other => other,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(words) => f.write_str(words),
            Self::Broken { line: Some(line), problem } => write!(f, "line {line}: {problem}"),
            Self::Broken { line: None, problem } => f.write_str(problem),
        }
    }
}

/// `Err` of a [`Fault`] with these words.
pub(super) fn fail<T>(problem: impl Into<String>) -> Outcome<T> {
    Err(Fault::new(problem))
}
