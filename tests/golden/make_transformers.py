"""Makes the goldens of autoregressive models that transformers computes: a tiny model of random weights, its
logits in float32, and greedy generations.

    pip install torch transformers==4.53.3 safetensors
    python make_transformers.py gemma3-alternating

A generation is kept only where the likeliest id leads by more than noise of 5e-4 on every logit could undo, so
that ids are a fair test of another implementation.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

COMMON = dict(hidden_size=64, intermediate_size=112, num_attention_heads=4, num_key_value_heads=2, bos_token_id=0,
              eos_token_id=0, pad_token_id=None)

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(
        vocab_size=187, n_embd=48, n_layer=3, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)),
    # Windows of 8 in two of three layers, each kind with a rotary table of its own.
    "gemma3-alternating": lambda: Gemma3ForCausalLM(Gemma3TextConfig(
        **COMMON, vocab_size=119, num_hidden_layers=6, head_dim=24, query_pre_attn_scalar=20, sliding_window=8,
        layer_types=["full_attention" if (i + 1) % 3 == 0 else "sliding_attention" for i in range(6)],
        rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling={"rope_type": "linear", "factor": 8.0},
        max_position_embeddings=256, rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh")),
    # Original positions are few, so that pairs kept, blended and divided all occur in 16 elements.
    "qwen2-yarn": lambda: Qwen2ForCausalLM(Qwen2Config(
        **COMMON, vocab_size=109, num_hidden_layers=2, rope_theta=1e4, max_position_embeddings=128,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        use_sliding_window=False, tie_word_embeddings=False)),
    "llama-linear-rope": lambda: LlamaForCausalLM(LlamaConfig(
        **COMMON, vocab_size=107, num_hidden_layers=2, rope_theta=1e4, max_position_embeddings=128,
        rope_scaling={"rope_type": "linear", "factor": 4.0}, tie_word_embeddings=False)),
}

PROMPTS = (1, 6, 19)
NEW = 24
LEAST_LEAD = 2e-3


def randomise(model, seed):
    """Weights far from a fresh model's, so that every part moves the logits: norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() == 2:
            table = any(part in name for part in ("embed", "wte", "wpe"))
            p.data = noise * (0.07 if table else 1.4 / p.shape[1] ** 0.5)
        elif name.endswith("bias"):
            p.data = noise * 0.3
        else:
            # Gemma adds 1 to what is stored; the others multiply with it.
            p.data = noise * 0.25 + (0.0 if "gemma3" in type(model).__module__ else 1.0)


def greedy(model, prompt):
    """The continuation without a cache, and the least lead of a chosen id over the next."""
    ids, lead = list(prompt), float("inf")
    for _ in range(NEW):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        ids.append(int(best.indices[0]))
    return ids, lead


def make(name):
    for seed in range(1000):
        torch.manual_seed(seed)
        model = MODELS[name]().float().eval()
        model.config._attn_implementation = "eager"
        randomise(model, seed)
        draw = torch.Generator().manual_seed(seed)
        prompts = [torch.randint(1, model.config.vocab_size, (n,), generator=draw).tolist() for n in PROMPTS]
        runs = [greedy(model, prompt) for prompt in prompts]
        varied = all(len(set(ids[len(p):])) >= 6 for (ids, _), p in zip(runs, prompts))
        if varied and min(lead for _, lead in runs) > LEAST_LEAD:
            break
    else:
        raise SystemExit("no seed gives generations that are a fair test")
    for prompt, (ids, _) in zip(prompts, runs):
        cached = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, eos_token_id=None,
                                pad_token_id=0)
        assert cached[0].tolist() == ids, "cached and uncached decoding differ"
    folder = Path(__file__).parent / name
    folder.mkdir(exist_ok=True)
    inputs = torch.randint(0, model.config.vocab_size, (2, 22), generator=draw)
    logits = model(inputs, use_cache=False).logits
    save_file({"input_ids": inputs, "logits": logits.float().contiguous()}, folder / "golden.safetensors")
    tied = model.config.tie_word_embeddings
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_diff_dict()
    for key in ("_attn_implementation_autoset", "transformers_version"):
        config.pop(key, None)
    config |= {"architectures": [type(model).__name__], "model_type": model.config.model_type}
    # What is a default of the config class is said too: readers have defaults of their own.
    for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings",
                "rope_theta", "rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id"):
        if getattr(model.config, key, None) is not None:
            config[key] = getattr(model.config, key)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    cases = [{"algorithm": "greedy", "prompt": p, "max_new_tokens": NEW, "expect": ids}
             for p, (ids, _) in zip(prompts, runs)]
    note = "temperature 0; tied heads are not stored twice"
    (folder / "golden.json").write_text(json.dumps({"note": note, "meta": {}, "cases": cases}) + "\n")
    print(name, "seed", seed, "leads", [round(lead, 4) for _, lead in runs], "logits", logits.abs().max().item())


with torch.no_grad():
    for name in sys.argv[1:] or MODELS:
        make(name)
