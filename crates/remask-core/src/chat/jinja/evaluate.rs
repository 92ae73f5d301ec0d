//! Values of expressions.

use std::sync::Arc;

use super::arguments::Args;
use super::ast::{Arguments, Comparison, Expr, ExprKind, Post, PostKind};
use super::display;
use super::fault::{Outcome, fail};
use super::methods;
use super::operators;
use super::render::Renderer;
use super::value::{Sequence, Value};
use crate::chat::marked::MarkedText;

impl Renderer<'_> {
    /// The value of an expression.
    pub(super) fn value(&mut self, expr: &Expr) -> Outcome<Value> {
        self.meter.steps(1)?;
        Ok(match &expr.kind {
            ExprKind::None => Value::None,
            ExprKind::Bool(value) => Value::Bool(*value),
            ExprKind::Int(value) => Value::Int(*value),
            ExprKind::Float(value) => Value::Float(*value),
            ExprKind::Text(text) => Value::Text(text.clone()),
            ExprKind::Name(name) => self.lookup(name),
            compound => {
                return self.deeper(|renderer| renderer.compound(compound)).map_err(|fault| fault.in_line(expr.line));
            }
        })
    }

    fn values(&mut self, exprs: &[Expr]) -> Outcome<Vec<Value>> {
        exprs.iter().map(|expr| self.value(expr)).collect()
    }

    fn compound(&mut self, kind: &ExprKind) -> Outcome<Value> {
        match kind {
            ExprKind::List(items) => {
                let items = self.values(items)?;
                Value::list(items, self.meter)
            }
            ExprKind::Tuple(items) => {
                let items = self.values(items)?;
                Value::sequence(items, Sequence::Tuple, self.meter)
            }
            ExprKind::Dict(entries) => self.dict(entries),
            ExprKind::Condition(parts, otherwise) => {
                let [then, test] = &**parts;
                if self.value(test)?.is_true() {
                    return self.value(then);
                }
                match otherwise {
                    Some(otherwise) => self.value(otherwise),
                    None => Ok(Value::undefined("the condition is false, and there is no 'else'")),
                }
            }
            ExprKind::Or(operands) => self.first(operands, true),
            ExprKind::And(operands) => self.first(operands, false),
            ExprKind::Not(operand) => Ok(Value::Bool(!self.value(operand)?.is_true())),
            ExprKind::Sign(operand, negative) => operators::signed(&self.value(operand)?, *negative),
            ExprKind::Compare(first, rest) => self.compare(first, rest),
            ExprKind::Arithmetic(first, rest) => {
                let mut left = self.value(first)?;
                for (operator, right) in rest {
                    let right = self.value(right)?;
                    left = operators::arithmetic(*operator, &left, &right, self.meter)?;
                }
                Ok(left)
            }
            ExprKind::Join(operands) => {
                let operands = self.values(operands)?;
                let joined = operators::join(operands.iter(), &MarkedText::default(), self.meter)?;
                Ok(Value::text(joined))
            }
            ExprKind::Postfix(operand, posts) => {
                let operand = self.value(operand)?;
                self.followed(operand, posts)
            }
            _ => Ok(Value::None),
        }
    }

    fn dict(&mut self, entries: &[(Expr, Expr)]) -> Outcome<Value> {
        let mut made = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            made.push((self.value(key)?, self.value(value)?));
        }
        Value::dict(made, false, self.meter)
    }

    /// The first operand that is `truth`, or the last one.
    fn first(&mut self, operands: &[Expr], truth: bool) -> Outcome<Value> {
        let mut last = Value::None;
        for operand in operands {
            last = self.value(operand)?;
            if last.is_true() == truth {
                break;
            }
        }
        Ok(last)
    }

    fn compare(&mut self, first: &Expr, rest: &[(Comparison, Expr)]) -> Outcome<Value> {
        let mut left = self.value(first)?;
        for (comparison, right) in rest {
            let right = self.value(right)?;
            let order = |wanted: fn(std::cmp::Ordering) -> bool| {
                Ok(operators::order(&left, &right, self.meter)?.is_some_and(wanted))
            };
            let holds = match comparison {
                Comparison::Equal => left.equals(&right, self.meter)?,
                Comparison::NotEqual => !left.equals(&right, self.meter)?,
                Comparison::Less => order(std::cmp::Ordering::is_lt)?,
                Comparison::LessOrEqual => order(std::cmp::Ordering::is_le)?,
                Comparison::Greater => order(std::cmp::Ordering::is_gt)?,
                Comparison::GreaterOrEqual => order(std::cmp::Ordering::is_ge)?,
                Comparison::In => operators::contains(&right, &left, self.meter)?,
                Comparison::NotIn => !operators::contains(&right, &left, self.meter)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// A value after what follows it.
    pub(super) fn followed(&mut self, mut value: Value, posts: &[Post]) -> Outcome<Value> {
        for post in posts {
            self.meter.steps(1)?;
            value = self.after(&value, &post.kind).map_err(|fault| fault.in_line(post.line))?;
        }
        Ok(value)
    }

    fn after(&mut self, value: &Value, post: &PostKind) -> Outcome<Value> {
        match post {
            PostKind::Attribute(name) => self.attribute(value, name),
            PostKind::Item(key) => {
                let key = self.value(key)?;
                self.item(value, &key)
            }
            PostKind::Slice(parts) => {
                let mut values = [None, None, None];
                for (value, part) in values.iter_mut().zip(parts) {
                    *value = part.as_ref().map(|part| self.value(part)).transpose()?;
                }
                operators::slice(value, values, self.meter)
            }
            PostKind::Call(arguments) => {
                let args = self.arguments(arguments)?;
                self.call(value, args)
            }
            PostKind::Filter(name, arguments) => {
                let args = self.arguments(arguments)?;
                self.filter(name, value.clone(), args)
            }
            PostKind::Test(name, arguments) => {
                let args = self.arguments(arguments)?;
                self.test(name, value, args).map(Value::Bool)
            }
        }
    }

    /// `value.name`: what the value has itself goes before an entry of this name.
    pub(super) fn attribute(&mut self, value: &Value, name: &Arc<str>) -> Outcome<Value> {
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        let entry = match value {
            Value::Dict(dict) => dict.get(name).cloned(),
            _ => None,
        };
        Ok(entry.unwrap_or_else(|| missing(value, name)))
    }

    /// `value[key]`: an entry goes before what the value has itself.
    pub(super) fn item(&mut self, value: &Value, key: &Value) -> Outcome<Value> {
        if let Some(found) = operators::item(value, key, self.meter)? {
            return Ok(found);
        }
        if let Value::Text(name) = key {
            let name: Arc<str> = name.text.as_str().into();
            if let Some(found) = self.own_attribute(value, &name)? {
                return Ok(found);
            }
        }
        Ok(missing(value, &display::text(key, self.meter)?.text))
    }

    /// What a value has itself under a name.
    pub(super) fn own_attribute(&mut self, value: &Value, name: &Arc<str>) -> Outcome<Option<Value>> {
        Ok(match value {
            Value::Undefined(why) => return fail(why.as_ref()),
            Value::Namespace(at) => {
                let names = self.namespaces.get(*at);
                names.and_then(|names| names.iter().find(|(known, _)| known == name)).map(|(_, value)| value.clone())
            }
            Value::Loop(serial) => self.loop_attribute(*serial, name)?,
            Value::Turn(at) => self.turn_attribute(value, *at, name),
            Value::Macro(called) if &**name == "name" => Some(Value::plain(&called.of.name)),
            Value::List(list) if list.kind == Sequence::Group => match &**name {
                "grouper" => list.items.first().cloned(),
                "list" => list.items.get(1).cloned(),
                _ => methods::method(value, name),
            },
            other => methods::method(other, name),
        })
    }

    /// The arguments of a call.
    pub(super) fn arguments(&mut self, arguments: &Arguments) -> Outcome<Args> {
        let mut positional = self.values(&arguments.positional)?;
        if let Some(items) = &arguments.items {
            let items = self.value(items)?;
            positional.extend(operators::iterate(&items, self.meter)?);
        }
        let mut named = Vec::new();
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.value(value)?));
        }
        if let Some(entries) = &arguments.entries {
            match self.value(entries)? {
                Value::Dict(dict) => {
                    for (key, value) in &dict.entries {
                        let Value::Text(key) = key else { return fail("** takes entries with texts as keys") };
                        self.meter.bytes(key.text.len())?;
                        named.push((key.text.as_str().into(), value.clone()));
                    }
                }
                other => return fail(format!("** takes a dict, not {}", other.type_name())),
            }
        }
        Ok(Args { positional, named })
    }

    /// Calls a value.
    pub(super) fn call(&mut self, callee: &Value, args: Args) -> Outcome<Value> {
        self.meter.steps(1)?;
        match callee {
            Value::Undefined(why) => fail(why.as_ref()),
            Value::Function(function) => self.call_function(*function, args),
            Value::Macro(called) => self.call_macro(&called.of, called.scope, args),
            Value::Method(method) => match &method.0 {
                Value::Loop(serial) => self.loop_method(*serial, &method.1, args),
                Value::Turn(at) => self.turn_method(*at, &method.1, args),
                value => methods::call(value, &method.1, args, self.meter),
            },
            Value::Loop(serial) => self.loop_again(*serial, args),
            Value::Turn(at) => self.turn_method(*at, "call", args),
            other => fail(format!("{} cannot be called", other.type_name())),
        }
    }

    fn loop_again(&mut self, serial: u64, args: Args) -> Outcome<Value> {
        let items = args.only("loop", "iterable")?;
        let running = self.loops.iter().rfind(|running| running.serial == serial);
        let Some((of, scope)) = running.and_then(|running| running.again.clone()) else {
            return fail("a loop can only be called where it says 'recursive'");
        };
        let level = running.map_or(0, |running| running.level + 1);
        let outer = std::mem::take(&mut self.out);
        let result = self.deeper(|renderer| renderer.for_loop(&of, &items, scope, level));
        let text = std::mem::replace(&mut self.out, outer);
        result.map(|()| Value::text(text))
    }
}

/// What stands for a name that a value does not have.
pub(super) fn missing(value: &Value, name: &str) -> Value {
    let shown: String = name.chars().take(60).collect();
    Value::undefined(format!("{} has no '{shown}'", value.type_name()))
}
