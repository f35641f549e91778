"""Makes families/<family>.json: what transformers computes with a tiny network of each family of text encoders, for each task.

    python3 -m venv venv && venv/bin/pip install torch transformers
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_families.py [FAMILY …]

Each file has a tokenizer, trained on the texts below, and models: their configuration, the shapes of their tensors, and inputs
with what transformers answers: its pipelines, and for embeddings the mean of the last hidden states, scaled to length 1. Everything is computed in
float64, each input alone, on the CPU. Number i of the tensor named n is hash(n, i) / 2**32 / 2 - 1/4 rounded to float32, plus 1
for the weights of layer norms, so that the test can build the same network; `numbers` below is that hash. Every text is our own.
"""

import json
import pathlib
import sys

import numpy
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = {
    "empty": "",
    "one space": " ",
    "one word": "lighthouse",
    "capitals": "LIGHTHOUSE",
    "statement": "A lighthouse keeper counts the ships that pass before dawn.",
    "question": "How is the weather in the mountains today?",
    "names": "Anna Meier of Hamburg sells bread to Peter and to the harbour master of Lisbon.",
    "punctuation": "state-of-the-art, e.g. 3.14 (or so)... isn't it?!",
    "german": "Die Straße führt über die große Brücke.",
    "accents, decomposed": "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "mixed scripts": "The 猫 said «привет» at 5時.",
    "emoji": "Ship it 🚀, then go home 👩‍👩‍👧‍👦 and sleep 😴.",
    "special tokens as text": "[CLS] this [MASK] is [SEP] not [PAD] special [UNK]",
    "padding as text": "<s> one <pad> two <pad><pad> three </s> four <mask> five <unk>",
    "white space": "\tone\n\ntwo\u00a0 three   ",
    "longer than is read": " ".join(f"On day {n} the harbour master wrote down {n * 7} boats." for n in range(12)),
}
QUERY = "Who counts the ships?"
POSITIONS = 64
# So many that distances pass the last that MPNet's bias tells apart, and the 128 that it is said to tell apart.
BIASED_POSITIONS = 200
ENTITIES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]


def numbers(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """FNV-1a of the name, a multiple of 2**32 over the golden ratio for each index, and MurmurHash3's finish."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 % 2**32
    count = int(numpy.prod(shape))
    mixed = (seed + numpy.arange(count, dtype=numpy.uint64) * 0x9E3779B9) % 2**32
    for shift, factor in [(16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)]:
        mixed = (mixed ^ (mixed >> numpy.uint64(shift))) * numpy.uint64(factor) % 2**32
    values = mixed.astype(numpy.float64) / 2**33 - 0.25
    if "norm" in name.lower() and name.endswith("weight"):
        values += 1
    return torch.tensor(values.astype(numpy.float32).reshape(shape))


def word_pieces(lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=240, limit_alphabet=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(list(TEXTS.values()), trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def marked_word_pieces() -> tokenizers.Tokenizer:
    """MPNet's: pieces as BERT's, between RoBERTa's marks."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
    trainer = trainers.WordPieceTrainer(vocab_size=240, limit_alphabet=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(list(TEXTS.values()), trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def byte_pairs() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(TEXTS.values()), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def sentence_pieces(size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    # Not the words of special tokens, which would become words of their own; and some characters remain unknown.
    left_out = ("mixed scripts", "emoji", "padding as text")
    texts = [text for name, text in TEXTS.items() if name not in left_out]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# Large, so that a wrong place for it would show.
NORM = {"layer_norm_eps": 0.01}
PAIRED = ["input_ids", "token_type_ids", "attention_mask"]
PLAIN = ["input_ids", "attention_mask"]
BRACKETS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ANGLES = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
# RoBERTa's positions begin behind the padding token's.
ROBERTA = {**SIZES, **NORM, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1}
# Family: what its classes are called, its sizes, its tokenizer, that one's special tokens, and what it tells the model.
FAMILIES = {
    "bert": ("Bert", {**SIZES, **NORM, "max_position_embeddings": POSITIONS, "hidden_act": "gelu_new"}, word_pieces(True), BRACKETS, PAIRED),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": POSITIONS, "activation": "relu"},
        word_pieces(False),
        BRACKETS,
        PLAIN,
    ),
    "electra": ("Electra", {**SIZES, **NORM, "max_position_embeddings": POSITIONS, "embedding_size": 24}, word_pieces(True), BRACKETS, PAIRED),
    "roberta": ("Roberta", ROBERTA, byte_pairs(), ANGLES, PLAIN),
    "xlm-roberta": ("XLMRoberta", ROBERTA, sentence_pieces(200), ANGLES, PLAIN),
    "camembert": ("Camembert", {**ROBERTA, "hidden_act": "silu"}, sentence_pieces(160), ANGLES, PLAIN),
    "mpnet": (
        "MPNet",
        {**SIZES, **NORM, "max_position_embeddings": BIASED_POSITIONS + 2, "relative_attention_num_buckets": 32},
        marked_word_pieces(),
        {**ANGLES, "unk_token": "[UNK]"},
        PLAIN,
    ),
}


def named(labels: list[str]) -> dict:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: id for id, label in enumerate(labels)}}


def rounded(value):
    if isinstance(value, float | numpy.floating):
        return float(f"{float(value):.9g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return int(value) if isinstance(value, numpy.integer) else value


def embed(model, tokenizer):
    def answer(text):
        inputs = tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(0)
            return {"embedding": torch.nn.functional.normalize(mean, dim=0).tolist()}

    long = TEXTS["longer than is read"]
    twice = [f"{long} {long}"] if tokenizer.model_max_length > POSITIONS else []
    return answer, [{"text": text} for text in [*TEXTS.values(), *twice]]


def classify(model, tokenizer):
    return classify_all(model, tokenizer, TEXTS.values())


def classify_few(model, tokenizer, function=None):
    return classify_all(model, tokenizer, [TEXTS["statement"], TEXTS["emoji"]], function)


def classify_all(model, tokenizer, texts, function=None):
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def answer(text, text_pair=None, top_k=None, function_to_apply=function):
        inputs = {"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}
        return pipe(inputs, top_k=top_k, function_to_apply=function_to_apply, truncation=True)

    alone = [{"text": text} for text in texts]
    # The pipeline takes an empty second text for none; ours is a pair all the same.
    pairs = [{"text": QUERY, "text_pair": text} for text in texts if text]
    long = TEXTS["longer than is read"]
    both = [{"text": long, "text_pair": text} for text in (QUERY, long)]
    one = TEXTS["statement"]
    asked = [{"text": one, "top_k": 2}, *({"text": one, "function_to_apply": name} for name in ("softmax", "sigmoid", "none"))]
    return answer, [*alone, *pairs, *both, *asked]


def tag(model, tokenizer):
    pipe = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    answer = lambda text, aggregation_strategy="simple": pipe(text, aggregation_strategy=aggregation_strategy)
    inputs = [{"text": text} for text in TEXTS.values()]
    each = ["names", "punctuation", "mixed scripts", "padding as text"]
    return answer, [*inputs, *({"text": TEXTS[name], "aggregation_strategy": "none"} for name in each)]


def zero_shot(model, tokenizer):
    # The pipeline takes no empty text.
    return zero_shot_of(model, tokenizer, [text for text in TEXTS.values() if text])


def zero_shot_few(model, tokenizer):
    return zero_shot_of(model, tokenizer, [TEXTS["statement"]])


def zero_shot_of(model, tokenizer, texts):
    pipe = transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")

    def answer(text, **asked):
        found = pipe(text, **asked)
        return {"labels": found["labels"], "scores": found["scores"]}

    labels = ["sea", "mountains", "the price of bread in Lisbon"]
    inputs = [{"text": text, "candidate_labels": labels} for text in texts]
    one = TEXTS["statement"]
    asked = [
        {"text": one, "candidate_labels": labels, "multi_label": True},
        {"text": one, "candidate_labels": labels[:1]},
        {"text": one, "candidate_labels": labels, "hypothesis_template": "It is about {}, isn't it?"},
    ]
    return answer, [*inputs, *asked]


TRANSFORMER, POOLING, NORMALIZE = (f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize"))
SENTENCE_FILES = {
    "modules.json": [{"type": TRANSFORMER, "path": ""}, {"type": POOLING, "path": "1_Pooling"}, {"type": NORMALIZE, "path": "2_Normalize"}],
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
}
RERANKER = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0.0"}}
SEVERAL = {**named(["joy", "fear", "anger"]), "problem_type": "multi_label_classification"}
# Model: its class, its labels, the task when it is not the class's own, and how it is asked.
MODELS = {
    "embedder": ("Model", {}, None, embed),
    "classifier": ("ForSequenceClassification", named(["bad", "fair", "good"]), None, classify),
    "several": ("ForSequenceClassification", SEVERAL, None, classify_few),
    "scorer": ("ForSequenceClassification", named(["LABEL_0"]), None, classify_few),
    "reranker": ("ForSequenceClassification", {**named(["LABEL_0"]), **RERANKER}, None, lambda *pair: classify_few(*pair, "none")),
    "regression": ("ForSequenceClassification", {**named(["stars"]), "problem_type": "regression"}, None, classify_few),
    "tagger": ("ForTokenClassification", named(ENTITIES), None, tag),
    "zero-shot": ("ForSequenceClassification", named(["contradiction", "neutral", "entailment"]), "zero-shot-classification", zero_shot),
    "zero-shot-first": ("ForSequenceClassification", named(["ENTAILMENT", "other"]), "zero-shot-classification", zero_shot_few),
}


def main() -> None:
    versions = {library.__name__: library.__version__ for library in (transformers, tokenizers, torch)}
    made = {"by": "crates/inference/tests/goldens/make_families.py", "how": "float64, each input alone", "versions": versions}
    (home := pathlib.Path(__file__).with_name("families")).mkdir(exist_ok=True)
    for family in sys.argv[1:] or FAMILIES:
        classes, sizes, trained, special, names = FAMILIES[family]
        length = BIASED_POSITIONS if family == "mpnet" else POSITIONS
        told = {**special, "model_input_names": names, "model_max_length": length}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=trained, **told)
        found = []
        for name, (kind, labels, task, ask) in MODELS.items():
            config = getattr(transformers, f"{classes}Config")(
                **sizes, **labels, vocab_size=trained.get_vocab_size(), attn_implementation="eager"
            )
            model = getattr(transformers, f"{classes}{kind}")(config).eval()
            with torch.no_grad():
                for tensor_name, tensor in model.named_parameters():
                    tensor.copy_(numbers(tensor_name, tuple(tensor.shape)))
            answer, inputs = ask(model.double(), tokenizer)
            shapes = {tensor_name: list(tensor.shape) for tensor_name, tensor in model.named_parameters()}
            written = {**sizes, **labels, "vocab_size": trained.get_vocab_size(), "model_type": family}
            cases = [{"input": given, "output": rounded(answer(**given))} for given in inputs]
            files = SENTENCE_FILES if kind == "Model" else {}
            head = {"name": name, "task": task, "files": files, "config": {**written, "architectures": [f"{classes}{kind}"]}, "shapes": shapes}
            found.append((head, cases))
        lines = [f'"{key}": {json.dumps(part)}' for key, part in [("made", made), ("tokenizer_config", told)]]
        lines.append(f'"tokenizer": {json.dumps(json.loads(trained.to_str()))}')
        text = []
        for head, cases in found:
            rows = ",\n".join(json.dumps(case) for case in cases)
            text.append(f'{json.dumps(head)[:-1]}, "cases": [\n{rows}\n]}}')
        lines.append('"models": [\n' + ",\n".join(text) + "\n]")
        (home / f"{family}.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
        print(family, sum(len(cases) for _, cases in found), "cases")


if __name__ == "__main__":
    main()
