"""Makes pruned.json: what is removed from tiny networks, and what transformers computes without it.

    python3 -m venv venv && venv/bin/pip install torch transformers
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_pruned.py

The networks are those of make_families.py with four layers, and their tokenizers are in families/<family>.json. Which heads and layers
go is found here by other means than in augur: a head's worth from what the output's matrix makes of it alone, a layer's by leaving it
out of the list of layers. Outputs are those of a model of the size that it had: removed heads are zeros in the output's matrix. All in
float64, each text alone.
"""

import itertools
import json
import pathlib

import torch
import transformers
from make_families import FAMILIES, MODELS, SENTENCE_FILES, TEXTS, numbers, rounded
from tokenizers import Tokenizer

HOME = pathlib.Path(__file__).parent
LAYERS = 4
# Family: its sizes and what the parts of a layer are called.
LAYER = {"attention.output.dense": "attention.output.dense", "matrices": ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"]}
PARTS = {
    "bert": LAYER,
    "roberta": LAYER,
    "electra": LAYER,
    "distilbert": {"attention.output.dense": "attention.out_lin", "matrices": [*(f"attention.{part}_lin" for part in "qkv"), "attention.out_lin", "ffn.lin1", "ffn.lin2"]},
    "mpnet": {"attention.output.dense": "attention.attn.o", "matrices": [*(f"attention.attn.{part}" for part in "qkvo"), "intermediate.dense", "output.dense"]},
}
CASES = [
    ("bert", "embedder", {"heads": 1}),
    ("bert", "embedder", {"layers": 2}),
    ("bert", "embedder", {"sparsity": 0.5}),
    ("bert", "classifier", {"heads": 3}),
    ("distilbert", "tagger", {"heads": 2}),
    ("distilbert", "classifier", {"layers": 1}),
    ("roberta", "classifier", {"layers": 3}),
    ("electra", "embedder", {"heads": 2}),
    ("electra", "classifier", {"sparsity": 0.25}),
    ("mpnet", "embedder", {"heads": 2}),
    ("mpnet", "classifier", {"layers": 2}),
    ("mpnet", "tagger", {"sparsity": 0.5}),
]
KEPT = ["statement", "names", "empty"]


def layers_of(model) -> torch.nn.ModuleList:
    body = model.base_model
    return body.transformer.layer if hasattr(body, "transformer") else body.encoder.layer


def outputs(model, name, tokens) -> torch.Tensor:
    """What is compared: an embedding, logits of a text, or logits of each of its tokens."""
    with torch.no_grad():
        found = model(**tokens)
    return found.last_hidden_state[0].mean(0) if name == "embedder" else found.logits[0].flatten()


def least_heads(model, part, texts, count) -> list[list[int]]:
    chosen = []
    for layer in layers_of(model):
        dense, seen = layer.get_submodule(part), []
        hook = dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
        with torch.no_grad():
            for tokens in texts:
                model(**tokens)
        hook.remove()
        heads = model.config.num_attention_heads
        gathered, width = torch.cat(seen), dense.in_features // heads
        alone = lambda head: gathered[:, head * width : (head + 1) * width] @ dense.weight[:, head * width : (head + 1) * width].T
        worth = [alone(head).norm(dim=1).pow(2).mean().sqrt().item() for head in range(heads)]
        chosen.append(sorted(sorted(range(heads), key=lambda head: worth[head])[:count]))
    return chosen


def least_layers(model, name, texts, count) -> list[int]:
    layers = layers_of(model)
    whole = list(layers)
    before = [outputs(model, name, tokens) for tokens in texts]
    gone: list[int] = []

    def distance(without) -> float:
        left = [layer for place, layer in enumerate(whole) if place not in without]
        layers._modules = {str(place): layer for place, layer in enumerate(left)}
        found = [outputs(model, name, tokens) for tokens in texts]
        if name == "embedder":
            each = [1 - torch.nn.functional.cosine_similarity(one, other, dim=0) for one, other in zip(before, found)]
        else:
            each = [(one - other).pow(2).mean() for one, other in zip(before, found)]
        return sum(each).item() / len(each)

    for _ in range(count):
        gone.append(min(set(range(len(whole))) - set(gone), key=lambda place: distance([*gone, place])))
    distance(gone)
    return sorted(gone)


def make_sparse(model, parts, share) -> int:
    for layer, part in itertools.product(layers_of(model), parts):
        weight = layer.get_submodule(part).weight
        order = weight.detach().abs().flatten().sort(stable=True).indices
        with torch.no_grad():
            weight.view(-1)[order[: int(share * weight.numel())]] = 0
    return sum(int((tensor == 0).sum()) for tensor in model.parameters())


def main() -> None:
    written = []
    for family, name, cut in CASES:
        golden = json.loads((HOME / f"families/{family}.json").read_text(encoding="utf-8"))
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(golden["tokenizer"])), **golden["tokenizer_config"]
        )
        classes, sizes = FAMILIES[family][:2]
        kind, labels, _, ask = MODELS[name]
        sizes = {**sizes, ("n_layers" if "n_layers" in sizes else "num_hidden_layers"): LAYERS}
        size = tokenizer.vocab_size
        config = getattr(transformers, f"{classes}Config")(**sizes, **labels, vocab_size=size, attn_implementation="eager")
        model = getattr(transformers, f"{classes}{kind}")(config).eval()
        with torch.no_grad():
            for tensor_name, tensor in model.named_parameters():
                tensor.copy_(numbers(tensor_name, tuple(tensor.shape)))
        shapes = {tensor_name: list(tensor.shape) for tensor_name, tensor in model.named_parameters()}
        model = model.double()
        texts = [tokenizer(text, return_tensors="pt", truncation=True) for text in TEXTS.values()]
        parts = PARTS[family]
        if "heads" in cut:
            removed = least_heads(model, parts["attention.output.dense"], texts, cut["heads"])
            for layer, heads in zip(layers_of(model), removed):
                weight = layer.get_submodule(parts["attention.output.dense"]).weight
                width = weight.shape[1] // config.num_attention_heads
                with torch.no_grad():
                    for head in heads:
                        weight[:, head * width : (head + 1) * width] = 0
        elif "layers" in cut:
            removed = least_layers(model, name, texts, cut["layers"])
        else:
            removed = make_sparse(model, parts["matrices"], cut["sparsity"])
        answer, _ = ask(model, tokenizer)
        cases = [{"input": {"text": TEXTS[text]}, "output": rounded(answer(TEXTS[text]))} for text in KEPT]
        head = {**sizes, **labels, "vocab_size": size, "model_type": family, "architectures": [f"{classes}{kind}"]}
        files = SENTENCE_FILES if kind == "Model" else {}
        tiny = {"family": family, "name": name, "task": None, "files": files, "config": head, "shapes": shapes, "cut": cut, "removed": removed}
        print(family, name, cut, removed)
        written.append(f"{json.dumps(tiny)[:-1]}, \"cases\": {json.dumps(cases)}}}")
    made = {"by": "crates/inference/tests/goldens/make_pruned.py", "how": "float64, each text alone", "versions": {library.__name__: library.__version__ for library in (transformers, torch)}}
    text = f'{{"made": {json.dumps(made)},\n"texts": {json.dumps(list(TEXTS.values()))},\n"models": [\n' + ",\n".join(written) + "\n]}\n"
    (HOME / "pruned.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
