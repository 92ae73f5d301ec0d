#!/usr/bin/env python3
"""Times our passes beside PyTorch's and Burn's on this machine, and prints ratios as Markdown.

    cargo build --release                  # or with --features burn-cuda and the like
    python3 benches/compare/compare.py --shape llada-8b --rows 32,64,128
    python3 benches/compare/compare.py --model tales-33m --backends cpu,burn-flex --torch-cpu

Contenders take turns, --rounds times, so that what else the machine does meets them alike; a number is the
median of their medians. What is not there (PyTorch, a backend that was not compiled in) is left out with a
note. Shapes have random weights, which only our own kernels can have; --model compares every backend.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Those of `remask synth`: hidden, mlp, layers, heads, key/value heads, vocabulary.
SHAPES = {"llada-8b": (4096, 12288, 32, 32, 32, 126464), "tales-33m": (512, 1344, 8, 8, 8, 8192)}


def note(text):
    print(f"note: {text}", file=sys.stderr)


def json_of(command):
    """What a command prints, as JSON; None where it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    lines = done.stderr.strip().splitlines() or ["no message"]
    note(f"{Path(command[0]).name} {command[1]} ended with {done.returncode}: {lines[-1]}")
    return None


def compiled_backends(remask):
    text = subprocess.run([remask, "bench", "--help"], capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^ +- ([a-z-]+):", text, re.MULTILINE)
    return set(listed)


class Ours:
    def __init__(self, a, backend):
        self.name = f"remask {backend}"
        self.command = [a.remask, "bench", "--backend", backend, "--json", "--repeats", a.repeats]
        self.command += ["--rows", a.rows, *(["--shape", a.shape] if a.shape else ["--model", a.model])]
        self.command += ["--weights", a.weights] if a.weights else []

    def measure(self):
        reports = json_of(self.command)
        if not reports:
            return {}
        info = reports[0]["backend"]
        name = f"{self.name} ({info['adapter']}, {info['weights']})"
        return {name: {p["rows"]: p["median_ms"] for p in reports[0]["passes"]}}


class Torch:
    def __init__(self, a, shape):
        names = ("hidden", "mlp", "layers", "heads", "kv-heads", "vocabulary")
        options = [word for name, n in zip(names, shape) for word in (f"--{name}", n)]
        self.command = [a.python, HERE / "torch_pass.py", *options, "--rows", a.rows, "--repeats", a.repeats]
        self.command += ["--cpu"] if a.torch_cpu else []

    def measure(self):
        found = json_of(self.command)
        if not found:
            return {}
        name = f"PyTorch {found['torch']} ({found['device']}, {found['dtype']}"
        reports = found["reports"]
        return {f"{name}, {r['mode']})": {p["rows"]: p["median_ms"] for p in r["passes"]} for r in reports}


def shape_of(a):
    if a.shape:
        return SHAPES[a.shape]
    shown = json_of([a.remask, "inspect", a.model, "--json"])
    if not shown:
        sys.exit("error: the model cannot be read")
    model = shown["architecture"]
    attention = model["attention"]
    heads = (attention["heads"], attention["kv_heads"])
    return (model["hidden"], model["mlp"]["hidden"], model["layers"], *heads, model["embedding_rows"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    what.add_argument("--model", default="tales-33m", help="a model folder, file or bundled model (default %(default)s)")
    parser.add_argument("--rows", default="1,8,32,64,128,256,512,1024", help="default %(default)s")
    parser.add_argument("--backends", default="wgpu,cpu,burn-cuda,burn-vulkan,burn-flex", help="default %(default)s")
    parser.add_argument("--weights", help="f32, f16, bf16, q8 or q4 for our own backends")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each contender takes (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=12, help="passes timed in a turn (default %(default)s)")
    parser.add_argument("--remask", default=HERE.parent.parent / "target/release/remask", help="the binary")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--torch-cpu", action="store_true", help="PyTorch on the CPU even where there is CUDA")
    parser.add_argument("--no-torch", action="store_true")
    a = parser.parse_args()
    if not Path(a.remask).exists():
        sys.exit(f"error: {a.remask} is not there; run cargo build --release")

    there = compiled_backends(a.remask)
    wanted = ["wgpu"] if a.shape else a.backends.split(",")
    for backend in wanted:
        if backend not in there:
            note(f"{backend} was not compiled in (cargo build --release --features {backend})")
    contenders = [Ours(a, backend) for backend in wanted if backend in there]
    if not a.no_torch:
        contenders.append(Torch(a, shape_of(a)))

    times = {}
    for _ in range(a.rounds):
        for contender in list(contenders):
            measured = contender.measure()
            if not measured:
                contenders.remove(contender)
            for name, passes in measured.items():
                for rows, ms in passes.items():
                    times.setdefault(name, {}).setdefault(rows, []).append(ms)
    if not times:
        sys.exit("error: nothing could be measured")
    medians = {name: {rows: statistics.median(ms) for rows, ms in passes.items()} for name, passes in times.items()}

    # Each is held against the fastest of PyTorch's ways, or else against the first contender.
    torch = [passes for name, passes in medians.items() if name.startswith("PyTorch")]
    base = torch or [next(iter(medians.values()))]
    rows = sorted({r for passes in medians.values() for r in passes})
    print(f"{a.shape or a.model}: milliseconds a pass, and times those of {'PyTorch' if torch else 'the first'}\n")
    print("| | " + " | ".join(f"{r} rows" for r in rows) + " |\n|---|" + "---|" * len(rows))
    for name, passes in medians.items():
        cells = []
        for r in rows:
            against = min((b[r] for b in base if r in b), default=None)
            ms = passes.get(r)
            cells.append("" if ms is None else f"{ms:.2f}" + (f" ({ms / against:.2f}x)" if against else ""))
        print(f"| {name} | " + " | ".join(cells) + " |")


main()
