//! Tokens into statements.

use std::sync::Arc;

use super::ast::{Expr, ExprKind, For, Macro, Stmt, StmtKind, Target};
use super::fault::{Fault, Outcome};
use super::lexer::{Kind, Token, tokens};
use crate::chat::marked::MarkedText;

/// Statements and expressions may lie this deep in each other: each level takes stack.
const MAX_NESTING: usize = 48;

/// The statements of a template.
pub(super) fn parse(source: &str) -> Outcome<Vec<Stmt>> {
    let tokens = tokens(source)?.into_iter().peekable();
    let mut parser = Parser { tokens, ahead: None, line: 1, nesting: 0, in_loop: false, takes_more: [false; 2] };
    let (body, _) = parser.body("the template", &[])?;
    Ok(body)
}

pub(super) struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// A token that was looked at past and given back.
    ahead: Option<Token>,
    /// The line of the token that was taken last.
    pub(super) line: u32,
    nesting: usize,
    /// Whether the statements lie in a loop, which they can break.
    in_loop: bool,
    /// Whether `varargs` and `kwargs` were named since the macro around them began.
    pub(super) takes_more: [bool; 2],
}

impl Parser {
    pub(super) fn peek(&mut self) -> Option<&Kind> {
        match &self.ahead {
            Some(token) => Some(&token.kind),
            None => self.tokens.peek().map(|token| &token.kind),
        }
    }

    /// The line of the next token.
    pub(super) fn next_line(&mut self) -> u32 {
        let line = self.line;
        self.ahead.as_ref().or_else(|| self.tokens.peek()).map_or(line, |token| token.line)
    }

    pub(super) fn next(&mut self) -> Option<Kind> {
        let token = self.ahead.take().or_else(|| self.tokens.next())?;
        self.line = token.line;
        Some(token.kind)
    }

    pub(super) fn fail<T>(&mut self, problem: impl Into<String>) -> Outcome<T> {
        let line = self.next_line();
        Err(Fault::at(line, problem))
    }

    /// Says that the next token is not what was expected.
    pub(super) fn expected<T>(&mut self, what: &str) -> Outcome<T> {
        let found = match self.peek() {
            None => "the template's end".to_owned(),
            Some(Kind::Data(_)) => "text".to_owned(),
            Some(Kind::VariableBegin) => "{{".to_owned(),
            Some(Kind::VariableEnd) => "}}".to_owned(),
            Some(Kind::BlockBegin) => "{%".to_owned(),
            Some(Kind::BlockEnd) => "%}".to_owned(),
            Some(Kind::Name(name)) => format!("'{name}'"),
            Some(Kind::Text(text)) => format!("{text:?}"),
            Some(Kind::Int(value)) => value.to_string(),
            Some(Kind::Float(value)) => value.to_string(),
            Some(Kind::Operator(operator)) => format!("'{operator}'"),
        };
        self.fail(format!("expected {what}, found {found}"))
    }

    pub(super) fn is_operator(&mut self, operator: &str) -> bool {
        matches!(self.peek(), Some(Kind::Operator(found)) if *found == operator)
    }

    pub(super) fn is_name(&mut self, name: &str) -> bool {
        matches!(self.peek(), Some(Kind::Name(found)) if found == name)
    }

    /// Takes the next token where it is this operator.
    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        self.is_operator(operator) && self.next().is_some()
    }

    /// Takes the next token where it is this name.
    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        self.is_name(name) && self.next().is_some()
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Outcome<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.expected(&format!("'{operator}'")) }
    }

    pub(super) fn name(&mut self) -> Outcome<String> {
        match self.peek() {
            Some(Kind::Name(_)) => {}
            _ => return self.expected("a name"),
        }
        match self.next() {
            Some(Kind::Name(name)) => Ok(name),
            _ => self.expected("a name"),
        }
    }

    /// Whether the token after the next one is this operator.
    pub(super) fn operator_follows(&mut self, operator: &str) -> bool {
        let Some(token) = self.ahead.take().or_else(|| self.tokens.next()) else { return false };
        let follows = matches!(self.tokens.peek(), Some(Token { kind: Kind::Operator(o), .. }) if *o == operator);
        self.ahead = Some(token);
        follows
    }

    /// Takes the next token where it is `first` and the name behind it is `second`.
    pub(super) fn skip_name_before(&mut self, first: &str, second: &str) -> bool {
        if !self.is_name(first) {
            return false;
        }
        let Some(token) = self.ahead.take().or_else(|| self.tokens.next()) else { return false };
        let follows = matches!(self.tokens.peek(), Some(Token { kind: Kind::Name(name), .. }) if name == second);
        if !follows {
            self.ahead = Some(token);
        }
        follows
    }

    /// Runs `parse` one level deeper.
    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        if self.nesting == MAX_NESTING {
            return self.fail(format!("nested more than {MAX_NESTING} deep"));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn block_end(&mut self) -> Outcome<()> {
        match self.peek() {
            Some(Kind::BlockEnd) => {
                self.next();
                Ok(())
            }
            _ => self.expected("%}"),
        }
    }

    /// Statements up to a tag that one of `ends` names, and that name; the tag is read up to behind it.
    fn body(&mut self, of: &str, ends: &[&str]) -> Outcome<(Vec<Stmt>, String)> {
        let begun = self.line;
        self.nested(|parser| parser.statements(of, begun, ends))
    }

    fn statements(&mut self, of: &str, begun: u32, ends: &[&str]) -> Outcome<(Vec<Stmt>, String)> {
        let mut body = Vec::new();
        loop {
            let line = self.next_line();
            let kind = match self.next() {
                None if ends.is_empty() => return Ok((body, String::new())),
                None => {
                    return Err(Fault::at(begun, format!("{of} has no end: {{% {} %}} is missing", ends.join("/"))));
                }
                Some(Kind::Data(text)) => StmtKind::Data(Arc::new(MarkedText::of(&text, false))),
                Some(Kind::VariableBegin) => {
                    let printed = self.tuple(true)?;
                    if self.peek() != Some(&Kind::VariableEnd) {
                        return self.expected("}}");
                    }
                    self.next();
                    StmtKind::Print(vec![printed])
                }
                _ => {
                    let name = self.name()?;
                    if ends.contains(&name.as_str()) {
                        return Ok((body, name));
                    }
                    let kind = self.statement(&name, ends)?;
                    self.block_end()?;
                    kind
                }
            };
            body.push(Stmt { line, kind });
        }
    }

    /// A statement up to the end of its last tag.
    fn statement(&mut self, name: &str, ends: &[&str]) -> Outcome<StmtKind> {
        match name {
            "if" => self.condition(),
            "for" => self.for_loop(),
            "set" => self.set(),
            "with" => self.with(),
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                let made = self.macro_body(name.into(), parameters, "endmacro")?;
                // The name may be repeated.
                let _ = matches!(self.peek(), Some(Kind::Name(_))) && self.next().is_some();
                Ok(StmtKind::Macro(made))
            }
            "call" => {
                let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
                let call = self.expression()?;
                Ok(StmtKind::Call(call, self.macro_body("caller".into(), parameters, "endcall")?))
            }
            "filter" => {
                let filters = self.filters(true)?;
                self.block_end()?;
                let (body, _) = self.body("filter", &["endfilter"])?;
                Ok(StmtKind::Filter(filters, body))
            }
            "print" => {
                let mut printed = vec![self.expression()?];
                while self.skip_operator(",") {
                    printed.push(self.expression()?);
                }
                Ok(StmtKind::Print(printed))
            }
            // transformers marks with it what an assistant wrote, for training; the text is what lies inside.
            "generation" => {
                self.block_end()?;
                Ok(StmtKind::Scope(self.body("generation", &["endgeneration"])?.0))
            }
            "block" => {
                self.name()?;
                self.block_end()?;
                let (body, _) = self.body("block", &["endblock"])?;
                let _ = matches!(self.peek(), Some(Kind::Name(_))) && self.next().is_some();
                Ok(StmtKind::Scope(body))
            }
            "break" if self.in_loop => Ok(StmtKind::Break),
            "continue" if self.in_loop => Ok(StmtKind::Continue),
            "break" | "continue" => {
                let line = self.line;
                Err(Fault::at(line, format!("{{% {name} %}} stands outside of a loop")))
            }
            "include" | "import" | "from" | "extends" => {
                let line = self.line;
                Err(Fault::at(line, format!("{{% {name} %}} names another template; a chat template is alone")))
            }
            other => {
                let line = self.line;
                let wanted = if ends.is_empty() { String::new() } else { format!(", expected {}", ends.join(" or ")) };
                Err(Fault::at(line, format!("unknown tag '{other}'{wanted}")))
            }
        }
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Outcome<Arc<Macro>> {
        self.block_end()?;
        let around = (std::mem::take(&mut self.takes_more), std::mem::take(&mut self.in_loop));
        let (body, _) = self.body(end.trim_start_matches("end"), &[end])?;
        let takes_more = self.takes_more;
        (self.takes_more, self.in_loop) = around;
        Ok(Arc::new(Macro { name, parameters, body, takes_more }))
    }

    fn condition(&mut self) -> Outcome<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false)?;
            self.block_end()?;
            let (body, end) = self.body("if", &["elif", "else", "endif"])?;
            branches.push((test, body));
            let otherwise = match end.as_str() {
                "elif" => continue,
                "else" => {
                    self.block_end()?;
                    self.body("else", &["endif"])?.0
                }
                _ => Vec::new(),
            };
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    fn for_loop(&mut self) -> Outcome<StmtKind> {
        let target = self.target()?;
        if !self.skip_name("in") {
            return self.expected("'in'");
        }
        let items = self.tuple(false)?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        let around = std::mem::replace(&mut self.in_loop, true);
        let (body, end) = self.body("for", &["else", "endfor"])?;
        self.in_loop = around;
        let otherwise = if end == "else" {
            self.block_end()?;
            self.body("else", &["endfor"])?.0
        } else {
            Vec::new()
        };
        Ok(StmtKind::For(Arc::new(For { target, items, condition, recursive, body, otherwise })))
    }

    fn set(&mut self) -> Outcome<StmtKind> {
        let target = if self.operator_follows(".") {
            let name = self.name()?;
            self.expect_operator(".")?;
            Target::Attribute(name.into(), self.name()?.into())
        } else {
            self.target()?
        };
        if self.skip_operator("=") {
            return Ok(StmtKind::Set(target, self.tuple(true)?));
        }
        let filters = self.filters(false)?;
        self.block_end()?;
        let (body, _) = self.body("set", &["endset"])?;
        Ok(StmtKind::Capture(target, filters, body))
    }

    fn with(&mut self) -> Outcome<StmtKind> {
        let mut bindings = Vec::new();
        while self.peek() != Some(&Kind::BlockEnd) {
            if !bindings.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target_item()?;
            self.expect_operator("=")?;
            bindings.push((target, self.expression()?));
        }
        self.block_end()?;
        Ok(StmtKind::With(bindings, self.body("with", &["endwith"])?.0))
    }

    /// Names to assign to, separated by commas.
    fn target(&mut self) -> Outcome<Target> {
        let first = self.target_item()?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_operator(",") {
            if self.is_name("in") || self.is_operator("=") || self.is_operator(")") {
                break;
            }
            all.push(self.target_item()?);
        }
        Ok(Target::Tuple(all))
    }

    fn target_item(&mut self) -> Outcome<Target> {
        if self.skip_operator("(") {
            let inner = self.nested(Self::target)?;
            self.expect_operator(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&name.as_str()) {
            return self.fail(format!("cannot assign to '{name}'"));
        }
        Ok(Target::Name(name.into()))
    }

    fn parameters(&mut self) -> Outcome<Vec<(Arc<str>, Option<Expr>)>> {
        self.expect_operator("(")?;
        let mut parameters: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("a parameter without a default follows one that has one");
            }
            parameters.push((name.into(), default));
        }
        self.expect_operator(")")?;
        Ok(parameters)
    }

    /// An expression, or several with commas between them as a tuple; `conditions` says whether `a if b`
    /// may stand there.
    pub(super) fn tuple(&mut self, conditions: bool) -> Outcome<Expr> {
        let line = self.next_line();
        let item = |parser: &mut Self| if conditions { parser.expression() } else { parser.or_expression() };
        let first = item(self)?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_operator(",") {
            let ended = matches!(self.peek(), None | Some(Kind::VariableEnd | Kind::BlockEnd));
            if ended || self.is_operator(")") || self.is_name("recursive") {
                break;
            }
            items.push(item(self)?);
        }
        Ok(Expr { line, kind: ExprKind::Tuple(items) })
    }
}
