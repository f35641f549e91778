"""Makes tabular.json: what scikit-learn answers for rows of columns with tiny networks.

    python3 -m venv venv && venv/bin/pip install scikit-learn
    venv/bin/python crates/inference/tests/goldens/make_tabular.py

A StandardScaler and an MLPClassifier with ReLU, all rows at once, in float64. Number i of the tensor named n is
hash(n, i) / 2**32 * 2 - 1, divided by the root of the inputs where n is a layer's weight; of input.offset it is 10 times the hash's,
of input.scale 1.5 plus it; all is rounded to float32. `numbers` below is that hash, and the test builds the same networks.
"""

import json
import pathlib

import numpy
import sklearn
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Columns, outputs of layers between, and labels: none between, some, blocks of sums that are not full, and numbered labels.
NETWORKS = {
    "linear": (["width", "height"], [], ["small", "large", "odd"]),
    "shallow": (["a", "b", "c", "d", "e"], [7], ["no", "maybe", "yes"]),
    "deep": ([f"column {place}" for place in range(37)], [50, 17, 9], [f"label {place}" for place in range(23)]),
    "numbered": (["x", "y", "z"], [48], list(range(12))),
}
ROWS = 9


def numbers(name: str, shape: list[int]) -> numpy.ndarray:
    """From -1 to 1."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 & 0xFFFFFFFF
    mixed = (seed + numpy.arange(numpy.prod(shape), dtype=numpy.uint64) * 0x9E3779B9) & 0xFFFFFFFF
    for shift, factor in [(16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)]:
        mixed = (mixed ^ mixed >> shift) * factor & 0xFFFFFFFF
    return (mixed / 2**32 * 2 - 1).reshape(shape)


def rounded(of: numpy.ndarray) -> numpy.ndarray:
    return of.astype(numpy.float32).astype(numpy.float64)


def network(widths: list[int], labels: list) -> MLPClassifier:
    """Fitted to as many rows as there are labels, for the shape alone; then its numbers are replaced."""
    made = MLPClassifier(hidden_layer_sizes=widths[1:-1], activation="relu", solver="lbfgs", max_iter=1)
    made.fit(numpy.eye(len(labels), widths[0]), range(len(labels)))
    for layer, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        weight = numbers(f"layers.{layer}.weight", [outputs, inputs]) / inputs**0.5
        made.coefs_[layer] = rounded(weight).T
        made.intercepts_[layer] = rounded(numbers(f"layers.{layer}.bias", [outputs]))
    return made


def rows(columns: int) -> numpy.ndarray:
    """Around the offsets, far from them, and one of zeros; all of them are float32's too, so that reading them rounds nothing."""
    made = numbers("rows", [ROWS, columns]) * numpy.array([[8.0, 0.1, 20.0, 1.0, 0.0, 12.0, 50.0, 3.0, 5.0]]).T
    return (made * 64).round() / 64 + 0.0


def main() -> None:
    models = []
    for name, (columns, between, labels) in NETWORKS.items():
        scaler = StandardScaler().fit(numpy.eye(2, len(columns)))
        scaler.mean_ = rounded(numbers("input.offset", [len(columns)]) * 10)
        scaler.scale_ = 1 / rounded(numbers("input.scale", [len(columns)]) + 1.5)
        classifier = network([len(columns), *between, len(labels)], labels)
        given = rows(len(columns))
        answers = make_pipeline(scaler, classifier).predict_proba(given)
        cases = []
        for row, probabilities in zip(given.tolist(), answers):
            said = [float(f"{probability:.9g}") for probability in probabilities]
            cases.append(
                {
                    "input": dict(zip(columns, row)),
                    "output": {
                        "label": labels[int(probabilities.argmax())],
                        "probabilities": dict(zip(labels, said)) if isinstance(labels[0], str) else said,
                    },
                }
            )
        models.append({"name": name, "columns": columns, "between": between, "labels": labels, "cases": cases})
    made = {
        "by": "crates/inference/tests/goldens/make_tabular.py",
        "how": "StandardScaler and MLPClassifier in float64, all rows at once",
        "versions": {"scikit-learn": sklearn.__version__, "numpy": numpy.__version__},
    }
    lines = []
    for model in models:
        cases = ",\n".join(json.dumps(case) for case in model.pop("cases"))
        lines.append(json.dumps(model)[:-1] + ', "cases": [\n' + cases + "\n]}")
    path = pathlib.Path(__file__).with_name("tabular.json")
    path.write_text('{"made": ' + json.dumps(made) + ',\n"models": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
