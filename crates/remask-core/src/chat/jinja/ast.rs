//! A parsed template. Chains of operators are flat, so that only nesting makes it deep.

use std::sync::Arc;

use crate::chat::marked::MarkedText;

/// A statement and the line that it starts in.
#[derive(Debug)]
pub(super) struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

#[derive(Debug)]
pub(super) enum StmtKind {
    /// Text between tags.
    Data(Arc<MarkedText>),
    /// `{{ a }}` or `{% print a, b %}`.
    Print(Vec<Expr>),
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    For(Arc<For>),
    Set(Target, Expr),
    /// `{% set a | filter %}…{% endset %}`, with the filters after the name.
    Capture(Target, Vec<Post>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Filter(Vec<Post>, Vec<Stmt>),
    Macro(Arc<Macro>),
    /// `{% call macro() %}…{% endcall %}`: the call and what the macro sees as `caller`.
    Call(Expr, Arc<Macro>),
    /// What has names of its own and does nothing else: `{% generation %}`, `{% block %}`.
    Scope(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: Arc<str>,
    /// Parameters, each with its default.
    pub parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub body: Vec<Stmt>,
    /// Whether the body speaks of `varargs` and `kwargs`: it then takes arguments beyond its parameters.
    pub takes_more: [bool; 2],
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// `namespace.attribute`
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

/// An expression and the line that it starts in.
#[derive(Debug)]
pub(super) struct Expr {
    pub line: u32,
    pub kind: ExprKind,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<MarkedText>),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// `then if test else otherwise`
    Condition(Box<[Expr; 2]>, Option<Box<Expr>>),
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Not(Box<Expr>),
    /// `-a` and `+a`
    Sign(Box<Expr>, bool),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Operators of one precedence, from left to right.
    Arithmetic(Box<Expr>, Vec<(Operator, Expr)>),
    /// `a ~ b`
    Join(Vec<Expr>),
    /// An operand and what follows it.
    Postfix(Box<Expr>, Vec<Post>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

/// What follows an operand, and its line.
#[derive(Debug)]
pub(super) struct Post {
    pub line: u32,
    pub kind: PostKind,
}

#[derive(Debug)]
pub(super) enum PostKind {
    Attribute(Arc<str>),
    Item(Expr),
    Slice([Option<Expr>; 3]),
    Call(Arguments),
    Filter(String, Arguments),
    /// `is name(arguments)`
    Test(String, Arguments),
}

/// Arguments as they are written.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*items`
    pub items: Option<Box<Expr>>,
    /// `**entries`
    pub entries: Option<Box<Expr>>,
}
