//! SPIR-V that says what WGSL cannot.
//!
//! NVIDIA's compiler unrolls every loop that it can count by eight. The loops of the kernels for matrix units
//! are long as they are: eight times as long they use so many registers that fewer workgroups fit a
//! multiprocessor, or spill, and no longer fit the instruction cache (measured on an H100: up to 30 percent of
//! a large product, and half of a small one). WGSL has no way to say so, SPIR-V has. Nor can WGSL name the
//! elements of a cooperative matrix that an invocation holds, which SPIR-V can: weights go straight into the
//! registers that multiply them, and sums are worked on where they are. So these kernels go the same way that
//! wgpu takes, WGSL through naga, and are handed over with their loops marked, with variables named
//! `x_elements` made another name of the matrix `x` of the same function, and with barriers that show what
//! a workgroup has stored to others.

use std::collections::{HashMap, HashSet};

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use spirv::{Decoration, LoopControl, MemoryAccess, MemorySemantics, Op, StorageClass};

/// Of a loop: do not unroll.
const DONT_UNROLL: u32 = LoopControl::DONT_UNROLL.bits();
/// That a buffer is only read.
const NON_WRITABLE: u32 = Decoration::NonWritable as u32;
/// Where what several invocations see lies.
const SHARED: [u32; 2] = [StorageClass::Workgroup as u32, StorageClass::StorageBuffer as u32];
/// What was written becomes available, and what others wrote visible.
const AVAILABLE_AND_VISIBLE: u32 = MemorySemantics::MAKE_AVAILABLE.union(MemorySemantics::MAKE_VISIBLE).bits();
/// That others access the same memory.
const NON_PRIVATE: u32 = MemoryAccess::NON_PRIVATE_POINTER.bits();
/// Word of the header that bounds all ids.
const BOUND: usize = 3;
/// Words before the first instruction.
const HEADER: usize = 5;
/// What the name of an array ends with that stands for a matrix's elements.
const ELEMENTS: &str = "_elements";

/// A compute shader with the entry point `main`.
pub struct Module {
    /// SPIR-V.
    pub words: Vec<u32>,
    /// Invocations of a workgroup.
    pub workgroup_size: [u32; 3],
}

/// Compiles WGSL so that no loop is unrolled and the elements of matrices are theirs. Like the other kernels it
/// has no checks of its own: indices stay within sizes that the host has checked.
///
/// # Errors
/// What naga has against the shader.
pub fn compile(source: &str) -> Result<Module, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(source))?;
    let entry = module.entry_points.first().ok_or("no entry point")?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        // What Vulkan 1.2 takes, which matrix units need for their memory model.
        lang_version: (1, 5),
        // Names tell which variables are elements of which.
        flags: spv::WriterFlags::DEBUG,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        // Kernels write every workgroup element before they read it.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        use_storage_input_output_16: false,
        ..Default::default()
    };
    let main = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.name.clone() };
    let mut words = spv::write_vec(&module, &info, &options, Some(&main)).map_err(|e| e.to_string())?;
    mark_loops(&mut words);
    order_memory(&mut words);
    join_elements(&mut words);
    Ok(Module { words, workgroup_size: entry.workgroup_size })
}

/// Where each instruction begins, and what it is.
fn instructions(words: &[u32]) -> Vec<(usize, Op)> {
    let mut found = Vec::new();
    let mut at = HEADER;
    while let Some(first) = words.get(at) {
        found.push((at, Op::from_u32(first & 0xFFFF).unwrap_or(Op::Nop)));
        at += (first >> 16).max(1) as usize;
    }
    found
}

fn mark_loops(words: &mut [u32]) {
    for (at, op) in instructions(words) {
        if op == Op::LoopMerge
            && let Some(control) = words.get_mut(at + 3)
        {
            *control |= DONT_UNROLL;
        }
    }
}

/// Has barriers order what invocations read and write of each other, which Vulkan's memory model, other than that of
/// naga's other shaders, does not take for granted: accesses say that they are not private, barriers that they make
/// what was written available and visible.
fn order_memory(words: &mut Vec<u32>) {
    let (mut shared, mut constants, mut barriers) = (HashSet::new(), HashMap::new(), HashSet::new());
    let mut only_read = HashSet::new();
    for (at, op) in instructions(words) {
        let length = (words[at] >> 16) as usize;
        let Some([_, operands @ ..]) = words.get(at..at + length) else { return };
        match (op, operands) {
            (Op::Decorate, [id, NON_WRITABLE]) => drop(only_read.insert(*id)),
            (Op::Variable, [_, id, class, ..]) if SHARED.contains(class) && !only_read.contains(id) => {
                shared.insert(*id);
            }
            (Op::AccessChain, [_, id, base, ..]) if shared.contains(base) => drop(shared.insert(*id)),
            (Op::Constant, [r#type, id, value]) => drop(constants.insert(*id, (*r#type, *value))),
            (Op::ControlBarrier, [_, _, semantics]) => drop(barriers.insert(*semantics)),
            _ => {}
        }
    }
    let mut renamed = HashMap::new();
    let old = std::mem::take(words);
    words.extend(&old[..HEADER]);
    for (at, op) in instructions(&old) {
        let instruction = &old[at..at + (old[at] >> 16) as usize];
        let from = words.len();
        words.extend(instruction);
        let pointer = match (op, instruction) {
            (Op::Load, [_, _, _, pointer]) | (Op::CooperativeMatrixLoadKHR, [_, _, _, pointer, _, _]) => pointer,
            (Op::Store, [_, pointer, _]) | (Op::CooperativeMatrixStoreKHR, [_, pointer, _, _, _]) => pointer,
            (Op::Constant, [_, _, id, _]) if barriers.contains(id) => {
                let Some((r#type, value)) = constants.get(id) else { continue };
                let new = words[BOUND];
                words[BOUND] += 1;
                renamed.insert(*id, new);
                words.extend([instruction[0], *r#type, new, *value | AVAILABLE_AND_VISIBLE]);
                continue;
            }
            (Op::ControlBarrier, [_, _, _, semantics]) => {
                words[from + 3] = renamed.get(semantics).copied().unwrap_or(*semantics);
                continue;
            }
            _ => continue,
        };
        if shared.contains(pointer) {
            words[from] += 1 << 16;
            words.push(NON_PRIVATE);
        }
    }
}

/// Has what points into `x_elements` point into the matrix `x`.
fn join_elements(words: &mut [u32]) {
    let mut names: HashMap<u32, String> = HashMap::new();
    // Of the function at hand: variables by name, and for elements the matrix that they are of.
    let mut variables: HashMap<String, u32> = HashMap::new();
    let mut matrix_of: HashMap<u32, String> = HashMap::new();
    for (at, op) in instructions(words) {
        let length = (words[at] >> 16) as usize;
        let Some([_, operands @ ..]) = words.get_mut(at..at + length) else { return };
        match (op, operands) {
            (Op::Name, [id, text @ ..]) => {
                let bytes: Vec<u8> = text.iter().flat_map(|w| w.to_le_bytes()).take_while(|b| *b != 0).collect();
                names.insert(*id, String::from_utf8_lossy(&bytes).into_owned());
            }
            (Op::Function, _) => {
                variables.clear();
                matrix_of.clear();
            }
            (Op::Variable, [_, id, ..]) => {
                let Some(name) = names.get(id) else { continue };
                if let Some(matrix) = name.strip_suffix(ELEMENTS) {
                    matrix_of.insert(*id, matrix.to_owned());
                }
                variables.insert(name.clone(), *id);
            }
            (Op::AccessChain, [_, _, base, ..]) => {
                if let Some(matrix) = matrix_of.get(base).and_then(|name| variables.get(name)) {
                    *base = *matrix;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_is_marked() {
        let source = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @compute @workgroup_size(32, 2)
            fn main(@builtin(local_invocation_index) lane: u32) {
                for (var i = 0u; i < 64u; i++) {
                    for (var j = 0u; j < out[0]; j += 2u) { out[lane] += i * j; }
                }
            }";
        let module = compile(source).unwrap();
        assert_eq!(module.workgroup_size, [32, 2, 1]);
        assert_eq!(module.words[0], spirv::MAGIC_NUMBER);
        let found = instructions(&module.words);
        let (last, _) = found[found.len() - 1];
        let length = (module.words[last] >> 16) as usize;
        assert_eq!(last + length, module.words.len(), "instructions end where the module does");
        let loops = found.iter().filter(|(_, op)| *op == Op::LoopMerge);
        let controls: Vec<_> = loops.map(|(at, _)| module.words[at + 3]).collect();
        assert_eq!(controls, [DONT_UNROLL; 2]);
        assert!(compile("fn main() { nothing }").is_err_and(|e| e.contains("nothing")));
    }

    #[test]
    fn memory_is_ordered() {
        let source = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @group(0) @binding(1) var<storage, read> only_read: array<u32>;
            var<workgroup> held: array<u32, 32>;
            @compute @workgroup_size(32)
            fn main(@builtin(local_invocation_index) lane: u32) {
                var own = only_read[lane];
                held[lane] = own + 72u;
                workgroupBarrier();
                out[lane] = held[31u - lane];
                storageBarrier();
                own = out[32u - lane];
                out[lane + 32u] = own;
            }";
        let words = compile(source).unwrap().words;
        let found = instructions(&words);
        let of = |wanted: Op| found.iter().filter(move |(_, op)| *op == wanted).map(|(at, _)| *at);
        let constant = |id: u32| of(Op::Constant).find(|at| words[at + 2] == id).map(|at| words[at + 3]);
        let semantics: Vec<_> = of(Op::ControlBarrier).map(|at| constant(words[at + 3]).unwrap()).collect();
        assert_eq!(semantics, [0x6108, 0x6048]);
        let ids: HashSet<_> = of(Op::Constant).map(|at| words[at + 2]).collect();
        assert!(ids.len() == of(Op::Constant).count() && ids.iter().all(|id| *id < words[BOUND]));
        // What is the invocation's own, only read or an argument stays as it was.
        let marked = |op, length: u32| of(op).filter(|at| words[*at] >> 16 == length + 1).collect::<Vec<_>>();
        let (loads, stores) = (marked(Op::Load, 4), marked(Op::Store, 3));
        assert_eq!((loads.len(), stores.len()), (2, 3));
        assert!(loads.iter().all(|at| words[at + 4] == NON_PRIVATE) && of(Op::Load).count() > 4);
        assert!(stores.iter().all(|at| words[at + 3] == NON_PRIVATE));
    }

    #[test]
    fn elements_are_those_of_their_matrix() {
        let source = "enable f16;
            enable wgpu_cooperative_matrix;
            @group(0) @binding(0) var<storage, read_write> out: array<f16>;
            fn twice(held: coop_mat16x16<f16, A>) -> coop_mat16x16<f16, A> {
                var x: coop_mat16x16<f16, A> = held;
                var x_elements: array<f16, 8>;
                var y: coop_mat16x16<f16, A>;
                var y_elements: array<f16, 8>;
                var other: array<f16, 8>;
                other[2] = x_elements[1];
                y_elements[1] = x_elements[1] + other[2];
                return y;
            }
            @compute @workgroup_size(32)
            fn main() {
                var x_elements: array<f16, 8>;
                x_elements[3] = 1.0h;
                let i = 0u;
                let a = coopLoadT<coop_mat16x16<f16, A>>(&out[i], 16u);
                let b = twice(a);
                out[i] = x_elements[3];
                coopStoreT(b, &out[i], 16u);
            }";
        let module = compile(source).unwrap();
        let words = &module.words;
        let all = instructions(words);
        let ids = |wanted: &str| {
            let named = all.iter().filter(|(at, op)| {
                let text: Vec<u8> =
                    words[at + 1..].iter().skip(1).flat_map(|w| w.to_le_bytes()).take_while(|b| *b != 0).collect();
                *op == Op::Name && text == wanted.as_bytes()
            });
            named.map(|(at, _)| words[at + 1]).collect::<Vec<_>>()
        };
        let pointed = |id: &u32| all.iter().filter(|(at, op)| *op == Op::AccessChain && words[at + 3] == *id).count();
        let count = |name: &str| ids(name).iter().map(pointed).collect::<Vec<_>>();
        assert_eq!(count("x"), [2]);
        assert_eq!(count("y"), [1]);
        assert_eq!(count("other"), [2]);
        assert_eq!(count("y_elements"), [0]);
        // Where a function has no such matrix, an array is an array.
        let mut arrays = count("x_elements");
        arrays.sort_unstable();
        assert_eq!(arrays, [0, 2]);
    }
}
