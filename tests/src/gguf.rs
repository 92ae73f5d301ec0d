//! Writes GGUF files, from the format's specification and by the rules of llama.cpp's converter for
//! LLaDAModelLM: to read them with an independent reader is the test.

use half::{bf16, f16};
use remask_core::checkpoint::Matrix;
use remask_core::tensors::{BlockRole, Role, TensorKind};
use remask_core::{Architecture, Model};

/// How the matrices of a file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Type 0.
    F32,
    /// Type 1.
    F16,
    /// Type 30.
    Bf16,
    /// Type 8: 32 int8 and an f16 scale.
    Q8_0,
    /// Type 2: 32 int4 and an f16 scale.
    Q4_0,
    /// Type 3: 32 int4, an f16 scale and an f16 minimum.
    Q4_1,
    /// Type 6: 32 times 5 bits and an f16 scale.
    Q5_0,
    /// Type 7: 32 times 5 bits, an f16 scale and an f16 minimum.
    Q5_1,
    /// Type 12: 256 int4, with scales and minima of 6 bits for 32 of them.
    Q4K,
    /// Type 13: the same with 5 bits.
    Q5K,
    /// Type 14: 256 times 6 bits, with int8 scales for 16 of them.
    Q6K,
}

impl Stored {
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    fn encode(self, weights: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
            Self::F16 => weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect(),
            Self::Bf16 => weights.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect(),
            Self::Q8_0 => weights.chunks(32).flat_map(q8_0).collect(),
            Self::Q4_0 => weights.chunks(32).flat_map(q4_0).collect(),
            Self::Q4_1 => weights.chunks(32).flat_map(|block| with_minimum(block, 4)).collect(),
            Self::Q5_0 => weights.chunks(32).flat_map(q5_0).collect(),
            Self::Q5_1 => weights.chunks(32).flat_map(|block| with_minimum(block, 5)).collect(),
            Self::Q4K => weights.chunks(256).flat_map(|block| with_minima(block, 4)).collect(),
            Self::Q5K => weights.chunks(256).flat_map(|block| with_minima(block, 5)).collect(),
            Self::Q6K => weights.chunks(256).flat_map(q6_k).collect(),
        }
    }
}

fn with_scale(scale: f16, rest: impl IntoIterator<Item = u8>) -> Vec<u8> {
    scale.to_le_bytes().into_iter().chain(rest).collect()
}

fn q8_0(block: &[f32]) -> Vec<u8> {
    let peak = block.iter().fold(0f32, |m, w| m.max(w.abs()));
    let scale = f16::from_f32(peak / 127.0);
    let quant = |w: &f32| if peak == 0.0 { 0 } else { (w / scale.to_f32()).round().clamp(-127.0, 127.0) as i8 as u8 };
    with_scale(scale, block.iter().map(quant))
}

/// Byte j holds weight j in its low half and weight j + 16 in its high one.
fn nibbles(quants: &[u8]) -> Vec<u8> {
    (0..16).map(|j| quants[j] | quants[j + 16] << 4).collect()
}

fn q4_0(block: &[f32]) -> Vec<u8> {
    let peak = block.iter().copied().reduce(|m, w| if w.abs() > m.abs() { w } else { m }).unwrap_or(0.0);
    let scale = f16::from_f32(peak / -8.0);
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let quant = |w: &f32| (w * inverse + 8.0).round_ties_even().clamp(0.0, 15.0) as u8;
    with_scale(scale, nibbles(&block.iter().map(quant).collect::<Vec<_>>()))
}

/// Low and high bits of 32 numbers of 4 or 5 bits.
fn bits(quants: &[u8], bits: u32) -> Vec<u8> {
    let high: u32 = quants.iter().enumerate().map(|(i, q)| u32::from(q >> 4 & 1) << i).sum();
    let high = if bits == 5 { high.to_le_bytes().to_vec() } else { Vec::new() };
    let low: Vec<_> = quants.iter().map(|q| q & 15).collect();
    [high, nibbles(&low)].concat()
}

fn q5_0(block: &[f32]) -> Vec<u8> {
    let peak = block.iter().fold(0f32, |m, w| m.max(w.abs()));
    let scale = f16::from_f32(peak / 15.0);
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let quants: Vec<_> = block.iter().map(|w| (w * inverse + 16.0).round().clamp(0.0, 31.0) as u8).collect();
    with_scale(scale, bits(&quants, 5))
}

/// Q4_1 and Q5_1.
fn with_minimum(block: &[f32], of: u32) -> Vec<u8> {
    let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(l, h), w| (l.min(*w), h.max(*w)));
    let most = ((1 << of) - 1) as f32;
    let (scale, minimum) = (f16::from_f32((high - low) / most), f16::from_f32(low));
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let quant = |w: &f32| ((w - minimum.to_f32()) * inverse).round().clamp(0.0, most) as u8;
    let quants: Vec<_> = block.iter().map(quant).collect();
    with_scale(scale, minimum.to_le_bytes().into_iter().chain(bits(&quants, of)))
}

/// Q4_K and Q5_K: not the best that these formats can do, but what they are.
fn with_minima(block: &[f32], of: u32) -> Vec<u8> {
    let most = ((1 << of) - 1) as f32;
    let range = |group: &[f32]| group.iter().fold((0f32, 0f32), |(l, h), w| (l.min(*w), h.max(*w)));
    let wanted: Vec<_> = block.chunks(32).map(range).map(|(low, high)| [(high - low) / most, -low]).collect();
    let largest = |i: usize| f16::from_f32(wanted.iter().fold(0f32, |m, w| m.max(w[i])) / 63.0);
    let (d, m) = (largest(0), largest(1));
    let small = |number: f32, of: f16| if of == f16::ZERO { 0 } else { (number / of.to_f32()).round().min(63.0) as u8 };
    let scales: Vec<_> = wanted.iter().map(|w| [small(w[0], d), small(w[1], m)]).collect();
    let quants = block.chunks(32).zip(&scales).flat_map(|(group, [s, t])| {
        let (scale, minimum) = (d.to_f32() * f32::from(*s), m.to_f32() * f32::from(*t));
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        group.iter().map(move |w| ((w + minimum) * inverse).round().clamp(0.0, most) as u8).collect::<Vec<_>>()
    });
    let quants: Vec<_> = quants.collect();
    let mut packed = [0u8; 12];
    for (j, [s, t]) in scales.iter().enumerate() {
        if j < 4 {
            (packed[j], packed[j + 4]) = (packed[j] | s, packed[j + 4] | t);
        } else {
            packed[j + 4] = s & 15 | (t & 15) << 4;
            (packed[j - 4], packed[j]) = (packed[j - 4] | s >> 4 << 6, packed[j] | t >> 4 << 6);
        }
    }
    let mut high = [0u8; 32];
    for (i, q) in quants.iter().enumerate() {
        high[i % 32] |= (q >> 4 & 1) << (i / 32);
    }
    let low = quants.chunks(64).flat_map(|q| (0..32).map(|l| q[l] & 15 | (q[l + 32] & 15) << 4).collect::<Vec<_>>());
    let high = if of == 5 { &high[..] } else { &[] };
    let head = m.to_le_bytes().into_iter().chain(packed).chain(high.iter().copied());
    with_scale(d, head.chain(low).collect::<Vec<_>>())
}

fn q6_k(block: &[f32]) -> Vec<u8> {
    let wanted: Vec<_> = block.chunks(16).map(|g| g.iter().fold(0f32, |m, w| m.max(w.abs())) / 31.0).collect();
    let d = f16::from_f32(wanted.iter().fold(0f32, |m, w| m.max(*w)) / 127.0);
    let inverse = |of: f32| if of == 0.0 { 0.0 } else { 1.0 / of };
    let scales: Vec<_> = wanted.iter().map(|w| (w * inverse(d.to_f32())).round().min(127.0) as i8).collect();
    let quant = |(i, w): (usize, &f32)| {
        (w * inverse(d.to_f32() * f32::from(scales[i / 16])) + 32.0).round().clamp(0.0, 63.0) as u8
    };
    let quants: Vec<_> = block.iter().enumerate().map(quant).collect();
    let (mut low, mut high) = ([0u8; 128], [0u8; 64]);
    for (i, q) in quants.iter().enumerate() {
        let (part, within, l) = (i / 128, i % 128 / 32, i % 32);
        low[part * 64 + within % 2 * 32 + l] |= (q & 15) << (within / 2 * 4);
        high[part * 32 + l] |= (q >> 4) << (2 * within);
    }
    let scales = scales.into_iter().map(|s| s as u8);
    low.into_iter().chain(high).chain(scales).chain(d.to_le_bytes()).collect()
}

/// A metadata value.
pub enum Meta {
    /// Type 4.
    U32(u32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9 of type 8.
    Texts(Vec<String>),
    /// Type 9 of type 5.
    I32s(Vec<i32>),
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let kind: u32 = match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::I32s(_) => 9,
        };
        out.extend(kind.to_le_bytes());
        let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U32(n) => out.extend(n.to_le_bytes()),
            Self::F32(n) => out.extend(n.to_le_bytes()),
            Self::Bool(on) => out.push(u8::from(*on)),
            Self::Text(t) => text(out, t),
            Self::Texts(texts) => {
                list(out, 8, texts.len());
                texts.iter().for_each(|t| text(out, t));
            }
            Self::I32s(numbers) => {
                list(out, 5, numbers.len());
                numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }
}

/// A file of these pairs and tensors: name, dimensions with the outermost first, type, data.
pub(crate) fn file(pairs: &[(String, Meta)], tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut out, key);
        value.write(&mut out);
    }
    let mut offset = 0;
    for (name, shape, number, data) in &tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
        out.extend(number.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset = (offset + data.len()).next_multiple_of(ALIGNMENT);
    }
    for (.., data) in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(data);
    }
    out
}

/// Element i and i + half of each head, which turn together, as neighbours.
fn paired(weights: &[f32], cols: usize, head_dim: usize) -> Vec<f32> {
    let heads = weights.chunks(head_dim * cols);
    let reordered = heads.flat_map(|head| {
        let row = move |r: usize| head[r * cols..(r + 1) * cols].iter().copied();
        (0..head_dim / 2).flat_map(move |i| row(i).chain(row(i + head_dim / 2)))
    });
    reordered.collect()
}

/// What the converter writes of a config.
///
/// # Panics
/// Where there is no block.
#[must_use]
pub fn metadata(a: &Architecture) -> Vec<(String, Meta)> {
    let size = |n: usize| Meta::U32(n as u32);
    let (at, part) = (&a.blocks[0].attention, &a.blocks[0].feed_forward);
    let mut pairs = vec![
        ("general.architecture", Meta::Text("llada".to_owned())),
        ("general.name", Meta::Text("made by a test".to_owned())),
        ("llada.block_count", size(a.blocks.len())),
        ("llada.context_length", size(a.max_positions)),
        ("llada.embedding_length", size(a.hidden)),
        ("llada.feed_forward_length", size(part.hidden)),
        ("llada.attention.head_count", size(at.heads)),
        ("llada.attention.head_count_kv", size(at.kv_heads)),
        ("llada.rope.freq_base", Meta::F32(a.rotaries[0].theta as f32)),
        ("llada.rope.dimension_count", size(at.head_dim)),
        ("llada.attention.layer_norm_rms_epsilon", Meta::F32(a.final_norm.eps)),
        ("llada.vocab_size", size(a.vocab_size)),
        ("llada.attention.causal", Meta::Bool(false)),
        ("diffusion.shift_logits", Meta::Bool(false)),
    ];
    let ids = [("eos", a.tokens.eos.first().copied()), ("bos", a.tokens.bos), ("padding", a.tokens.pad)];
    let ids: Vec<_> = ids.into_iter().filter_map(|(what, id)| Some((what, id?))).collect();
    let keys: Vec<_> = ids.iter().map(|(what, _)| format!("tokenizer.ggml.{what}_token_id")).collect();
    let mut named: Vec<_> = pairs.drain(..).map(|(key, value)| (key.to_owned(), value)).collect();
    named.extend(keys.into_iter().zip(ids).map(|(key, (_, id))| (key, Meta::U32(id))));
    named
}

/// The converter's names of a role's tensors.
fn names(role: Role) -> Vec<String> {
    let leaves: &[&str] = match role {
        Role::Embedding => &["token_embd"],
        Role::Head => &["output"],
        Role::FinalNorm => &["output_norm"],
        Role::Block(_, role) => match role {
            BlockRole::AttentionNorm => &["attn_norm"],
            BlockRole::Qkv => &["attn_q", "attn_k", "attn_v"],
            BlockRole::AttentionOut => &["attn_output"],
            BlockRole::FeedForwardNorm => &["ffn_norm"],
            BlockRole::Up => &["ffn_gate", "ffn_up"],
            BlockRole::Down => &["ffn_down"],
            _ => &[],
        },
        _ => &[],
    };
    let block = if let Role::Block(set, _) = role { format!("blk.{set}.") } else { String::new() };
    leaves.iter().map(|leaf| format!("{block}{leaf}.weight")).collect()
}

/// The model as a GGUF file, with `more` metadata.
///
/// # Panics
/// Where the model is not whole.
#[must_use]
pub fn write(model: &Model, stored: Stored, more: Vec<(String, Meta)>) -> Vec<u8> {
    write_mixed(model, |_| stored, more)
}

/// The same, each matrix as `stored` says of its name.
///
/// # Panics
/// Where the model is not whole.
#[must_use]
pub fn write_mixed(model: &Model, stored: impl Fn(&str) -> Stored, more: Vec<(String, Meta)>) -> Vec<u8> {
    let a = &model.architecture;
    let head_dim = a.blocks[0].attention.head_dim;
    let mut tensors = Vec::new();
    for specs in model.tensors.chunk_by(|a, b| a.role == b.role) {
        for (spec, name) in specs.iter().zip(names(specs[0].role)) {
            if spec.kind == TensorKind::Vector {
                let values = model.checkpoint.vector(spec).expect("a whole model");
                tensors.push((name, vec![spec.cols], 0, Stored::F32.encode(&values)));
                continue;
            }
            let matrix = Matrix::of(&model.checkpoint, spec).expect("a whole model");
            let mut weights = matrix.to_f32(0..spec.rows).expect("bytes in memory");
            if name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight") {
                weights = paired(&weights, spec.cols, head_dim);
            }
            let stored = stored(&name);
            tensors.push((name, vec![spec.rows, spec.cols], stored.number(), stored.encode(&weights)));
        }
    }
    let pairs: Vec<_> = metadata(a).into_iter().chain(more).collect();
    file(&pairs, tensors)
}
