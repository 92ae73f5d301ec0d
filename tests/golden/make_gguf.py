"""Writes model.gguf beside a golden's model.safetensors, in float32, with llama.cpp's own writer.

    pip install gguf==0.19.0 safetensors numpy
    python make_gguf.py llada-gqa-tied

Names, metadata and the order of query and key rows are those that llama.cpp's converter gives a
LLaDAModelLM: an independent check of our reader. The goldens have no tokenizer, so the file has none.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

folder = Path(__file__).parent / sys.argv[1]
config = json.loads((folder / "config.json").read_text())
weights = load_file(folder / "model.safetensors")
heads = config["n_heads"]
kv_heads = config.get("n_kv_heads") or heads

writer = gguf.GGUFWriter(str(folder / "model.gguf"), "llada")
writer.add_name(folder.name)
writer.add_file_type(gguf.LlamaFileType.ALL_F32)
writer.add_block_count(config["n_layers"])
writer.add_context_length(config["max_sequence_length"])
writer.add_embedding_length(config["d_model"])
writer.add_feed_forward_length(config["mlp_hidden_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_rope_freq_base(config["rope_theta"])
writer.add_rope_dimension_count(config["d_model"] // heads)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_vocab_size(config["vocab_size"])
writer.add_causal_attention(False)
writer.add_diffusion_shift_logits(False)
writer.add_eos_token_id(config["eos_token_id"])
writer.add_pad_token_id(config["pad_token_id"])
writer.add_mask_token_id(config["mask_token_id"])

LEAVES = {
    "attn_norm": "attn_norm",
    "ff_norm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
}
for name, tensor in weights.items():
    leaf = name.removeprefix("model.transformer.").removesuffix(".weight")
    if leaf.startswith("blocks."):
        _, layer, leaf = leaf.split(".")
        count = {"q_proj": heads, "k_proj": kv_heads}.get(leaf)
        if count:
            # Element i and i + half of a head, which turn together, become neighbours.
            halves = tensor.reshape(count, 2, -1, tensor.shape[1])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        target = f"blk.{layer}.{LEAVES[leaf]}.weight"
    else:
        target = {"wte": "token_embd", "ln_f": "output_norm", "ff_out": "output"}[leaf] + ".weight"
    writer.add_tensor(target, np.ascontiguousarray(tensor, dtype=np.float32))

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
