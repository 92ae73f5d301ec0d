//! Renders the shaders of `shaders/` for one specialisation: includes, conditions, constants.
//!
//! The language is four directives on lines of their own: `#include "name"` (once a module),
//! `#if NAME`, `#if NAME == word`, `#else` and `#endif`. Numbers become WGSL constants at the top of
//! the module, so kernels stay readable WGSL.

use std::fmt::Write as _;

/// Every shader file, by name.
pub const SHADERS: &[(&str, &str)] = &[
    ("attention", include_str!("../../../shaders/attention.wgsl")),
    ("embed", include_str!("../../../shaders/embed.wgsl")),
    ("gemm", include_str!("../../../shaders/gemm.wgsl")),
    ("gemm_tile", include_str!("../../../shaders/gemm_tile.wgsl")),
    ("gemv", include_str!("../../../shaders/gemv.wgsl")),
    ("gemv_tile", include_str!("../../../shaders/gemv_tile.wgsl")),
    ("head_select", include_str!("../../../shaders/head_select.wgsl")),
    ("pass", include_str!("../../../shaders/pass.wgsl")),
    ("random", include_str!("../../../shaders/random.wgsl")),
    ("rms_norm", include_str!("../../../shaders/rms_norm.wgsl")),
    ("rotary", include_str!("../../../shaders/rotary.wgsl")),
    ("select_reduce", include_str!("../../../shaders/select_reduce.wgsl")),
    ("selection", include_str!("../../../shaders/selection.wgsl")),
    ("swiglu", include_str!("../../../shaders/swiglu.wgsl")),
    ("weights", include_str!("../../../shaders/weights.wgsl")),
];

/// Who compiles the text. They differ in the `enable` lines they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// naga, inside wgpu on native platforms.
    Naga,
    /// A browser's own compiler.
    Browser,
}

impl Dialect {
    /// The dialect of the platform this is compiled for.
    #[must_use]
    pub fn native() -> Self {
        if cfg!(target_arch = "wasm32") { Self::Browser } else { Self::Naga }
    }

    /// The lines that switch language extensions on: the only place that knows them.
    ///
    /// naga rejects `enable subgroups;` (it is always on there), browsers require it.
    #[must_use]
    pub fn enables(self, extensions: &[Extension]) -> String {
        let mut lines = String::new();
        for extension in extensions {
            lines += match (self, extension) {
                (_, Extension::F16) => "enable f16;\n",
                (Self::Naga, Extension::Subgroups) => "",
                (Self::Browser, Extension::Subgroups) => "enable subgroups;\n",
            };
        }
        lines
    }
}

/// WGSL extensions that a kernel may declare. The portable kernels declare none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extension {
    /// f16 arithmetic.
    F16,
    /// Subgroup operations.
    Subgroups,
}

/// A value of a specialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Define {
    /// `const NAME: u32 = value;`
    Number(u32),
    /// Only for `#if NAME == word`.
    Word(&'static str),
    /// Only for `#if NAME`.
    Flag,
}

/// Everything that makes one pipeline differ from another, and so the key of the pipeline cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KernelSpec {
    /// Shader file with the entry point `main`.
    pub shader: &'static str,
    /// Values by name, in a fixed order.
    pub defines: Vec<(&'static str, Define)>,
    /// Language extensions it needs.
    pub extensions: Vec<Extension>,
}

impl KernelSpec {
    /// A portable kernel.
    #[must_use]
    pub fn portable(shader: &'static str, defines: Vec<(&'static str, Define)>) -> Self {
        Self { shader, defines, extensions: Vec::new() }
    }

    /// A name for logs and debuggers, e.g. `gemm_bf16_TM4_RESIDUAL`.
    #[must_use]
    pub fn label(&self) -> String {
        let mut label = self.shader.to_owned();
        for (name, define) in &self.defines {
            let _ = match define {
                Define::Number(n) => write!(label, "_{name}{n}"),
                Define::Word(w) => write!(label, "_{w}"),
                Define::Flag => write!(label, "_{name}"),
            };
        }
        label
    }

    /// The WGSL of this specialisation.
    ///
    /// # Errors
    /// A [`RenderError`] for a directive or file that does not exist: a defect of the shader files.
    pub fn render(&self, dialect: Dialect) -> Result<String, RenderError> {
        let mut out = dialect.enables(&self.extensions);
        for (name, define) in &self.defines {
            if let Define::Number(n) = define {
                let _ = writeln!(out, "const {name}: u32 = {n}u;");
            }
        }
        let mut included = Vec::new();
        self.append(self.shader, &mut included, &mut out)?;
        Ok(out)
    }

    fn append(&self, file: &str, included: &mut Vec<String>, out: &mut String) -> Result<(), RenderError> {
        if included.iter().any(|f| f == file) {
            return Ok(());
        }
        included.push(file.to_owned());
        let error = |line: usize, problem: &str| RenderError {
            file: file.to_owned(),
            line: line + 1,
            problem: problem.to_owned(),
        };
        let source = SHADERS.iter().find(|(name, _)| *name == file).map(|(_, source)| *source);
        let source = source.ok_or_else(|| error(0, "no such shader file"))?;
        // One entry an open #if: whether its lines count.
        let mut open: Vec<bool> = Vec::new();
        for (number, line) in source.lines().enumerate() {
            let live = open.iter().all(|o| *o);
            let Some(directive) = line.trim_start().strip_prefix('#') else {
                if live {
                    out.push_str(line);
                    out.push('\n');
                }
                continue;
            };
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            match word {
                "include" if live => self.append(rest.trim().trim_matches('"'), included, out)?,
                "include" => {}
                "if" => open.push(self.holds(rest.trim())),
                "else" => {
                    let last = open.last_mut().ok_or_else(|| error(number, "#else without #if"))?;
                    *last = !*last;
                }
                "endif" => {
                    open.pop().ok_or_else(|| error(number, "#endif without #if"))?;
                }
                other => return Err(error(number, &format!("unknown directive #{other}"))),
            }
        }
        if open.is_empty() { Ok(()) } else { Err(error(source.lines().count(), "#if without #endif")) }
    }

    fn holds(&self, condition: &str) -> bool {
        let define = |name: &str| self.defines.iter().find(|(n, _)| *n == name).map(|(_, d)| d);
        match condition.split_once("==") {
            None => define(condition).is_some(),
            Some((name, wanted)) => match define(name.trim()) {
                Some(Define::Word(word)) => *word == wanted.trim(),
                Some(Define::Number(n)) => wanted.trim().parse() == Ok(*n),
                Some(Define::Flag) | None => false,
            },
        }
    }
}

/// A defect in a shader file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shaders/{file}.wgsl:{line}: {problem}")]
pub struct RenderError {
    /// Shader name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_pick_by_word_and_flag() {
        let spec = KernelSpec::portable("weights", vec![("WEIGHT", Define::Word("q8"))]);
        let text = spec.render(Dialect::Naga).unwrap();
        assert_eq!(text.matches("fn weight4").count(), 1);
        assert!(text.contains("array<u32>") && !text.contains('#'));
    }

    #[test]
    fn unknown_files_are_errors() {
        assert_eq!(
            KernelSpec::portable("nope", vec![]).render(Dialect::Naga).unwrap_err().to_string(),
            "shaders/nope.wgsl:1: no such shader file"
        );
    }

    #[test]
    fn only_browsers_enable_subgroups() {
        assert_eq!(Dialect::Naga.enables(&[Extension::Subgroups, Extension::F16]), "enable f16;\n");
        assert!(Dialect::Browser.enables(&[Extension::Subgroups]).contains("enable subgroups;"));
    }
}
