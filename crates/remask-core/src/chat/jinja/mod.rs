//! Jinja2 as transformers sets it up for chat templates, on texts that remember where they came from.
//!
//! # Why a renderer of our own
//! What a user gives must never become a special token, so it has to be known of each byte of a prompt
//! whether it came from the template. Marks *inside* the text cannot do that: a template that compares,
//! slices, splits or measures a text sees the marks, and can cut one off. The templates engines that there
//! are give their strings no room for more: in minijinja only its own strings take part in `+`, `~`, `==`,
//! `in`, slices and loops. So strings here are [`MarkedText`], a text with the ranges that came from outside,
//! and every operation says what becomes of them. llama.cpp arrived at the same.
//!
//! # Why that is sound
//! - All text that a renderer makes comes through `MarkedText::append_slice`, which takes the marks along, or
//!   `MarkedText::push`, which is told whether the text came from outside. Operations that change characters
//!   (`upper`, `tojson`, `repr`) ask each character for its mark and give it to all that it becomes.
//! - Operations decide by the plain text alone. So the text is the one that Jinja2 would write, whatever is
//!   marked.
//! - Brackets and commas of lists and dictionaries that came from outside are marked when they are written,
//!   and so is what fills a format or a date whose pattern came from outside. Not marked are numbers, and the
//!   words `True`, `False` and `None`, which come from outside as values: a control token is none of these.
//!
//! # Limits
//! [`Meter`] counts steps and bytes, `MAX_DEPTH` the calls that are open, `MAX_NESTING` what the parser goes
//! into, and values know how deep they are. No value can hold itself, so nothing leaks.

mod arguments;
mod ast;
mod checks;
mod display;
mod evaluate;
mod expression;
mod fault;
mod filters;
mod format;
mod functions;
mod lexer;
mod list_filters;
mod meter;
mod methods;
mod operators;
mod parser;
mod render;
mod strftime;
mod strings;
mod value;

use std::sync::Arc;

use jiff::civil::DateTime;

use super::marked::MarkedText;

pub(super) use fault::{Fault, Outcome};
pub(super) use meter::Meter;
pub(super) use value::Value;

/// A template that parses.
#[derive(Debug)]
pub(super) struct Template {
    body: Vec<ast::Stmt>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Where it does not parse.
    pub(super) fn parse(source: &str) -> Outcome<Self> {
        parser::parse(source).map(|body| Self { body })
    }

    /// Its text with these names; `now` is what `strftime_now` writes.
    ///
    /// # Errors
    /// Where it refuses, does what has no meaning, or uses up more than `meter` allows.
    pub(super) fn render(
        &self,
        names: Vec<(Arc<str>, Value)>,
        now: &dyn Fn() -> DateTime,
        meter: &Meter,
    ) -> Outcome<MarkedText> {
        render::render(&self.body, names, now, meter)
    }
}
