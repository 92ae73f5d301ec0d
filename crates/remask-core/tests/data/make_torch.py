"""Writes torch/: small checkpoints of PyTorch and, in expected.json, what is in them.

Made with PyTorch 1.13 (Debian's python3-torch); run again as `python3 make_torch.py`. Files differ in their paddings
from version to version, values do not.
"""

import json
import os
from collections import OrderedDict

import torch
from torch import nn

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch")


def numbers(*shape, dtype=torch.float32, start=0):
    count = torch.Size(shape).numel()
    return (torch.arange(start, start + count, dtype=torch.float64) / 4 - 1).to(dtype).reshape(shape)


def everything():
    """Every type, every way to share a storage and to lie in one."""
    w = numbers(3, 4)
    tensors = {
        "f32": w,
        "f16": numbers(2, 3, dtype=torch.float16),
        "bf16": numbers(2, 3, dtype=torch.bfloat16),
        "f64": numbers(3, dtype=torch.float64),
        "i64": torch.tensor([1, -2, 3]),
        "i32": torch.tensor([1, -2], dtype=torch.int32),
        "i16": torch.tensor([300, -2], dtype=torch.int16),
        "i8": torch.tensor([1, -2], dtype=torch.int8),
        "u8": torch.tensor([1, 254], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "alias": w,
        "same bytes": w.view(3, 4),
        "flat": w.view(12),
        "transposed": w.t(),
        "row": w[1],
        "rows": w[1:],
        "column": w[:, 2],
        "steps": w[::2, 1::2],
        "expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "permuted": numbers(2, 3, 4, dtype=torch.bfloat16).permute(2, 0, 1),
        "parameter": nn.Parameter(numbers(2, 2, start=7)),
    }
    return tensors


def unreadable():
    return {
        "w": numbers(2, 2),
        "complex": torch.tensor([1 + 2j]),
        "complex128": torch.tensor([1 + 2j], dtype=torch.complex128),
        "sparse": torch.sparse_coo_tensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2)),
        "quantised": torch.quantize_per_tensor(numbers(2, 2), 0.25, 0, torch.qint8),
    }


def save(name, value, **options):
    torch.save(value, os.path.join(OUT, name), **options)


def main():
    os.makedirs(OUT, exist_ok=True)
    torch.manual_seed(0)
    tensors = everything()
    expected = {
        name: {
            "dtype": str(t.dtype).removeprefix("torch."),
            "shape": list(t.shape),
            "values": t.detach().to(torch.float64).flatten().tolist(),
        }
        for name, t in tensors.items()
    }
    with open(os.path.join(OUT, "expected.json"), "w") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")
    save("zip.bin", tensors)
    save("zip-protocol5.pt", tensors, pickle_protocol=5)
    save("legacy.bin", tensors, _use_new_zipfile_serialization=False)
    save("legacy-protocol1.pt", tensors, _use_new_zipfile_serialization=False, pickle_protocol=1)
    save("legacy-protocol4.pth", tensors, _use_new_zipfile_serialization=False, pickle_protocol=4)
    save("unreadable.bin", unreadable())

    module = nn.Sequential(OrderedDict(up=nn.Linear(2, 3), norm=nn.LayerNorm(3)))
    for i, p in enumerate(module.parameters()):
        p.data = numbers(*p.shape, start=i)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).square().sum().backward()
    optimiser.step()
    for i, p in enumerate(module.parameters()):
        p.data = numbers(*p.shape, start=i)
    state = module.state_dict()
    save("state-dict.pth", state)
    save("training.pt", {
        "epoch": 3, "loss": 0.25, "best": torch.tensor(0.5), "history": [1.0, None, True, 2**70, "text", b"bytes", {1}],
        "model": state, "optimizer": optimiser.state_dict(), "rng": torch.get_rng_state()[:4],
    })
    save("lightning.ckpt", {"pytorch-lightning_version": "1.0", "state_dict": OrderedDict(state), "callbacks": {}})
    save("parallel.pt", {"module": OrderedDict(("module." + k, v) for k, v in state.items())})
    save("named.pt", {"encoder": state})
    save("module.pt", module)
    torch.jit.save(torch.jit.script(module), os.path.join(OUT, "script.pt"))
    save("tensor.pt", numbers(2))
    save("numbers.pt", {"a": 1, "b": [2, 3]})


if __name__ == "__main__":
    main()
