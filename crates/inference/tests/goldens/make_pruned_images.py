"""Makes pruned_images.json: what is removed from tiny classifiers of images, and what transformers answers without it.

    python3 -m venv venv && venv/bin/pip install torch transformers "pillow<13"
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_pruned_images.py

Networks and images are those of make_images.py. What goes is found here by other means than in augur, and taken out of the original's
files: a head's worth is what the output's matrix makes of it alone, and removed heads are zeros there; a layer's is what the rest of
the layers answers, in files without it. All in float64, each image alone.
"""

import json
import pathlib
import tempfile

import safetensors.torch
import torch
import transformers
from make_images import LABELS, MODELS, SEEN, images, numbers, rounded
from transformers.image_utils import load_image

LAYER = "vit.encoder.layer."
MATRICES = [*(f"attention.attention.{part}" for part in ("query", "key", "value")), "attention.output.dense", "intermediate.dense", "output.dense"]
# Model: what its configuration says otherwise, and what is removed.
CASES = [
    ("vit", {"num_hidden_layers": 3}, {"heads": 1}),
    ("vit", {"num_hidden_layers": 3}, {"heads": 2}),
    ("vit", {"num_hidden_layers": 4}, {"layers": 2}),
    ("vit, not square", {}, {"heads": 1}),
    ("vit, several", {"num_hidden_layers": 3}, {"layers": 1}),
    ("vit", {}, {"sparsity": 0.5}),
    ("resnet", {}, {"sparsity": 0.25}),
    ("resnet, basic", {}, {"sparsity": 0.5}),
    ("mobilenet_v2", {}, {"sparsity": 0.1}),
]
ANSWERED = ["rgb", "tall", "grey"]


class Tiny:
    """A model's files in memory, and the network that transformers makes of them."""

    def __init__(self, name, otherwise):
        self.classes, sizes, processors, told = MODELS[name]
        self.sizes = sizes | otherwise
        self.processor = getattr(transformers, f"{processors}ImageProcessorPil")(**told)
        self.kind = getattr(transformers, f"{self.classes}ForImageClassification")
        with tempfile.TemporaryDirectory() as home:
            self.kind(self.config()).save_pretrained(home)
            self.processor.save_pretrained(home)
            stored = safetensors.torch.load_file(pathlib.Path(home, "model.safetensors"))
            self.head, self.preprocessor = (json.loads(pathlib.Path(home, file).read_text()) for file in ("config.json", "preprocessor_config.json"))
        self.shapes = {key: list(tensor.shape) for key, tensor in stored.items() if tensor.is_floating_point()}
        self.stored = {key: numbers(key, self.shapes[key]) if key in self.shapes else tensor for key, tensor in stored.items()}

    def config(self, **otherwise):
        return getattr(transformers, f"{self.classes}Config")(**(self.sizes | otherwise), **LABELS)

    def network(self, stored, **otherwise):
        with tempfile.TemporaryDirectory() as home:
            self.config(**otherwise).save_pretrained(home)
            safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in stored.items()}, pathlib.Path(home, "model.safetensors"), {"format": "pt"})
            return self.kind.from_pretrained(home, attn_implementation="eager" if self.classes == "ViT" else None).eval().double()

    def seen(self, files):
        each = [self.processor(load_image(files[image]), return_tensors="pt")["pixel_values"] for image in SEEN]
        return [pixels.double() for pixels in each]


def logits(network, seen):
    with torch.no_grad():
        return [network(pixels).logits[0] for pixels in seen]


def least_heads(tiny, seen, count):
    network, chosen = tiny.network(tiny.stored), []
    heads = tiny.sizes["num_attention_heads"]
    for layer in range(tiny.sizes["num_hidden_layers"]):
        weight = tiny.stored[f"{LAYER}{layer}.attention.output.dense.weight"].double()
        found = [part for part in network.modules() if isinstance(part, torch.nn.Linear) and part.weight.shape == weight.shape and torch.equal(part.weight, weight)]
        assert len(found) == 1
        gathered = []
        hook = found[0].register_forward_pre_hook(lambda _, inputs: gathered.append(inputs[0][0]))
        logits(network, seen)
        hook.remove()
        rows, width = torch.cat(gathered), weight.shape[1] // heads
        part = lambda head: slice(head * width, (head + 1) * width)
        worth = [(rows[:, part(head)] @ weight[:, part(head)].T).norm(dim=1).pow(2).mean().sqrt().item() for head in range(heads)]
        chosen.append(sorted(sorted(range(heads), key=lambda head: worth[head])[:count]))
    return chosen


def without_layers(tiny, removed):
    left = [layer for layer in range(tiny.sizes["num_hidden_layers"]) if layer not in removed]
    stored = {key: tensor for key, tensor in tiny.stored.items() if not key.startswith(LAYER)}
    for place, layer in enumerate(left):
        begin = f"{LAYER}{layer}."
        stored |= {f"{LAYER}{place}.{key.removeprefix(begin)}": tensor for key, tensor in tiny.stored.items() if key.startswith(begin)}
    return tiny.network(stored, num_hidden_layers=len(left))


def least_layers(tiny, seen, count):
    before, gone = logits(tiny.network(tiny.stored), seen), []

    def distance(removed):
        found = logits(without_layers(tiny, removed), seen)
        return sum((one - other).pow(2).mean().item() for one, other in zip(before, found))

    for _ in range(count):
        gone.append(min(set(range(tiny.sizes["num_hidden_layers"])) - set(gone), key=lambda layer: distance([*gone, layer])))
    return sorted(gone)


def is_pruned(key):
    """Matrices of layers; filters of blocks that see all channels."""
    part = key.removesuffix(".weight")
    if key.startswith(LAYER):
        return part.split(".", 4)[4] in MATRICES and key.endswith(".weight")
    return key.startswith("resnet.encoder.") and key.endswith(".convolution.weight") or key.startswith("mobilenet_v2.layer.") and key.endswith("_1x1.convolution.weight")


def main() -> None:
    files, written = images(), []
    for name, otherwise, cut in CASES:
        tiny = Tiny(name, otherwise)
        seen = tiny.seen(files)
        if "heads" in cut:
            removed = least_heads(tiny, seen, cut["heads"])
            stored, heads = dict(tiny.stored), tiny.sizes["num_attention_heads"]
            for layer, gone in enumerate(removed):
                key = f"{LAYER}{layer}.attention.output.dense.weight"
                stored[key] = stored[key].clone()
                width = stored[key].shape[1] // heads
                for head in gone:
                    stored[key][:, head * width : (head + 1) * width] = 0
            network = tiny.network(stored)
        elif "layers" in cut:
            removed = least_layers(tiny, seen, cut["layers"])
            network = without_layers(tiny, removed)
        else:
            stored, removed = {}, 0
            for key, tensor in tiny.stored.items():
                stored[key] = tensor
                if is_pruned(key):
                    stored[key] = tensor.clone()
                    order = tensor.abs().flatten().sort(stable=True).indices
                    stored[key].view(-1)[order[: int(cut["sparsity"] * tensor.numel())]] = 0
                if key in tiny.shapes:
                    removed += int((stored[key] == 0).sum())
            network = tiny.network(stored)
        pipe = transformers.pipeline("image-classification", model=network, image_processor=tiny.processor, device="cpu")
        cases = [{"image": image, "asked": {"top_k": 7}, "output": rounded(pipe(files[image], top_k=7))} for image in ANSWERED]
        print(name, cut, removed, [round(part["score"], 4) for part in cases[0]["output"]])
        written.append({"name": name, "cut": cut, "removed": removed, "config": tiny.head, "preprocessor": tiny.preprocessor, "shapes": tiny.shapes, "cases": cases})
    made = {"by": "crates/inference/tests/goldens/make_pruned_images.py", "how": "float64, each image alone", "versions": {library.__name__: library.__version__ for library in (transformers, torch)}}
    text = f'{{"made": {json.dumps(made)},\n"seen": {json.dumps(SEEN)},\n"models": [\n' + ",\n".join(json.dumps(model) for model in written) + "\n]}\n"
    pathlib.Path(__file__).with_name("pruned_images.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
