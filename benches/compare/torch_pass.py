#!/usr/bin/env python3
"""Times forward passes of a LLaDA-shaped model with random weights in PyTorch, and prints them as JSON.

On CUDA a pass runs eagerly and, where torch.compile is there, compiled and replayed as a CUDA graph: the
best that a PyTorch user gets. On the CPU it runs eagerly. A pass ends as ours does: with the likeliest token
of every row and its log-probability, so that nobody writes logits to the host.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
        return (wide * scale).to(x.dtype) * self.weight


def turned(x, cos, sin):
    """Rotary embedding of [1, heads, rows, head_dim], halves as pairs."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, hidden, heads, kv_heads, mlp):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, hidden // heads
        self.norm, self.mlp_norm = RmsNorm(hidden), RmsNorm(hidden)
        self.qkv = nn.Linear(hidden, (heads + 2 * kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * mlp, bias=False)
        self.down = nn.Linear(mlp, hidden, bias=False)

    def forward(self, x, cos, sin):
        rows = x.shape[1]
        split = self.qkv(self.norm(x)).view(1, rows, -1, self.head_dim).transpose(1, 2)
        q, k, v = split.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        group = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(group, dim=1) if group > 1 else t for t in (turned(k, cos, sin), v))
        q = turned(q, cos, sin)
        if hasattr(F, "scaled_dot_product_attention"):
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            attended = torch.softmax(q @ k.transpose(-1, -2) * self.head_dim**-0.5, dim=-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(1, rows, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def build(a, device, dtype):
    with_default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    blocks = []
    for _ in range(a.layers):
        # One block at a time goes to the device, so that the host never holds the whole model.
        blocks.append(Block(a.hidden, a.heads, a.kv_heads, a.mlp).to(device).requires_grad_(False))
    norm = RmsNorm(a.hidden).to(device).requires_grad_(False)
    head = nn.Linear(a.hidden, a.vocabulary, bias=False).to(device).requires_grad_(False)
    torch.set_default_dtype(with_default)
    return blocks, norm, head


def passes(a, mode, device, dtype, model):
    blocks, norm, head = model
    run_block = [torch.compile(b) for b in blocks] if mode == "compiled" else blocks
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for rows in a.rows:
        x = torch.randn(1, rows, a.hidden, device=device, dtype=dtype)
        width = a.hidden // a.heads // 2
        angles = torch.outer(torch.arange(rows).float(), 10000.0 ** (-torch.arange(width).float() / width))
        cos, sin = (t.to(device=device, dtype=dtype) for t in (angles.cos(), angles.sin()))

        def forward():
            y = x
            for block in run_block:
                y = block(y, cos, sin)
            logits = head(norm(y)).float()
            best, token = logits.max(dim=-1)
            return token, best - logits.logsumexp(dim=-1)

        run = forward
        for _ in range(3 if device == "cuda" else 1):
            run()
        if mode == "compiled":
            wait()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                forward()
            run = graph.replay
        times = []
        for _ in range(a.repeats):
            wait()
            begun = time.perf_counter()
            run()
            wait()
            times.append((time.perf_counter() - begun) * 1e3)
        yield {"rows": rows, "median_ms": statistics.median(times)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("hidden", "mlp", "layers", "heads", "kv-heads", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rows", type=lambda t: [int(n) for n in t.split(",")], required=True)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--cpu", action="store_true", help="on the CPU even where there is CUDA")
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not a.cpu else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    modes = ["eager"] + (["compiled"] if device == "cuda" and hasattr(torch, "compile") else [])
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    with torch.no_grad():
        model = build(a, device, dtype)
        reports = [{"mode": m, "passes": list(passes(a, m, device, dtype, model))} for m in modes]
    print(json.dumps({"torch": torch.__version__, "device": where, "dtype": str(dtype)[6:], "reports": reports}))


main()
