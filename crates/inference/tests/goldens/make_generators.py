"""Makes generators/: tiny decoders as GGUF files, and what transformers computes with the same weights.

    python3 -m venv venv && venv/bin/pip install torch transformers gguf sentencepiece
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_generators.py

Weights are random numbers of a fixed seed, rounded to what the file holds: the reference computes with the numbers that the file's
blocks stand for, in float64, with its cache of keys and values. Queries and keys of llama are permuted as llama.cpp's converter
does it. Tokenizers are trained on the texts below; the reference's tokens are those of sentencepiece and of tokenizers. Every
text is our own.
"""

import io
import json
import pathlib

import gguf
import numpy
import sentencepiece
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "A lighthouse keeper counts the ships that pass before dawn, and writes them down in a blue book.",
    "How is the weather in the mountains today? It rains; it has rained for 12 days, and it'll rain for 345 more.",
    "The harbour is full of ships: three from Lisbon, two from Bergen, one that nobody knows.",
    "Bread costs 3 coins in spring and 14 in winter. Don't ask why, she's said; ask when.",
    "Im Hafen liegen Schiffe, größer als Häuser, und die Möwen schreien über dem Wasser.",
]
PROMPTS = [
    "The ships",
    "",
    " two  spaces\n\nand lines\n",
    "They've counted 1234567 ships, in 2026!",
    "Möwen über dem Café \U0001f6a2 日本",
    "e\u0301 is e with an accent",
    "one <|end|> two",
    "before" + " the ships pass" * 12,
]
CONVERSATIONS = [
    [{"role": "user", "content": "Who counts the ships? "}],
    [
        {"role": "system", "content": "You keep a lighthouse."},
        {"role": "user", "content": "  Who counts?\n"},
        {"role": "assistant", "content": "I do, before dawn."},
        {"role": "user", "content": "Why?"},
    ],
]
CHAT = """{%- if messages[0]['role'] == 'system' %}
    {%- set rules = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rules = '' %}
    {%- set rest = messages %}
{%- endif %}
{{- bos_token }}
{%- if rules %}{{ '<|end|>rules: ' + rules + '\n' }}{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant take turns') }}
    {%- endif %}
    {%- set content = message.content.strip() %}
    {%- if message.role.startswith('assist') and not loop.last %}
{{ '<|end|>' ~ message.role ~ ': ' ~ content ~ eos_token }}
    {%- else %}
{{ '<|end|>' + message.role }}: {{ content }}
    {%- endif %}
{% endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt %}{{ '<|end|>assistant: ' }}{% endif %}
"""
STEPS = 3
GREEDY = 16
CONTEXT = 128
LAYERS, WIDTH, HEADS, KEY_HEADS, INNER = 2, 64, 4, 2, 96
BASE = 10000.0
LLAMA3 = {"rope_type": "llama3", "rope_theta": BASE, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
WORDS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


class SentencePieces:
    """A vocabulary with scores, and sentencepiece itself."""

    def __init__(self):
        made = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=made, model_type="bpe", vocab_size=352, byte_fallback=True,
            character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
            control_symbols=["<|end|>"], num_threads=1, minloglevel=2,
        )
        self.reader = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
        self.size = self.reader.vocab_size()

    def tokens(self, text):
        """Special tokens may be written out, and what is after one begins with a space again, as llama.cpp has it."""
        end = self.reader.piece_to_id("<|end|>")
        ids = [self.reader.bos_id()]
        for index, part in enumerate(text.split("<|end|>")):
            ids += ([end] if index else []) + (self.reader.encode(part) if part else [])
        return ids

    def write(self, writer):
        pieces = range(self.size)
        kinds = [
            UNKNOWN if self.reader.is_unknown(id) else CONTROL if self.reader.is_control(id) else BYTE if self.reader.is_byte(id) else NORMAL
            for id in pieces
        ]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([self.reader.id_to_piece(id) for id in pieces])
        writer.add_token_scores([self.reader.get_score(id) for id in pieces])
        writer.add_token_types(kinds)
        writer.add_bos_token_id(self.reader.bos_id())
        writer.add_eos_token_id(self.reader.eos_id())
        writer.add_unk_token_id(self.reader.unk_id())


class BytePairs:
    """A vocabulary with merges, and tokenizers' own reader of it."""

    def __init__(self, words, begins, ends):
        self.words, self.begins, self.ends = words, begins, ends
        reader = Tokenizer(models.BPE(ignore_merges=words == "llama-bpe"))
        if words == "qwen2":
            reader.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(WORDS[words]), behavior="isolated")
        reader.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        reader.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        reader.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=348, initial_alphabet=alphabet, show_progress=False))
        specials = [*([begins] if begins else []), ends, "<|end|>"]
        reader.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
        self.reader, self.size = reader, reader.get_vocab_size()
        self.specials = specials

    def tokens(self, text):
        ids = self.reader.encode(text, add_special_tokens=False).ids
        return [*([self.reader.token_to_id(self.begins)] if self.begins else []), *ids]

    def write(self, writer):
        tokens = [self.reader.id_to_token(id) for id in range(self.size)]
        merges = json.loads(self.reader.to_str())["model"]["merges"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.words)
        writer.add_token_list(tokens)
        writer.add_token_types([CONTROL if token in self.specials else NORMAL for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in merges])
        if self.begins:
            writer.add_bos_token_id(self.reader.token_to_id(self.begins))
        else:
            writer.add_add_bos_token(False)
        writer.add_eos_token_id(self.reader.token_to_id(self.ends))
        writer.add_chat_template(CHAT)

    def conversation(self, messages):
        names = {"eos_token": self.ends, **({"bos_token": self.begins} if self.begins else {})}
        reader = transformers.PreTrainedTokenizerFast(tokenizer_object=self.reader, chat_template=CHAT, **names)
        given = {"add_generation_prompt": True, **({} if self.begins else {"bos_token": ""})}
        text = reader.apply_chat_template(messages, tokenize=False, **given)
        return {"messages": messages, "text": text, "tokens": self.reader.encode(text, add_special_tokens=False).ids}


def permuted(weight, heads):
    """Rows as llama.cpp wants them: the halves of each head interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def rope_factors():
    width = WIDTH // HEADS
    factors = []
    for pair in range(width // 2):
        length = 2 * numpy.pi * BASE ** (2 * pair / width)
        old, factor, low, high = (LLAMA3[key] for key in ("original_max_position_embeddings", "factor", "low_freq_factor", "high_freq_factor"))
        smooth = (old / length - low) / (high - low)
        factors.append(1.0 if length < old / high else factor if length > old / low else 1 / ((1 - smooth) / factor + smooth))
    return numpy.array(factors, dtype=numpy.float32)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def file_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def make(home, name, family, kind, tokenizer, special=()):
    sizes = {
        "vocab_size": tokenizer.size, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": "tied" in special, "rope_parameters": {"rope_type": "default", "rope_theta": BASE},
        "attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }
    if "rope factors" in special:
        sizes["rope_parameters"] = LLAMA3
    if family == "Qwen3":
        sizes["head_dim"] = 32
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes)).eval().double()
    writer = gguf.GGUFWriter(home / f"{name}.gguf", family.lower())
    writer.add_name(f"tiny {family}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(BASE)
    if family == "Llama":
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_vocab_size(tokenizer.size)
    if family == "Qwen3":
        writer.add_key_length(32)
        writer.add_value_length(32)
    tokenizer.write(writer)
    random = numpy.random.default_rng(20)
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            shape = tuple(tensor.shape)
            numbers = (random.standard_normal(shape) * (0.1 if len(shape) > 1 else 0.2) + ("norm" in tensor_name)).astype(numpy.float32)
            heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(tensor_name.split(".")[-2], 0) if family == "Llama" else 0
            stored = kind if len(shape) > 1 else Kind.F32
            # Rows keep their blocks when they are permuted.
            blocks = gguf.quantize(numbers, stored)
            tensor.copy_(torch.from_numpy(gguf.dequantize(blocks, stored).astype(numpy.float64)).reshape(shape))
            writer.add_tensor(file_name(tensor_name), permuted(blocks, heads) if heads else blocks, raw_dtype=stored)
    if "rope factors" in special:
        writer.add_tensor("rope_freqs.weight", rope_factors())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    talks = [tokenizer.conversation(messages) for messages in CONVERSATIONS] if isinstance(tokenizer, BytePairs) else []
    return {"file": f"{name}.gguf", "conversations": talks, "prompts": [answer(model, tokenizer, text) for text in PROMPTS]}


def answer(model, tokenizer, text):
    """The prompt's tokens, the logits after it and after each of some more, and the likeliest tokens one after the other."""
    ids = tokenizer.tokens(text)
    if not ids:
        return {"text": text, "tokens": [], "logits": [], "greedy": [], "leads": []}
    logits, greedy, leads = [], [], []
    with torch.no_grad():
        given, cache = torch.tensor([ids]), None
        for step in range(GREEDY):
            found = model(given, cache=cache, use_cache=True)
            cache, last = found.cache, found.logits[0, -1]
            best = torch.topk(last, 2)
            greedy.append(int(best.indices[0]))
            leads.append(float(f"{float(best.values[0] - best.values[1]):.4g}"))
            if step < STEPS and text in (PROMPTS[3], PROMPTS[-1]):
                logits.append([float(f"{number:.7g}") for number in last.tolist()])
            given = torch.tensor([[greedy[-1]]])
    return {"text": text, "tokens": ids, "logits": logits, "greedy": greedy, "leads": leads}


def main() -> None:
    (home := pathlib.Path(__file__).with_name("generators")).mkdir(exist_ok=True)
    versions = {library.__name__: library.__version__ for library in (transformers, torch, sentencepiece)}
    pieces = SentencePieces()
    llama3 = BytePairs("llama-bpe", "<|begin|>", "<|stop|>")
    qwen = BytePairs("qwen2", None, "<|stop|>")
    made = [
        make(home, "llama-f32", "Llama", Kind.F32, pieces),
        make(home, "llama-q8_0", "Llama", Kind.Q8_0, pieces),
        make(home, "llama-q4_0", "Llama", Kind.Q4_0, pieces, ["tied"]),
        make(home, "llama3-f16", "Llama", Kind.F16, llama3, ["tied", "rope factors"]),
        make(home, "qwen2-f16", "Qwen2", Kind.F16, qwen, ["tied"]),
        make(home, "qwen2-q4_0", "Qwen2", Kind.Q4_0, qwen),
        make(home, "qwen3-f16", "Qwen3", Kind.F16, qwen, ["tied"]),
    ]
    head = {"by": "crates/inference/tests/goldens/make_generators.py", "how": "float64, with a cache", "versions": versions}
    rows = []
    for model in made:
        prompts = ",\n".join(json.dumps(prompt) for prompt in model["prompts"])
        talks = json.dumps(model["conversations"])
        rows.append(f'{{"file": {json.dumps(model["file"])}, "conversations": {talks}, "prompts": [\n{prompts}\n]}}')
    (home / "answers.json").write_text(f'{{"made": {json.dumps(head)}, "models": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
