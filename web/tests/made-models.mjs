// Models that the tests make from others: files larger than any memory, and a GGUF file.
import { readFileSync } from 'node:fs';

/** A safetensors file's header, and the bytes behind it. */
function parts(path) {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUint64LE(0));
  return { header: JSON.parse(bytes.subarray(8, 8 + length)), data: bytes.subarray(8 + length) };
}

const WIDTH = { F32: 4, U8: 1 };

/**
 * The checkpoint at `path` with other tensors, `[name, dtype, shape]`, in front of its own, which keep their
 * contents and lie that much further back: the head of the file, the bytes of each other tensor, its own bytes.
 */
export function stretched(path, others) {
  const { header, data } = parts(path);
  const sizes = others.map(([, dtype, shape]) => shape.reduce((n, d) => n * d, WIDTH[dtype]));
  const front = sizes.reduce((sum, size) => sum + size, 0);
  const entries = {};
  let at = 0;
  others.forEach(([name, dtype, shape], i) => {
    entries[name] = { dtype, shape, data_offsets: [at, (at += sizes[i])] };
  });
  for (const [name, entry] of Object.entries(header)) {
    entries[name] = name === '__metadata__' ? entry : { ...entry, data_offsets: entry.data_offsets.map((offset) => offset + front) };
  }
  const text = Buffer.from(JSON.stringify(entries));
  const length = Buffer.alloc(8);
  length.writeBigUint64LE(BigInt(text.length));
  return { head: Buffer.concat([length, text]), sizes, data };
}

/**
 * tales-33m with `layers` further blocks that change nothing: what they add to the residual is multiplied by 0.
 * Their other weights are numbers between -0.04 and 0.04 in float32, 12.5 MB a block, made as they are sent.
 */
export function deepened(folder, layers) {
  const config = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8'));
  const { d_model: d, mlp_hidden_size: mlp, n_layers: first } = config;
  const shapes = {
    attn_norm: [d], ff_norm: [d], q_proj: [d, d], k_proj: [d, d], v_proj: [d, d], attn_out: [d, d],
    ff_proj: [mlp, d], up_proj: [mlp, d], ff_out: [d, mlp],
  };
  const others = Array.from({ length: layers }, (_, i) =>
    Object.entries(shapes).map(([leaf, shape]) => [`model.transformer.blocks.${first + i}.${leaf}.weight`, 'F32', shape]),
  ).flat();
  const { head, sizes, data } = stretched(`${folder}/model.safetensors`, others);
  const count = 1 << 18;
  const fill = (value) => Buffer.from(Float32Array.from({ length: count }, value).buffer);
  const [varied, zeros, ones] = [fill((_, i) => (((i * 7919) % 2003) / 2003 - 0.5) * 0.08), fill(() => 0), fill(() => 1)];
  const contents = (name) => (/norm/.test(name) ? ones : /_out/.test(name) ? zeros : varied);
  return {
    config: JSON.stringify({ ...config, n_layers: first + layers }),
    weights: {
      size: head.length + sizes.reduce((sum, size) => sum + size, 0) + data.length,
      *read() {
        yield head;
        for (const [i, [name]] of others.entries()) {
          const piece = contents(name);
          for (let left = sizes[i]; left > 0; left -= piece.length) yield Buffer.from(piece.subarray(0, Math.min(left, piece.length)));
        }
        yield data;
      },
    },
  };
}

const LEAVES = {
  attn_norm: 'attn_norm', q_proj: 'attn_q', k_proj: 'attn_k', v_proj: 'attn_v', attn_out: 'attn_output',
  ff_norm: 'ffn_norm', ff_proj: 'ffn_gate', up_proj: 'ffn_up', ff_out: 'ffn_down',
};
const TABLES = { 'wte.weight': 'token_embd.weight', 'ln_f.weight': 'output_norm.weight', 'ff_out.weight': 'output.weight' };

/** A float32 checkpoint of the LLaDA family as llama.cpp's converter would write it, without a tokenizer. */
export function gguf(folder) {
  const config = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8'));
  const { header, data } = parts(`${folder}/model.safetensors`);
  const chunks = [];
  const put = (bytes, write) => {
    const buffer = Buffer.alloc(bytes);
    write(buffer);
    chunks.push(buffer);
  };
  const u32 = (n) => put(4, (b) => b.writeUint32LE(n));
  const u64 = (n) => put(8, (b) => b.writeBigUint64LE(BigInt(n)));
  const text = (s) => (u64(Buffer.byteLength(s)), chunks.push(Buffer.from(s)));
  const sizes = {
    embedding_length: config.d_model, block_count: config.n_layers, feed_forward_length: config.mlp_hidden_size,
    context_length: config.max_sequence_length, vocab_size: config.vocab_size,
    'attention.head_count': config.n_heads, 'attention.head_count_kv': config.n_kv_heads,
  };
  const floats = { 'rope.freq_base': config.rope_theta, 'attention.layer_norm_rms_epsilon': config.rms_norm_eps };
  const ids = { mask: config.mask_token_id, eos: config.eos_token_id, padding: config.pad_token_id };
  const pairs = [
    ...Object.entries(sizes).map(([key, n]) => [`llada.${key}`, 4, () => u32(n)]),
    ...Object.entries(floats).map(([key, n]) => [`llada.${key}`, 6, () => put(4, (b) => b.writeFloatLE(n))]),
    ...Object.entries(ids).map(([key, n]) => [`tokenizer.ggml.${key}_token_id`, 4, () => u32(n)]),
    ['general.architecture', 8, () => text('llada')],
  ];
  const tensors = Object.entries(header).filter(([name]) => name !== '__metadata__').map(([name, { shape, data_offsets: [from, to] }]) => {
    const [, layer, leaf] = /blocks\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
    let bytes = data.subarray(from, to);
    if (leaf === 'q_proj' || leaf === 'k_proj') {
      // Rows i and i + half of a head become neighbours.
      const half = config.d_model / config.n_heads / 2;
      const row = shape[1] * 4;
      const rows = Array.from({ length: shape[0] }, (_, at) => {
        const [head, i] = [at - (at % (2 * half)), at % (2 * half)];
        const stored = head + (i % 2) * half + (i >> 1);
        return bytes.subarray(stored * row, (stored + 1) * row);
      });
      bytes = Buffer.concat(rows);
    }
    return { name: layer ? `blk.${layer}.${LEAVES[leaf]}.weight` : TABLES[name.replace('model.transformer.', '')], shape, bytes };
  });
  chunks.push(Buffer.from('GGUF'));
  u32(3);
  u64(tensors.length);
  u64(pairs.length);
  for (const [key, kind, value] of pairs) {
    text(key);
    u32(kind);
    value();
  }
  let offset = 0;
  const padded = (n) => Math.ceil(n / 32) * 32;
  for (const { name, shape, bytes } of tensors) {
    text(name);
    u32(shape.length);
    [...shape].reverse().forEach(u64);
    u32(0);
    u64(offset);
    offset += padded(bytes.length);
  }
  const head = Buffer.concat(chunks);
  const pad = (bytes) => Buffer.concat([bytes, Buffer.alloc(padded(bytes.length) - bytes.length)]);
  return Buffer.concat([pad(head), ...tensors.map(({ bytes }) => pad(bytes))]);
}
