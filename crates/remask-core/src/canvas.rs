//! The canvas: prompt and answer on one axis of positions, with the holes still to be filled.
//!
//! A hole is a property of a position and not of its token: mask text that a user typed is text.

use serde::Serialize;

/// What is known of one position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Given by the caller.
    Given,
    /// To be decided; the model sees the mask id here.
    Hole,
    /// Decided while decoding.
    Decided {
        /// Step (forward pass, from 0) that decided it.
        step: u32,
        /// Probability the model gave it.
        probability: f32,
    },
}

impl Cell {
    /// The step that decided the position, where one did.
    #[must_use]
    pub fn decided_at(&self) -> Option<u32> {
        match self {
            Self::Decided { step, .. } => Some(*step),
            Self::Given | Self::Hole => None,
        }
    }
}

/// Token ids by position, and what is known of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Canvas {
    tokens: Vec<u32>,
    cells: Vec<Cell>,
    mask: u32,
    holes: usize,
}

impl Canvas {
    /// `prompt` followed by `answer` holes.
    #[must_use]
    pub fn new(prompt: &[u32], answer: usize, mask: u32) -> Self {
        let mut tokens = prompt.to_vec();
        tokens.resize(prompt.len() + answer, mask);
        let mut cells = vec![Cell::Given; prompt.len()];
        cells.resize(tokens.len(), Cell::Hole);
        Self { tokens, cells, mask, holes: answer }
    }

    /// Given tokens, with a hole wherever there is none: for infilling.
    #[must_use]
    pub fn with_holes(tokens: &[Option<u32>], mask: u32) -> Self {
        let cells: Vec<_> = tokens.iter().map(|t| if t.is_some() { Cell::Given } else { Cell::Hole }).collect();
        let holes = cells.iter().filter(|cell| **cell == Cell::Hole).count();
        Self { tokens: tokens.iter().map(|t| t.unwrap_or(mask)).collect(), cells, mask, holes }
    }

    /// Number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no position at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Token ids as the model sees them: holes hold the mask id.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What is known of each position.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Whether `position` is still to be decided.
    #[must_use]
    pub fn is_hole(&self, position: usize) -> bool {
        matches!(self.cells.get(position), Some(Cell::Hole))
    }

    /// Holes left on the whole canvas.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.holes
    }

    /// Holes within `range`, in order.
    pub fn holes_in(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = usize> + '_ {
        range.filter(|p| self.is_hole(*p))
    }

    /// Fills the hole at `position`. Returns false, and changes nothing, where there is no hole:
    /// nothing is decided twice.
    pub fn decide(&mut self, position: usize, token: u32, step: u32, probability: f32) -> bool {
        if !self.is_hole(position) {
            return false;
        }
        self.tokens[position] = token;
        self.cells[position] = Cell::Decided { step, probability };
        self.holes -= 1;
        true
    }

    /// Makes a hole of a decided position again. Returns false, and changes nothing, elsewhere.
    pub fn remask(&mut self, position: usize) -> bool {
        if !matches!(self.cells.get(position), Some(Cell::Decided { .. })) {
            return false;
        }
        self.tokens[position] = self.mask;
        self.cells[position] = Cell::Hole;
        self.holes += 1;
        true
    }

    /// The id the model sees in holes.
    #[must_use]
    pub fn mask(&self) -> u32 {
        self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_text_in_a_prompt_is_no_hole() {
        let canvas = Canvas::new(&[1, 9, 2], 2, 9);
        assert_eq!(canvas.holes_in(0..5).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn nothing_is_decided_twice() {
        let mut canvas = Canvas::new(&[1], 2, 9);
        assert!(canvas.decide(1, 5, 0, 0.5));
        assert!(!canvas.decide(1, 6, 1, 0.9));
        assert!(!canvas.decide(0, 6, 1, 0.9) && !canvas.decide(7, 6, 1, 0.9));
        assert_eq!((canvas.tokens(), canvas.holes()), (&[1, 5, 9][..], 1));
    }

    #[test]
    fn only_what_was_decided_can_be_remasked() {
        let mut canvas = Canvas::with_holes(&[Some(1), None, Some(3), None], 9);
        assert_eq!((canvas.tokens(), canvas.holes()), (&[1, 9, 3, 9][..], 2));
        assert!(!canvas.remask(0) && !canvas.remask(1) && !canvas.remask(9));
        canvas.decide(1, 5, 0, 0.5);
        assert!(canvas.remask(1) && canvas.decide(1, 6, 1, 0.9));
        assert_eq!((canvas.tokens(), canvas.holes()), (&[1, 6, 3, 9][..], 1));
    }
}
