"""Makes blocks.json: blocks of every quantized kind that is read from GGUF files, and what the gguf package of llama.cpp says they are.

    python3 -m venv venv && venv/bin/pip install gguf
    venv/bin/python crates/inference/tests/goldens/make_blocks.py

Bytes are random numbers of a fixed seed, so that every level, scale and bit is met; only the numbers of two bytes, steps and lows,
are chosen, because random ones may be infinite. Weights are dequantized in float32, in the order of operations of the package.
"""

import json
import pathlib

import gguf
import numpy
from gguf import GGMLQuantizationType as Kind

WEIGHTS = 512
# Where a block has its numbers of two bytes.
HALVES = {
    Kind.Q4_0: [0],
    Kind.Q4_1: [0, 2],
    Kind.Q5_0: [0],
    Kind.Q5_1: [0, 2],
    Kind.Q8_0: [0],
    Kind.Q2_K: [80, 82],
    Kind.Q3_K: [108],
    Kind.Q4_K: [0, 2],
    Kind.Q5_K: [0, 2],
    Kind.Q6_K: [208],
}

random = numpy.random.default_rng(7)
kinds = {}
for kind, halves in HALVES.items():
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (WEIGHTS // weights, size), dtype=numpy.uint8)
    for at in halves:
        numbers = random.uniform(-0.5, 0.5, len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = numbers.view(numpy.uint8).reshape(-1, 2)
    numbers = gguf.quants.dequantize(blocks.reshape(1, -1), kind).reshape(-1)
    assert numbers.dtype == numpy.float32 and len(numbers) == WEIGHTS
    kinds[kind.name] = {"bytes": blocks.tobytes().hex(), "weights": [float(str(number)) for number in numbers]}

path = pathlib.Path(__file__).with_name("blocks.json")
path.write_text("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(kind)}" for name, kind in kinds.items()) + "\n}\n")
