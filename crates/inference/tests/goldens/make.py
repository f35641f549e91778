"""Makes all-minilm-l6-v2.json: texts and their embeddings by sentence-transformers, the reference ours must equal.

    python3 -m venv venv && venv/bin/pip install sentence-transformers
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make.py "$(scripts/fetch-test-model)"

Each text is embedded alone, on the CPU, in float32, as `SentenceTransformer(directory).encode(text)` does by default;
the numbers are written with nine significant digits, which is all that a float32 has. The versions used are in the file.
Every text is our own.
"""

import hashlib
import json
import pathlib
import platform
import sys

import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer

TEXTS = {
    "empty": "",
    "one space": " ",
    "only white space": " \t\n\r\u00a0\u2003  ",
    "one letter": "a",
    "one word": "prediction",
    "one word, capitals": "PREDICTION",
    "one digit": "7",
    "a number": "3.14159265358979",
    "full stop": ".",
    "punctuation": "!?.,;:-–—…()[]{}<>/\\|@#$%^&*_+=~`'\"",
    "question": "How is the weather in the mountains today?",
    "statement": "A lighthouse keeper counts the ships that pass before dawn.",
    "the same, other words": "Before sunrise, the man in the lighthouse counts passing ships.",
    "two sentences": "The queue was empty. Nobody had noticed that the worker stopped an hour ago.",
    "shouting": "STOP DOING THAT RIGHT NOW!!!",
    "contractions": "I don't think they'd've known we weren't there, y'all.",
    "hyphens": "state-of-the-art, mother-in-law, re-entry, e-mail",
    "abbreviations": "Dr. Smith et al., e.g. at 5 p.m. on Mon., Jan. 3rd, U.S.A.",
    "money and units": "€12.50, £3, ¥1,000, 20 °C, 5 µm, 10⁻³, ½ cup, 100 %",
    "dates": "2024-02-29T23:59:60Z, 29/02/2024, 1.1.1970",
    "address": "https://example.org/a/b?c=d&e=%20f#g and someone@example.org",
    "path": "/usr/local/bin:../../etc/passwd;C:\\Windows\\System32",
    "rust": "fn main() { let x: Vec<u8> = vec![0; 16]; println!(\"{x:?}\"); }",
    "python": "def area(r):\n    \"\"\"Of a circle.\"\"\"\n    return 3.14159 * r ** 2\n",
    "sql": "SELECT id, name FROM ships WHERE passed_at < now() - interval '1 hour' ORDER BY 1;",
    "json": "{\"key\": [1, 2.5e-3, null, true], \"nested\": {\"a\": \"b\"}}",
    "markup": "<p class=\"note\">Read <b>this</b> &amp; that.</p>",
    "markdown": "# Title\n\n- one\n- two\n\n```sh\nls -la\n```\n",
    "special tokens as text": "[CLS] this [MASK] is [SEP] not [PAD] special [UNK]",
    "subword marks": "##ing un##able ## #hashtag",
    "french": "Où est passé le garçon qui mangeait des crêpes à Noël ?",
    "german": "Die Straße führt über die große Brücke nach Königswusterhausen.",
    "spanish": "¿Dónde está la biblioteca más cercana, señor?",
    "vietnamese": "Hôm nay trời đẹp quá, chúng ta đi dạo nhé.",
    "turkish": "İstanbul'da ılık bir ilkbahar akşamı; IĞDIR.",
    "accents, composed": "café naïve résumé Ångström",
    "accents, decomposed": "cafe\u0301 nai\u0308ve re\u0301sume\u0301 A\u030angstro\u0308m",
    "many marks on one letter": "z\u0351\u0343\u0346a\u0338\u0322\u0321l\u0334\u0335g\u0489o\u0360",
    "chinese": "今天的天气很好,我们去公园散步吧。",
    "japanese": "吾輩の家には猫が三匹いる。カタカナとひらがな。",
    "korean": "오늘은 날씨가 좋아서 산책을 했습니다.",
    "thai": "วันนี้อากาศดีมาก ไปเดินเล่นกันเถอะ",
    "hindi": "आज मौसम बहुत अच्छा है, चलो टहलने चलते हैं।",
    "arabic": "الطقس جميل اليوم، هيا نذهب في نزهة.",
    "hebrew": "מזג האוויר נעים היום, בוא נצא לטיול.",
    "direction marks": "left \u202eright to left\u202c left \u200fmark\u200e",
    "russian": "Сегодня хорошая погода, пойдём гулять.",
    "greek": "Σήμερα ο καιρός είναι όμορφος· πάμε βόλτα; ΟΔΟΣ",
    "mixed scripts": "The 猫 said «привет» to the كلب at 5時 in Αθήνα.",
    "emoji": "😀 🎉 🚀",
    "emoji, joined": "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇨🇭 ❤️",
    "emoji in text": "Ship it 🚀, then go home 🏠 and sleep 😴.",
    "mathematics": "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε, ∑ᵢ xᵢ² ≤ √2",
    "look-alike letters": "𝓕𝓪𝓷𝓬𝔂 𝕥𝕖𝕩𝕥, full width: ABC123, ligature: file",
    "beyond the basic plane": "𐍈𐌰𐌹 𓀀𓀁 𠜎𠜱",
    "zero width": "zero\u200bwidth\u200cjoiners\u200dand\ufeffmarks\u00adsoft",
    "nul": "before\u0000after",
    "only nul": "\u0000",
    "control characters": "\u0001\u0007\b\u001b[31mred\u001b[0m\u007f\u0085\u009f",
    "replacement and private use": "\ufffd \ue000 \uf8ff \uffff",
    "line ends": "one\rtwo\nthree\r\nfour\u2028five\u2029six\u000bseven\u000ceight",
    "tabs": "a\tb\t\tc\t\t\td",
    "longest word that is read": "x" * 100,
    "very long word": "x" * 101,
    "longer word": "pneumonoultramicroscopicsilicovolcanoconiosis" * 40,
    "long word of marks": "!" * 300,
    "32 words": " ".join(f"word{n}" for n in range(32)),
    "100 words": " ".join(["river", "stone", "cloud", "ember", "field"] * 20),
    "254 words, all of which fit": " ".join(["tree"] * 254),
    "255 words, one too many": " ".join(["tree"] * 254 + ["storm"]),
    "paragraph": "Each morning the baker weighs the flour twice, once by the scale and once by hand. "
    "The scale is seldom wrong, yet the hand has made bread for forty years, and where the two disagree "
    "she trusts neither: she sifts, rests the dough, and lets an hour decide. ",
    "more than 512 tokens": " ".join(f"On day {n} the harbour master wrote down {n * 7} boats." for n in range(60)),
    "more than 512 tokens, chinese": "海上生明月天涯共此时" * 60,
    "ten thousand words": " ".join(str(n) for n in range(10_000)),
}


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    exact = SentenceTransformer(str(directory), device="cpu", local_files_only=True).double()
    goldens, apart = [], 0.0
    for name, text in TEXTS.items():
        embedding = model.encode(text, convert_to_tensor=True)
        apart = max(apart, (embedding.double() - exact.encode(text, convert_to_tensor=True)).abs().max().item())
        tokens = model.tokenize([text])["input_ids"].shape[1]
        numbers = [float(f"{number:.9g}") for number in embedding.tolist()]
        goldens.append({"name": name, "text": text, "tokens": tokens, "embedding": numbers})
    made = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "weights_sha256": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
        "by": "crates/inference/tests/goldens/make.py",
        "how": "SentenceTransformer(directory, device='cpu').encode(text), each text alone, float32",
        "versions": {
            "python": platform.python_version(),
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
        },
        "largest difference from the same in float64": float(f"{apart:.2g}"),
    }
    lines = ",\n".join(json.dumps(golden) for golden in goldens)
    path = pathlib.Path(__file__).with_name("all-minilm-l6-v2.json")
    path.write_text(f'{{"made": {json.dumps(made, indent=1)},\n"goldens": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{path}: {len(goldens)} texts", json.dumps(made["versions"]), apart)


if __name__ == "__main__":
    main()
