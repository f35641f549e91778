"""Makes tiny-bert.json: what transformers' BertModel computes with a tiny network, for every activation and pooling.

    python3 -m venv venv && venv/bin/pip install torch transformers
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_tiny.py

Number i of the tensor named n is sin(0.7 i + length of n) / 2, so that the test can build the same network.
"""

import json
import pathlib

import torch
import transformers

CONFIG = {
    "model_type": "bert",
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": 11,
    "max_position_embeddings": 9,
    "type_vocab_size": 2,
    # Large, so that a wrong place for it would show.
    "layer_norm_eps": 0.01,
}
TEXTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 0, 1, 2], [3, 3]]


def main() -> None:
    cases, shapes = [], {}
    for activation in ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"]:
        config = transformers.BertConfig(**CONFIG, hidden_act=activation, attn_implementation="eager")
        model = transformers.BertModel(config, add_pooling_layer=False).eval().double()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                shapes[name] = list(tensor.shape)
                numbers = torch.arange(tensor.numel(), dtype=torch.float64)
                tensor.copy_((torch.sin(0.7 * numbers + len(name)) / 2).reshape(tensor.shape))
            states = [model(torch.tensor([text])).last_hidden_state[0] for text in TEXTS]
        rounded = lambda rows: [[float(f"{number:.9g}") for number in row.tolist()] for row in rows]
        cases.append(
            {"hidden_act": activation, "cls": rounded(s[0] for s in states), "mean": rounded(s.mean(0) for s in states)}
        )
    made = {
        "by": "crates/inference/tests/goldens/make_tiny.py",
        "how": "BertModel in float64, eager attention, each text alone",
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
    }
    parts = {"made": made, "config": CONFIG, "shapes": shapes, "texts": TEXTS}
    lines = [f"{json.dumps(name)}: {json.dumps(part)}" for name, part in parts.items()]
    lines.append('"cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]")
    path = pathlib.Path(__file__).with_name("tiny-bert.json")
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
