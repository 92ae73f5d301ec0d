//! Renders the shaders of `shaders/` for one specialisation: includes, conditions, constants.
//!
//! The language is a few directives on lines of their own: `#include "name"` (once a module),
//! `#if NAME`, `#if NAME == word`, `#else` and `#endif`, and `#for i in 0..N` to `#endfor`, which repeats
//! its lines with `$i` replaced: matrices of the matrix units must be variables of their own, since no
//! driver can be trusted to unroll an array of them. `@binding(next)` counts up from 0, where which bindings
//! there are depends on conditions. Numbers become WGSL constants at the top of the module, so kernels stay
//! readable WGSL.

use std::fmt::Write as _;

/// Every shader file, by name. No browser has matrix units.
pub const SHADERS: &[(&str, &str)] = &[
    ("activation", include_str!("../../../shaders/activation.wgsl")),
    ("activations", include_str!("../../../shaders/activations.wgsl")),
    ("attention", include_str!("../../../shaders/attention.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("attention_matrix", include_str!("../../../shaders/attention_matrix.wgsl")),
    ("attention_params", include_str!("../../../shaders/attention_params.wgsl")),
    ("attention_row", include_str!("../../../shaders/attention_row.wgsl")),
    ("attention_sums", include_str!("../../../shaders/attention_sums.wgsl")),
    ("embed", include_str!("../../../shaders/embed.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("fragment_probe", include_str!("../../../shaders/fragment_probe.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("fragments", include_str!("../../../shaders/fragments.wgsl")),
    ("gemm", include_str!("../../../shaders/gemm.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("gemm_matrix", include_str!("../../../shaders/gemm_matrix.wgsl")),
    ("gemm_tile", include_str!("../../../shaders/gemm_tile.wgsl")),
    ("gemv", include_str!("../../../shaders/gemv.wgsl")),
    ("gemv_tile", include_str!("../../../shaders/gemv_tile.wgsl")),
    ("halves", include_str!("../../../shaders/halves.wgsl")),
    ("head_select", include_str!("../../../shaders/head_select.wgsl")),
    ("linear_ends", include_str!("../../../shaders/linear_ends.wgsl")),
    ("linear_order", include_str!("../../../shaders/linear_order.wgsl")),
    ("linear_params", include_str!("../../../shaders/linear_params.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("matrix_ends", include_str!("../../../shaders/matrix_ends.wgsl")),
    ("norm", include_str!("../../../shaders/norm.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("packed_halves", include_str!("../../../shaders/packed_halves.wgsl")),
    ("pass", include_str!("../../../shaders/pass.wgsl")),
    ("products", include_str!("../../../shaders/products.wgsl")),
    ("random", include_str!("../../../shaders/random.wgsl")),
    #[cfg(not(target_arch = "wasm32"))]
    ("reorder", include_str!("../../../shaders/reorder.wgsl")),
    ("rotary", include_str!("../../../shaders/rotary.wgsl")),
    ("saturated", include_str!("../../../shaders/saturated.wgsl")),
    ("select_reduce", include_str!("../../../shaders/select_reduce.wgsl")),
    ("select_strips", include_str!("../../../shaders/select_strips.wgsl")),
    ("selection", include_str!("../../../shaders/selection.wgsl")),
    ("weights", include_str!("../../../shaders/weights.wgsl")),
];

/// A binding that is numbered as it comes.
const NEXT_BINDING: &str = "@binding(next)";

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
                (_, Extension::Matrix) => "enable wgpu_cooperative_matrix;\n",
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
    /// Matrix units, as naga knows them; no browser has them.
    Matrix,
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
        let mut parts = out.split(NEXT_BINDING);
        let first = parts.next().unwrap_or_default().to_owned();
        Ok(parts.enumerate().fold(first, |text, (i, part)| text + &format!("@binding({i})") + part))
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
        let lines: Vec<_> = source.lines().collect();
        let mut at = 0;
        self.block(
            &lines,
            &mut at,
            true,
            &mut Vec::new(),
            &mut |live, name, out| {
                if live { self.append(name, included, out) } else { Ok(()) }
            },
            out,
        )
        .map_err(|e| match e {
            BlockError::Here(line, problem) => error(line, problem),
            BlockError::Included(e) => e,
        })?;
        if at == lines.len() { Ok(()) } else { Err(error(at, "no #if or #for is open here")) }
    }

    /// Renders lines from `at` up to the directive that ends their block, which is left to the caller.
    /// `counters` are the values of the `#for` names in scope.
    fn block(
        &self,
        lines: &[&str],
        at: &mut usize,
        live: bool,
        counters: &mut Vec<(String, u32)>,
        include: &mut Include<'_>,
        out: &mut String,
    ) -> Result<(), BlockError> {
        while let Some(line) = lines.get(*at) {
            let number = *at;
            let Some(directive) = line.trim_start().strip_prefix('#') else {
                if live {
                    // Names of one scope never begin alike, so the order of replacement does not matter.
                    let text = counters.iter().fold((*line).to_owned(), |text, (name, value)| {
                        if text.contains('$') { text.replace(&format!("${name}"), &value.to_string()) } else { text }
                    });
                    out.push_str(&text);
                    out.push('\n');
                }
                *at += 1;
                continue;
            };
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            let rest = rest.trim();
            let missing = |what| BlockError::Here(number, what);
            match word {
                "include" => {
                    include(live, rest.trim_matches('"'), out).map_err(BlockError::Included)?;
                    *at += 1;
                }
                "if" => {
                    let holds = self.holds(rest);
                    *at += 1;
                    self.block(lines, at, live && holds, counters, include, out)?;
                    if lines.get(*at).is_some_and(|l| l.trim() == "#else") {
                        *at += 1;
                        self.block(lines, at, live && !holds, counters, include, out)?;
                    }
                    if lines.get(*at).is_none_or(|l| l.trim() != "#endif") {
                        return Err(missing("#if without #endif"));
                    }
                    *at += 1;
                }
                "for" => {
                    let range = rest.split_once(" in ").and_then(|(name, range)| Some((name, range.split_once("..")?)));
                    let (name, (first, end)) = range.ok_or_else(|| missing("#for must be `#for name in 0..end`"))?;
                    let bound = |text| self.number(text).ok_or_else(|| missing("a bound of #for is no number"));
                    let (first, end) = (bound(first)?, bound(end)?);
                    let begin = number + 1;
                    // Once at least, unseen, to find where it ends.
                    for i in first..end.max(first + 1) {
                        *at = begin;
                        counters.push((name.to_owned(), i));
                        let done = self.block(lines, at, live && first < end, counters, include, out);
                        counters.pop();
                        done?;
                        if !live {
                            break;
                        }
                    }
                    if lines.get(*at).is_none_or(|l| l.trim() != "#endfor") {
                        return Err(missing("#for without #endfor"));
                    }
                    *at += 1;
                }
                "else" | "endif" | "endfor" => return Ok(()),
                _ => return Err(missing("unknown directive")),
            }
        }
        Ok(())
    }

    /// A literal, or the value of a number of this specialisation.
    fn number(&self, text: &str) -> Option<u32> {
        let define = || self.defines.iter().find(|(name, _)| *name == text);
        text.parse().ok().or_else(|| match define()?.1 {
            Define::Number(n) => Some(n),
            Define::Word(_) | Define::Flag => None,
        })
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

/// Appends another file, where it is live.
type Include<'a> = dyn FnMut(bool, &str, &mut String) -> Result<(), RenderError> + 'a;

/// A defect in the lines of a file, or in one that they include.
enum BlockError {
    Here(usize, &'static str),
    Included(RenderError),
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
    fn repeated_lines_count() {
        let spec = KernelSpec::portable("test", vec![("N", Define::Number(2)), ("NONE", Define::Number(0))]);
        let text = "#for i in 0..N\n#for j in 0..2\nacc_$i_$j\n#endfor\n#if N == 3\nno\n#endif\n#endfor\n#for k in 0..NONE\nno\n#endfor\n#for k in 1..N\nlast_$k\n#endfor\nend";
        let lines: Vec<_> = text.lines().collect();
        let (mut at, mut out) = (0, String::new());
        let done = spec.block(&lines, &mut at, true, &mut Vec::new(), &mut |_, _, _| Ok(()), &mut out);
        assert!(done.is_ok() && at == lines.len());
        assert_eq!(out, "acc_0_0\nacc_0_1\nacc_1_0\nacc_1_1\nlast_1\nend\n");
        for broken in [
            "#if N\nx",
            "#for i in 0..N\nx",
            "#for i in N\n#endfor",
            "#for i in 0..what\n#endfor",
            "#for i in x..2\n#endfor",
            "#what",
        ] {
            let lines: Vec<_> = broken.lines().collect();
            let done = spec.block(&lines, &mut 0, true, &mut Vec::new(), &mut |_, _, _| Ok(()), &mut String::new());
            assert!(done.is_err(), "{broken}");
        }
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
