"""Writes gguf-blocks.bin: blocks of every quantised type of GGUF that is read, and their weights as the
reference implementation gives them.

    pip install gguf==0.19.0 numpy
    python make_gguf_blocks.py

For each type: its number and its count of blocks (u32, little-endian), the blocks, and the bits of their float32
weights by gguf.quants.dequantize. Quants and small scales are random; what they are multiplied with is ordinary,
negative, zero, subnormal or as large as f16 gets, and of some blocks every small scale is the largest or zero.
"""

from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Where a block has its f16 numbers, and its small scales.
LAYOUTS = {
    T.Q4_0: ([0], None),
    T.Q4_1: ([0, 2], None),
    T.Q5_0: ([0], None),
    T.Q5_1: ([0, 2], None),
    T.Q8_0: ([0], None),
    T.Q2_K: ([80, 82], (0, 16)),
    T.Q3_K: ([108], (96, 108)),
    T.Q4_K: ([0, 2], (4, 16)),
    T.Q5_K: ([0, 2], (4, 16)),
    T.Q6_K: ([208], (192, 208)),
    T.IQ4_NL: ([0], None),
    T.IQ4_XS: ([0], (2, 8)),
}
HALVES = [0.0123, -0.37, 0.0, 3.1e-6, 65504.0, -6.1e-5, 5.96e-8]

random = np.random.default_rng(7)
out = bytearray()
for kind, (halves, small) in LAYOUTS.items():
    _, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (len(HALVES) + 2, size), dtype=np.uint8)
    for i, block in enumerate(blocks):
        for j, at in enumerate(halves):
            value = HALVES[(i + 3 * j) % len(HALVES)]
            block[at : at + 2] = np.array([value], "<f2").view(np.uint8)
        if small and i >= len(HALVES):
            block[small[0] : small[1]] = 0xFF if i == len(HALVES) else 0
    weights = dequantize(blocks, kind).astype("<f4").reshape(-1)
    assert np.isfinite(weights).all()
    out += np.array([kind.value, len(blocks)], "<u4").tobytes() + blocks.tobytes() + weights.tobytes()
(Path(__file__).parent / "gguf-blocks.bin").write_bytes(out)
