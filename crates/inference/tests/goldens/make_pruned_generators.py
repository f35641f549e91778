"""Makes pruned_generators.json: what is removed from tiny decoders, and what transformers computes without it.

    python3 -m venv venv && venv/bin/pip install torch transformers gguf sentencepiece
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_pruned_generators.py

The decoders are the files that make_generators.py made, read by gguf, with the numbers that their blocks stand for; prompts and their
tokens are in generators/answers.json. What goes is found here by other means than in augur: a head's worth from what the output's
matrix makes of it alone, a layer's from what the list of layers gives without it. Logits are those of a model of the size that it
had, where removed heads are zeros in the output's matrix and small weights are zeros. All in float64, each prompt alone.
"""

import copy
import json
import pathlib

import gguf
import torch
import transformers
from make_generators import BASE, CONTEXT, HEADS, INNER, KEY_HEADS, LAYERS, LLAMA3, WIDTH, file_name

HOME = pathlib.Path(__file__).parent
# File, the class, what is removed, one cut after the other; and perhaps its layers in what order and how often, and which of those add a
# sixteenth of what they would.
CASES = [
    ("llama-f32.gguf", "Llama", [{"layers": 1}]),
    ("llama-f32.gguf", "Llama", [{"layers": 2}], [1, 0, 1, 0], [1]),
    ("qwen3-f16.gguf", "Qwen3", [{"layers": 1}], [0, 1, 0], [0]),
    ("qwen2-f16.gguf", "Qwen2", [{"layers": 1}]),
    ("qwen2-q4_0.gguf", "Qwen2", [{"layers": 1}]),
    # One of each group, and then, there being one for each head of keys, one with its keys and values.
    ("llama-f32.gguf", "Llama", [{"heads": 2}]),
    ("llama-f32.gguf", "Llama", [{"heads": 2}, {"heads": 1}]),
    ("llama3-f16.gguf", "Llama", [{"heads": 2}]),
    ("qwen3-f16.gguf", "Qwen3", [{"heads": 2}]),
    ("qwen3-f16.gguf", "Qwen3", [{"heads": 2}, {"layers": 1}]),
    ("llama-f32.gguf", "Llama", [{"sparsity": 0.5}]),
    ("qwen2-f16.gguf", "Qwen2", [{"sparsity": 0.25}]),
    ("llama-q8_0.gguf", "Llama", [{"sparsity": 0.5}]),
    ("llama-q4_0.gguf", "Llama", [{"sparsity": 0.5}]),
]
PARTS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
# Prompts whose logits are compared.
ANSWERED = [0, 4]


def read(file, family):
    reader = gguf.GGUFReader(HOME / "generators" / file)
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist()))) for tensor in reader.tensors}
    sizes = {
        "vocab_size": tensors["token_embd.weight"].shape[0], "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": "output.weight" not in tensors, "rope_parameters": {"rope_type": "default", "rope_theta": BASE},
        "attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }
    if "rope_freqs.weight" in tensors:
        sizes["rope_parameters"] = LLAMA3
    if family == "Qwen3":
        sizes["head_dim"] = 32
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes)).eval().double()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            stored = tensors[file_name(name)]
            heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(name.split(".")[-2], 0) if family == "Llama" else 0
            if heads:
                # The halves of each head side by side again.
                stored = stored.reshape(heads, stored.shape[0] // heads // 2, 2, *stored.shape[1:]).swapaxes(1, 2).reshape(stored.shape)
            tensor.copy_(torch.from_numpy(stored.astype("float64")).reshape(tensor.shape))
    others = sum(int((tensors[name] == 0).sum()) for name in tensors if name == "rope_freqs.weight")
    return model, others


class Pruned:
    def __init__(self, model, prompts):
        self.model, self.prompts = model, prompts
        self.whole = list(model.model.layers)
        # Of each layer, its heads by group.
        group = HEADS // KEY_HEADS
        self.heads = {id(layer): [[key * group + place for place in range(group)] for key in range(KEY_HEADS)] for layer in self.whole}

    def logits(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids]), use_cache=False).logits[0]

    def layers(self, count):
        before, whole, gone = [self.logits(ids).log_softmax(-1) for ids in self.prompts], list(self.model.model.layers), []

        def divergence(removed):
            self.keep([layer for place, layer in enumerate(whole) if place not in removed])
            found = [self.logits(ids).log_softmax(-1) for ids in self.prompts]
            return torch.cat([(one.exp() * (one - other)).sum(-1) for one, other in zip(before, found)]).mean().item()

        for _ in range(count):
            gone.append(min(set(range(len(whole))) - set(gone), key=lambda place: (divergence([*gone, place]), -place)))
        divergence(gone)
        return sorted(gone)

    def keep(self, layers):
        self.model.model.layers = torch.nn.ModuleList(layers)

    def heads_of(self, count):
        removed, going = [], []
        for layer in self.model.model.layers:
            dense, gathered = layer.self_attn.o_proj, []
            hook = dense.register_forward_pre_hook(lambda _, inputs: gathered.append(inputs[0][0]))
            for ids in self.prompts:
                self.logits(ids)
            hook.remove()
            rows, width = torch.cat(gathered), dense.in_features // HEADS
            part = lambda head: slice(head * width, (head + 1) * width)
            squares = lambda head: (rows[:, part(head)] @ dense.weight[:, part(head)].T).norm(dim=1).pow(2).mean().item()
            groups = self.heads[id(layer)]
            # As they are counted in the file that is cut, heads that went before left out.
            numbers = {head: number for number, head in enumerate(head for group in groups for head in group)}
            if count % len(groups) == 0 and count // len(groups) < len(groups[0]):
                gone = [head for group in groups for head in sorted(group, key=squares)[: count // len(groups)]]
            else:
                whole = sorted(groups, key=lambda group: sum(squares(head) for head in group))[: count // len(groups[0])]
                gone = [head for group in whole for head in group]
            removed.append(sorted(numbers[head] for head in gone))
            left = [[head for head in group if head not in gone] for group in groups]
            self.heads[id(layer)] = [group for group in left if group]
            going.append((dense.weight, [part(head) for head in gone]))
        # All layers are judged before any lacks something.
        with torch.no_grad():
            for weight, parts in going:
                for columns in parts:
                    weight[:, columns] = 0
        return removed

    def sparse(self, share):
        for layer in self.model.model.layers:
            for part in PARTS:
                weight = layer.get_submodule(part).weight
                order = weight.detach().abs().flatten().sort(stable=True).indices
                with torch.no_grad():
                    weight.view(-1)[order[: int(share * weight.numel())]] = 0
        return sum(int((tensor == 0).sum()) for tensor in self.model.parameters())


def main() -> None:
    answers = json.loads((HOME / "generators/answers.json").read_text(encoding="utf-8"))
    given = {model["file"]: model["prompts"] for model in answers["models"]}
    written = []
    for file, family, cuts, *otherwise in CASES:
        order, faint = otherwise or (list(range(LAYERS)), [])
        prompts = [prompt for prompt in given[file] if prompt["tokens"]]
        model, others = read(file, family)
        model.model.layers = torch.nn.ModuleList(copy.deepcopy(model.model.layers[layer]) for layer in order)
        model.config.num_hidden_layers = len(order)
        model.config.layer_types = ["full_attention"] * len(order)
        with torch.no_grad():
            for layer in faint:
                model.model.layers[layer].self_attn.o_proj.weight /= 16
                model.model.layers[layer].mlp.down_proj.weight /= 16
        pruned = Pruned(model, [prompt["tokens"] for prompt in prompts])
        removed = []
        for cut in cuts:
            if "layers" in cut:
                removed.append(pruned.layers(cut["layers"]))
            elif "heads" in cut:
                removed.append(pruned.heads_of(cut["heads"]))
            else:
                removed.append(pruned.sparse(cut["sparsity"]) + others)
        print(file, cuts, removed)
        compared = [prompt for place, prompt in enumerate(given[file]) if place in ANSWERED]
        logits = [{"text": prompt["text"], "logits": [float(f"{number:.7g}") for number in pruned.logits(prompt["tokens"])[-1].tolist()]} for prompt in compared]
        written.append({"file": file, "order": order, "faint": faint, "cuts": cuts, "removed": removed, "texts": [prompt["text"] for prompt in prompts], "cases": logits})
    versions = {library.__name__: library.__version__ for library in (transformers, torch)}
    made = {"by": "crates/inference/tests/goldens/make_pruned_generators.py", "how": "float64, each prompt alone", "versions": versions}
    text = f'{{"made": {json.dumps(made)},\n"models": [\n' + ",\n".join(json.dumps(model) for model in written) + "\n]}\n"
    (HOME / "pruned_generators.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
