"""Makes wide.json: what a reference computes with versions in blocks of a decoder that is wide enough for them.

    python3 -m venv venv && venv/bin/pip install numpy gguf
    venv/bin/python crates/inference/tests/goldens/make_wide.py target/debug/augur

The decoder, floats of a formula, is written here as `tests/wide/mod.rs` writes it for the tests; `augur models quantize` makes versions in
blocks of it. Reference: the numbers that those blocks stand for, as gguf's own reader has them, and a decoder in float64, written
for this, whose logits are first compared with those that transformers computed for generators/llama-f32.gguf.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import gguf
import numpy
from gguf.quants import dequantize

WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, CONTEXT = 256, 512, 2, 4, 2, 128
TOKENS = [*map(chr, range(ord(" "), ord("}") + 1)), "sh", "<|end|>"]
FORMS = ["q4_k", "q8_0"]
# Greedy texts are kept of prompts after which each token leads by so much that rounding to 8 bits changes none.
STEPS, LEAD, PROMPTS = 6, 0.35, 2


def number(seed, count):
    mixed = numpy.uint32(seed * 0x9E3779B9 & 0xFFFFFFFF) + numpy.arange(count, dtype=numpy.uint32)
    mixed = (mixed ^ (mixed >> numpy.uint32(16))) * numpy.uint32(0x7FEB352D)
    mixed = (mixed ^ (mixed >> numpy.uint32(15))) * numpy.uint32(0x846CA68B)
    mixed ^= mixed >> numpy.uint32(16)
    return (mixed >> numpy.uint32(8)).astype(numpy.float32) / numpy.float32(1 << 23) - numpy.float32(1)


def write(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("wide")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token.replace(" ", "\u0120") for token in TOKENS])
    writer.add_token_merges(["s h"])
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(len(TOKENS) - 1)
    keys = WIDTH // HEADS * KEY_HEADS
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,), "output": (len(TOKENS), WIDTH)}
    for layer in range(LAYERS):
        sides = {
            "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,), "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }
        shapes.update({f"blk.{layer}.{name}": shape for name, shape in sides.items()})
    for seed, (name, shape) in enumerate(shapes.items()):
        scale, middle = (0.25, 1.0) if len(shape) == 1 else (0.125, 0.0)
        numbers = number(seed, int(numpy.prod(shape))) * numpy.float32(scale) + numpy.float32(middle)
        writer.add_tensor(f"{name}.weight", numbers.reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Decoder:
    """A llama in float64, all tokens at once."""

    def __init__(self, path):
        file = gguf.GGUFReader(path)
        self.weights = {tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64) for tensor in file.tensors}
        self.kinds = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
        said = lambda key: file.fields[f"llama.{key}"].contents()
        self.layers, self.heads, self.key_heads = said("block_count"), said("attention.head_count"), said("attention.head_count_kv")
        self.epsilon, self.base = float(said("attention.layer_norm_rms_epsilon")), float(said("rope.freq_base"))

    def norm(self, x, name):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.weights[name]

    def turn(self, x):
        """Neighbours of each head (token, head, number) turn by the token's place."""
        places, half = numpy.arange(x.shape[0]), x.shape[-1] // 2
        angles = places[:, None] * self.base ** (-numpy.arange(half) / half)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * numpy.exp(1j * angles)[:, None]
        return numpy.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def logits(self, tokens):
        x = self.weights["token_embd.weight"][tokens]
        later = numpy.triu(numpy.full((len(tokens), len(tokens)), -numpy.inf), 1)
        for layer in range(self.layers):
            product = lambda x, name: x @ self.weights[f"blk.{layer}.{name}.weight"].T
            normed = self.norm(x, f"blk.{layer}.attn_norm.weight")
            heads = lambda name, count: product(normed, name).reshape(len(tokens), count, -1)
            query, key = self.turn(heads("attn_q", self.heads)), self.turn(heads("attn_k", self.key_heads))
            key, value = (numpy.repeat(part, self.heads // self.key_heads, 1) for part in (key, heads("attn_v", self.key_heads)))
            scores = numpy.einsum("qhn,khn->hqk", query, key) / numpy.sqrt(query.shape[-1]) + later
            shares = numpy.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            x = x + product(numpy.einsum("hqk,khn->qhn", shares, value).reshape(len(tokens), -1), "attn_output")
            normed = self.norm(x, f"blk.{layer}.ffn_norm.weight")
            gate = product(normed, "ffn_gate")
            x = x + product(gate / (1 + numpy.exp(-gate)) * product(normed, "ffn_up"), "ffn_down")
        return self.norm(x, "output_norm.weight") @ self.weights["output.weight"].T


def check(home):
    """The decoder here against transformers."""
    decoder = Decoder(home / "generators/llama-f32.gguf")
    model = json.loads((home / "generators/answers.json").read_text(encoding="utf-8"))["models"][0]
    assert model["file"] == "llama-f32.gguf"
    compared = 0
    for prompt in model["prompts"]:
        tokens = list(prompt["tokens"])
        for step, theirs in enumerate(prompt["logits"]):
            apart = numpy.abs(decoder.logits(tokens)[-1] - theirs).max()
            assert apart < 1e-5, apart
            tokens.append(prompt["greedy"][step])
            compared += 1
    assert compared


def answers(decoder, original):
    """Logits after each token of one prompt, and the texts that greedily follow some."""
    tokens = lambda text: [TOKENS.index(part) for part in re.findall("sh|.", text)]
    told = "The ships: 12"
    logits = decoder.logits(tokens(told))
    apart = float(numpy.abs(logits - original.logits(tokens(told))).max())
    rows = [[float(f"{one:.6g}") for one in row] for row in logits.tolist()]
    texts = []
    for count in range(100_000):
        prompt = f"{count} ships"
        ids = tokens(prompt)
        for _ in range(STEPS):
            last = decoder.logits(ids)[-1]
            best = numpy.argsort(last)[::-1]
            if last[best[0]] - last[best[1]] < LEAD or best[0] == len(TOKENS) - 1:
                break
            ids.append(int(best[0]))
        else:
            if len(set(ids[len(tokens(prompt)):])) < 3:
                continue
            texts.append({"prompt": prompt, "text": "".join(TOKENS[id] for id in ids[len(tokens(prompt)):])})
        if len(texts) == PROMPTS:
            break
    kinds = {name: kind for name, kind in decoder.kinds.items() if not name.startswith("blk.") or name.startswith("blk.0.")}
    return {"prompt": told, "from_floats": apart, "kinds": kinds, "texts": texts, "logits": rows}


def main(augur) -> None:
    check(home := pathlib.Path(__file__).parent)
    forms = {}
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        write(place / "wide.gguf")
        models = ["--models-dir", str(place / "models")]
        run = lambda *words: subprocess.run([augur, "models", *words, *models], check=True)
        (place / "inputs.jsonl").write_text('{"prompt": "Two ships"}\n', encoding="utf-8")
        run("add", str(place / "wide.gguf"), "--name", "test/wide")
        original = Decoder(next((place / "models/test/wide").glob("*.gguf")))
        for form in FORMS:
            run("quantize", "test/wide", "--to", form, "--yes", "--calibration", str(place / "inputs.jsonl"))
            forms[form] = answers(Decoder(next((place / f"models/test/wide@{form}").glob("*.gguf"))), original)
    head = {"by": "crates/inference/tests/goldens/make_wide.py", "how": "float64", "versions": {"numpy": numpy.__version__, "gguf": "0.19.0"}}
    rows = [f'"made": {json.dumps(head)}']
    for form, said in forms.items():
        logits = ",\n".join(json.dumps(row) for row in said.pop("logits"))
        rows.append(f'"{form}": {json.dumps(said)[:-1]}, "logits": [\n{logits}\n]}}')
    (home / "wide.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
