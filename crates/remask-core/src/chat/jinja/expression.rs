//! Tokens into expressions, with Jinja2's precedences.

use std::sync::Arc;

use super::ast::{Arguments, Comparison, Expr, ExprKind, Operator, Post, PostKind};
use super::fault::Outcome;
use super::lexer::Kind;
use super::parser::Parser;
use crate::chat::marked::MarkedText;

impl Parser {
    /// An expression that may be conditional.
    pub(super) fn expression(&mut self) -> Outcome<Expr> {
        self.nested(|parser| {
            let line = parser.next_line();
            let mut then = parser.or_expression()?;
            if parser.skip_name("if") {
                let test = parser.or_expression()?;
                let otherwise = if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                then = Expr { line, kind: ExprKind::Condition(Box::new([then, test]), otherwise) };
            }
            Ok(then)
        })
    }

    /// An expression without a condition at its top.
    pub(super) fn or_expression(&mut self) -> Outcome<Expr> {
        self.chain("or", ExprKind::Or, |parser| parser.chain("and", ExprKind::And, Self::not_expression))
    }

    fn chain(
        &mut self,
        word: &str,
        kind: fn(Vec<Expr>) -> ExprKind,
        operand: fn(&mut Self) -> Outcome<Expr>,
    ) -> Outcome<Expr> {
        let line = self.next_line();
        let first = operand(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name(word) {
            operands.push(operand(self)?);
        }
        Ok(Expr { line, kind: kind(operands) })
    }

    fn not_expression(&mut self) -> Outcome<Expr> {
        let line = self.next_line();
        let mut negations = 0_usize;
        while self.skip_name("not") {
            negations += 1;
        }
        let mut operand = self.comparison()?;
        // Two of them still make a boolean out of whatever it is.
        for _ in 0..if negations > 2 { 2 - negations % 2 } else { negations } {
            operand = Expr { line, kind: ExprKind::Not(Box::new(operand)) };
        }
        Ok(operand)
    }

    fn comparison(&mut self) -> Outcome<Expr> {
        let line = self.next_line();
        let first = self.arithmetic(0)?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.peek() {
                Some(Kind::Operator("==")) => Comparison::Equal,
                Some(Kind::Operator("!=")) => Comparison::NotEqual,
                Some(Kind::Operator("<")) => Comparison::Less,
                Some(Kind::Operator("<=")) => Comparison::LessOrEqual,
                Some(Kind::Operator(">")) => Comparison::Greater,
                Some(Kind::Operator(">=")) => Comparison::GreaterOrEqual,
                Some(Kind::Name(name)) if name == "in" => Comparison::In,
                Some(Kind::Name(name)) if name == "not" => Comparison::NotIn,
                _ => break,
            };
            if operator == Comparison::NotIn && !self.skip_name_before("not", "in") {
                break;
            }
            self.next();
            rest.push((operator, self.arithmetic(0)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expr { line, kind: ExprKind::Compare(Box::new(first), rest) })
    }

    /// Operators of precedence `level` and above: `+ -`, then `~`, then `* / // %`, then `**`.
    fn arithmetic(&mut self, level: u8) -> Outcome<Expr> {
        let line = self.next_line();
        if level == 4 {
            return self.unary(true);
        }
        let first = self.arithmetic(level + 1)?;
        if level == 1 {
            if !self.is_operator("~") {
                return Ok(first);
            }
            let mut operands = vec![first];
            while self.skip_operator("~") {
                operands.push(self.arithmetic(level + 1)?);
            }
            return Ok(Expr { line, kind: ExprKind::Join(operands) });
        }
        let mut rest = Vec::new();
        loop {
            let operator = match (level, self.peek()) {
                (0, Some(Kind::Operator("+"))) => Operator::Add,
                (0, Some(Kind::Operator("-"))) => Operator::Subtract,
                (2, Some(Kind::Operator("*"))) => Operator::Multiply,
                (2, Some(Kind::Operator("/"))) => Operator::Divide,
                (2, Some(Kind::Operator("//"))) => Operator::FloorDivide,
                (2, Some(Kind::Operator("%"))) => Operator::Remainder,
                (3, Some(Kind::Operator("**"))) => Operator::Power,
                _ => break,
            };
            self.next();
            rest.push((operator, self.arithmetic(level + 1)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expr { line, kind: ExprKind::Arithmetic(Box::new(first), rest) })
    }

    /// A signed operand with what follows it. Filters apply to the signed value.
    fn unary(&mut self, filters: bool) -> Outcome<Expr> {
        let line = self.next_line();
        let sign = self.is_operator("-") || self.is_operator("+");
        let operand = if sign {
            let negative = self.next() == Some(Kind::Operator("-"));
            let operand = self.nested(|parser| parser.unary(false))?;
            Expr { line, kind: ExprKind::Sign(Box::new(operand), negative) }
        } else {
            self.primary()?
        };
        self.postfix(operand, filters)
    }

    fn primary(&mut self) -> Outcome<Expr> {
        let line = self.next_line();
        let kind = match self.peek() {
            Some(Kind::Name(_)) => match self.name()?.as_str() {
                "true" | "True" => ExprKind::Bool(true),
                "false" | "False" => ExprKind::Bool(false),
                "none" | "None" => ExprKind::None,
                name if ["varargs", "kwargs"].contains(&name) => {
                    let [varargs, kwargs] = &mut self.takes_more;
                    *(if name == "varargs" { varargs } else { kwargs }) = true;
                    ExprKind::Name(name.into())
                }
                name => ExprKind::Name(name.into()),
            },
            Some(Kind::Text(_)) => {
                let mut text = String::new();
                while let Some(Kind::Text(_)) = self.peek() {
                    if let Some(Kind::Text(more)) = self.next() {
                        text.push_str(&more);
                    }
                }
                ExprKind::Text(Arc::new(MarkedText::of(&text, false)))
            }
            Some(Kind::Int(value)) => ExprKind::Int(*value),
            Some(Kind::Float(value)) => ExprKind::Float(*value),
            Some(Kind::Operator("(")) => {
                self.next();
                if self.skip_operator(")") {
                    return Ok(Expr { line, kind: ExprKind::Tuple(Vec::new()) });
                }
                let inner = self.nested(|parser| parser.tuple(true))?;
                self.expect_operator(")")?;
                return Ok(inner);
            }
            Some(Kind::Operator("[")) => {
                self.next();
                return Ok(Expr { line, kind: ExprKind::List(self.items("]")?) });
            }
            Some(Kind::Operator("{")) => {
                self.next();
                return Ok(Expr { line, kind: ExprKind::Dict(self.entries()?) });
            }
            _ => return self.expected("an expression"),
        };
        if matches!(kind, ExprKind::Int(_) | ExprKind::Float(_)) {
            self.next();
        }
        Ok(Expr { line, kind })
    }

    fn items(&mut self, close: &str) -> Outcome<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.is_operator(close) {
            items.push(self.expression()?);
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator(close)?;
        Ok(items)
    }

    fn entries(&mut self) -> Outcome<Vec<(Expr, Expr)>> {
        let mut entries = Vec::new();
        while !self.is_operator("}") {
            let key = self.expression()?;
            self.expect_operator(":")?;
            entries.push((key, self.expression()?));
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator("}")?;
        Ok(entries)
    }

    fn postfix(&mut self, operand: Expr, filters: bool) -> Outcome<Expr> {
        let line = operand.line;
        let mut posts = Vec::new();
        loop {
            let at = self.next_line();
            let kind = match self.peek() {
                Some(Kind::Operator(".")) => {
                    self.next();
                    match self.peek() {
                        Some(Kind::Int(index)) => {
                            let kind = ExprKind::Int(*index);
                            self.next();
                            PostKind::Item(Expr { line: at, kind })
                        }
                        _ => PostKind::Attribute(self.name()?.into()),
                    }
                }
                Some(Kind::Operator("[")) => {
                    self.next();
                    self.subscript()?
                }
                Some(Kind::Operator("(")) => PostKind::Call(self.arguments()?),
                Some(Kind::Operator("|")) if filters => {
                    self.next();
                    self.filter()?
                }
                Some(Kind::Name(name)) if filters && name == "is" => {
                    self.next();
                    self.test(at, &mut posts)?;
                    continue;
                }
                _ => break,
            };
            posts.push(Post { line: at, kind });
        }
        if posts.is_empty() {
            return Ok(operand);
        }
        Ok(Expr { line, kind: ExprKind::Postfix(Box::new(operand), posts) })
    }

    fn subscript(&mut self) -> Outcome<PostKind> {
        let line = self.next_line();
        let mut parts = [None, None, None];
        let mut colons = 0;
        loop {
            if self.is_operator("]") {
                break;
            } else if self.is_operator(":") && colons < 2 {
                self.next();
                colons += 1;
            } else {
                match parts.get_mut(colons) {
                    Some(part @ None) => *part = Some(self.expression()?),
                    _ => break,
                }
            }
        }
        if colons == 0 && self.is_operator(",") {
            let mut items: Vec<Expr> = parts.into_iter().flatten().collect();
            while self.skip_operator(",") && !self.is_operator("]") {
                items.push(self.expression()?);
            }
            self.expect_operator("]")?;
            return Ok(PostKind::Item(Expr { line, kind: ExprKind::Tuple(items) }));
        }
        self.expect_operator("]")?;
        match parts {
            [Some(key), None, None] if colons == 0 => Ok(PostKind::Item(key)),
            _ if colons == 0 => self.fail("nothing stands between [ and ]"),
            parts => Ok(PostKind::Slice(parts)),
        }
    }

    fn arguments(&mut self) -> Outcome<Arguments> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        while !self.is_operator(")") {
            if self.skip_operator("*") {
                arguments.items = Some(Box::new(self.expression()?));
            } else if self.skip_operator("**") {
                arguments.entries = Some(Box::new(self.expression()?));
            } else if matches!(self.peek(), Some(Kind::Name(_))) && self.operator_follows("=") {
                let name = self.name()?;
                self.next();
                arguments.named.push((name.into(), self.expression()?));
            } else if !arguments.named.is_empty() || arguments.entries.is_some() {
                return self.fail("an argument without a name follows one with a name");
            } else {
                arguments.positional.push(self.expression()?);
            }
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator(")")?;
        Ok(arguments)
    }

    /// A name that may have dots in it.
    fn dotted(&mut self) -> Outcome<String> {
        let mut name = self.name()?;
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name)
    }

    fn filter(&mut self) -> Outcome<PostKind> {
        let name = self.dotted()?;
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(PostKind::Filter(name, arguments))
    }

    /// Filters in a row; where they are `inline` the first one has no bar before it.
    pub(super) fn filters(&mut self, inline: bool) -> Outcome<Vec<Post>> {
        let mut filters = Vec::new();
        while self.skip_operator("|") || (inline && filters.is_empty()) {
            let line = self.next_line();
            filters.push(Post { line, kind: self.filter()? });
        }
        Ok(filters)
    }

    /// What follows `is`.
    fn test(&mut self, line: u32, posts: &mut Vec<Post>) -> Outcome<()> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let argument = match self.peek() {
            Some(Kind::Name(name)) => !["else", "or", "and", "is", "if", "in", "not"].contains(&name.as_str()),
            Some(Kind::Text(_) | Kind::Int(_) | Kind::Float(_) | Kind::Operator("[" | "{")) => true,
            _ => false,
        };
        let arguments = if self.is_operator("(") {
            self.arguments()?
        } else if argument {
            let operand = self.primary()?;
            Arguments { positional: vec![self.postfix(operand, false)?], ..Arguments::default() }
        } else if self.is_name("is") {
            return self.fail("'is' follows 'is'; join the tests with 'and'");
        } else {
            Arguments::default()
        };
        posts.push(Post { line, kind: PostKind::Test(name, arguments) });
        if negated {
            posts.push(Post { line, kind: PostKind::Test("false".to_owned(), Arguments::default()) });
        }
        Ok(())
    }
}
