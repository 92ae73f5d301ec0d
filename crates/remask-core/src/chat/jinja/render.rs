//! Runs the statements of a template.

use std::sync::Arc;

use super::arguments::Args;
use super::ast::{Expr, ExprKind, For, Macro, PostKind, Stmt, StmtKind, Target};
use super::display;
use super::fault::{Fault, Outcome, fail};
use super::meter::Meter;
use super::operators;
use super::value::{MacroValue, Sequence, Value};
use crate::chat::marked::MarkedText;

/// Statements, expressions and calls may run this deep in each other: each level takes stack.
const MAX_DEPTH: usize = 128;

/// A running template.
///
/// Names, namespaces and loops lie here under numbers, so that no value can hold itself.
pub(super) struct Renderer<'m> {
    pub meter: &'m Meter,
    /// The time, for `strftime_now`.
    pub now: &'m dyn Fn() -> jiff::civil::DateTime,
    pub out: MarkedText,
    scopes: Vec<Scope>,
    /// The scope that names are looked up from.
    scope: usize,
    pub namespaces: Vec<Vec<(Arc<str>, Value)>>,
    pub loops: Vec<Loop>,
    /// How many loops were begun.
    begun: u64,
    pub turns: Vec<Turn>,
    depth: usize,
}

/// Names and what they stand for.
struct Scope {
    names: Vec<(Arc<str>, Value)>,
    /// The scope around it.
    parent: Option<usize>,
    /// Whether a macro sees it, which may be called when the scope was left.
    kept: bool,
}

/// A running loop.
pub(super) struct Loop {
    pub serial: u64,
    pub items: Vec<Value>,
    pub at: usize,
    /// How many recursive loops it lies in.
    pub level: usize,
    /// The statement and its scope, where it may be called again.
    pub again: Option<(Arc<For>, usize)>,
    /// What `changed` was called with last.
    pub changed: Option<Vec<Value>>,
}

/// The state of a `cycler` or a `joiner`.
pub(super) struct Turn {
    pub items: Vec<Value>,
    pub at: usize,
    pub joins: bool,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'m> Renderer<'m> {
    pub(super) fn new(
        names: Vec<(Arc<str>, Value)>,
        now: &'m dyn Fn() -> jiff::civil::DateTime,
        meter: &'m Meter,
    ) -> Self {
        Self {
            meter,
            now,
            out: MarkedText::default(),
            scopes: vec![Scope { names, parent: None, kept: true }],
            scope: 0,
            namespaces: Vec::new(),
            loops: Vec::new(),
            begun: 0,
            turns: Vec::new(),
            depth: 0,
        }
    }

    /// Runs statements to their end.
    pub(super) fn run(&mut self, body: &[Stmt]) -> Outcome<()> {
        self.body(body).map(|_| ())
    }

    /// Runs something one level deeper.
    pub(super) fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        if self.depth >= MAX_DEPTH {
            return fail("recurses too deep; does a macro call itself without an end?");
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// The value of a name.
    pub(super) fn lookup(&self, name: &str) -> Value {
        let mut scope = Some(self.scope);
        while let Some(found) = scope.and_then(|at| self.scopes.get(at)) {
            if let Some((_, value)) = found.names.iter().find(|(known, _)| &**known == name) {
                return value.clone();
            }
            scope = found.parent;
        }
        super::functions::global(name)
            .map_or_else(|| Value::undefined(format!("'{name}' is undefined")), Value::Function)
    }

    fn define(&mut self, name: &Arc<str>, value: Value) -> Outcome<()> {
        self.meter.bytes(size_of::<(Arc<str>, Value)>())?;
        let Some(scope) = self.scopes.get_mut(self.scope) else { return Ok(()) };
        match scope.names.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => scope.names.push((name.clone(), value)),
        }
        Ok(())
    }

    /// Runs something with names of its own on top of those of `parent`.
    fn scoped<T>(&mut self, parent: usize, run: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        self.meter.bytes(size_of::<Scope>())?;
        let at = self.scopes.len();
        let outer = std::mem::replace(&mut self.scope, at);
        self.scopes.push(Scope { names: Vec::new(), parent: Some(parent), kept: false });
        let result = self.deeper(run);
        self.scope = outer;
        if self.scopes.len() == at + 1 && self.scopes.last().is_some_and(|scope| !scope.kept) {
            self.scopes.pop();
        }
        result
    }

    /// The scope that names are looked up from, kept for a macro.
    fn kept_scope(&mut self) -> usize {
        if let Some(scope) = self.scopes.get_mut(self.scope) {
            scope.kept = true;
        }
        self.scope
    }

    /// What `run` writes, in a scope of its own.
    fn captured(&mut self, parent: usize, run: impl FnOnce(&mut Self) -> Outcome<Flow>) -> Outcome<(MarkedText, Flow)> {
        let outer = std::mem::take(&mut self.out);
        let flow = self.scoped(parent, run);
        let text = std::mem::replace(&mut self.out, outer);
        Ok((text, flow?))
    }

    fn body(&mut self, body: &[Stmt]) -> Outcome<Flow> {
        for stmt in body {
            let flow = self.statement(stmt).map_err(|fault| fault.in_line(stmt.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, text: &MarkedText) -> Outcome<()> {
        self.meter.grow(self.out.text.len(), text.weight())?;
        self.out.append(text);
        Ok(())
    }

    fn statement(&mut self, stmt: &Stmt) -> Outcome<Flow> {
        self.meter.steps(1)?;
        match &stmt.kind {
            StmtKind::Data(text) => self.write(text)?,
            StmtKind::Print(printed) => {
                for expr in printed {
                    match self.value(expr)? {
                        Value::Text(text) => self.write(&text)?,
                        value => {
                            let text = display::text(&value, self.meter)?;
                            self.write(&text)?;
                        }
                    }
                }
            }
            StmtKind::If(branches, otherwise) => return self.condition(branches, otherwise),
            StmtKind::For(of) => self.for_statement(of)?,
            StmtKind::Set(target, expr) => {
                let value = self.value(expr)?;
                self.assign(target, value)?;
            }
            StmtKind::With(bindings, body) => return self.with(bindings, body),
            StmtKind::Scope(body) => {
                let scope = self.scope;
                return self.scoped(scope, |renderer| renderer.body(body));
            }
            StmtKind::Capture(..) | StmtKind::Filter(..) => return self.capture(&stmt.kind),
            StmtKind::Macro(of) => {
                let value = Value::Macro(MacroValue { of: of.clone(), scope: self.kept_scope() });
                self.define(&of.name, value)?;
            }
            StmtKind::Call(call, of) => self.call_block(call, of)?,
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn condition(&mut self, branches: &[(Expr, Vec<Stmt>)], otherwise: &[Stmt]) -> Outcome<Flow> {
        for (test, body) in branches {
            if self.value(test)?.is_true() {
                return self.deeper(|renderer| renderer.body(body));
            }
        }
        self.deeper(|renderer| renderer.body(otherwise))
    }

    fn with(&mut self, bindings: &[(Target, Expr)], body: &[Stmt]) -> Outcome<Flow> {
        // The values are those outside of the block.
        let values = bindings.iter().map(|(_, expr)| self.value(expr)).collect::<Outcome<Vec<_>>>()?;
        let scope = self.scope;
        self.scoped(scope, |renderer| {
            for ((target, _), value) in bindings.iter().zip(values) {
                renderer.assign(target, value)?;
            }
            renderer.body(body)
        })
    }

    fn capture(&mut self, kind: &StmtKind) -> Outcome<Flow> {
        let (StmtKind::Capture(_, filters, body) | StmtKind::Filter(filters, body)) = kind else {
            return Ok(Flow::Next);
        };
        let (text, flow) = self.captured(self.scope, |renderer| renderer.body(body))?;
        let value = self.followed(Value::text(text), filters)?;
        if let StmtKind::Capture(target, ..) = kind {
            self.assign(target, value)?;
        } else {
            let text = display::text(&value, self.meter)?;
            self.write(&text)?;
        }
        Ok(flow)
    }

    fn assign(&mut self, target: &Target, value: Value) -> Outcome<()> {
        match target {
            Target::Name(name) => self.define(name, value),
            Target::Attribute(name, attribute) => match self.lookup(name) {
                Value::Namespace(at) => self.set_in_namespace(at, attribute, value),
                other => fail(format!("cannot set an attribute of {}; only of a namespace", other.type_name())),
            },
            Target::Tuple(targets) => {
                let items = operators::iterate(&value, self.meter)?;
                if items.len() != targets.len() {
                    return fail(format!("{} values cannot be put into {} names", items.len(), targets.len()));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn set_in_namespace(&mut self, at: usize, name: &Arc<str>, value: Value) -> Outcome<()> {
        self.meter.bytes(size_of::<(Arc<str>, Value)>())?;
        let Some(names) = self.namespaces.get_mut(at) else { return Ok(()) };
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
        Ok(())
    }

    fn for_statement(&mut self, of: &Arc<For>) -> Outcome<()> {
        let items = self.value(&of.items)?;
        self.for_loop(of, &items, self.scope, 0)
    }

    /// Runs a loop over `items`, its names on top of those of `parent`.
    pub(super) fn for_loop(&mut self, of: &Arc<For>, items: &Value, parent: usize, level: usize) -> Outcome<()> {
        let mut items = operators::iterate(items, self.meter)?;
        if let Some(condition) = &of.condition {
            let mut kept = Vec::new();
            for item in items {
                self.meter.steps(1)?;
                let fits = self.scoped(parent, |renderer| {
                    renderer.assign(&of.target, item.clone())?;
                    renderer.value(condition)
                })?;
                if fits.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.scoped(parent, |renderer| renderer.body(&of.otherwise)).map(|_| ());
        }
        self.begun += 1;
        let serial = self.begun;
        let again = of.recursive.then(|| (of.clone(), parent));
        self.loops.push(Loop { serial, items, at: 0, level, again, changed: None });
        let result = self.turns_of(of, serial, parent);
        self.loops.retain(|running| running.serial != serial);
        result
    }

    fn turns_of(&mut self, of: &For, serial: u64, parent: usize) -> Outcome<()> {
        let name: Arc<str> = "loop".into();
        for at in 0.. {
            let Some(running) = self.loops.iter_mut().rfind(|running| running.serial == serial) else { break };
            running.at = at;
            let Some(item) = running.items.get(at).cloned() else { break };
            self.meter.steps(1)?;
            let flow = self.scoped(parent, |renderer| {
                renderer.define(&name, Value::Loop(serial))?;
                renderer.assign(&of.target, item)?;
                renderer.body(&of.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn call_block(&mut self, call: &Expr, of: &Arc<Macro>) -> Outcome<()> {
        let ExprKind::Postfix(operand, posts) = &call.kind else { return fail("call needs a call") };
        let Some((last, before)) = posts.split_last() else { return fail("call needs a call") };
        let PostKind::Call(arguments) = &last.kind else { return fail("call needs a call") };
        let operand = self.value(operand)?;
        let callee = self.followed(operand, before)?;
        let mut args = self.arguments(arguments)?;
        let caller = Value::Macro(MacroValue { of: of.clone(), scope: self.kept_scope() });
        args.named.push(("caller".into(), caller));
        let value = self.call(&callee, args)?;
        let text = display::text(&value, self.meter)?;
        self.write(&text)
    }

    /// What a macro writes.
    pub(super) fn call_macro(&mut self, of: &Macro, scope: usize, args: Args) -> Outcome<Value> {
        let (text, _) = self.captured(scope, |renderer| {
            renderer.bind(of, args)?;
            renderer.body(&of.body)
        })?;
        Ok(Value::text(text))
    }

    /// Gives a macro's parameters their values.
    fn bind(&mut self, of: &Macro, mut args: Args) -> Outcome<()> {
        let [takes_varargs, takes_kwargs] = of.takes_more;
        let more = args.positional.split_off(args.positional.len().min(of.parameters.len()));
        if takes_varargs {
            let varargs = Value::sequence(more, Sequence::Tuple, self.meter)?;
            self.define(&"varargs".into(), varargs)?;
        } else if !more.is_empty() {
            let takes = of.parameters.len();
            return fail(format!("macro '{}' takes {takes} arguments, not {}", of.name, takes + more.len()));
        }
        let mut positional = args.positional.into_iter();
        for (name, default) in &of.parameters {
            let named = args.named.iter().position(|(known, _)| known == name).map(|at| args.named.remove(at).1);
            let value = match (positional.next(), named, default) {
                (Some(_), Some(_), _) => return fail(format!("macro '{}' is given '{name}' twice", of.name)),
                (Some(value), None, _) | (None, Some(value), _) => value,
                (None, None, Some(default)) => self.value(default)?,
                (None, None, None) => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            self.define(name, value)?;
        }
        if let Some(at) = args.named.iter().position(|(name, _)| &**name == "caller") {
            let (name, caller) = args.named.remove(at);
            self.define(&name, caller)?;
        }
        if takes_kwargs {
            let entries = args.named.into_iter().map(|(name, value)| (Value::plain(&name), value)).collect();
            let kwargs = Value::dict(entries, false, self.meter)?;
            return self.define(&"kwargs".into(), kwargs);
        }
        match args.named.first() {
            Some((name, _)) => fail(format!("macro '{}' has no parameter '{name}'", of.name)),
            None => Ok(()),
        }
    }
}

/// A template's text.
pub(super) fn render(
    body: &[Stmt],
    names: Vec<(Arc<str>, Value)>,
    now: &dyn Fn() -> jiff::civil::DateTime,
    meter: &Meter,
) -> Result<MarkedText, Fault> {
    let mut renderer = Renderer::new(names, now, meter);
    renderer.run(body)?;
    Ok(renderer.out)
}
