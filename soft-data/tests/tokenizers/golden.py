"""Writes golden.json: the tokens that transformers gives for odd texts, by the tokenizers beside this file and by variants of them.

Needs transformers 5.24.0 and tokenizers 0.23.3: python3 golden.py

A variant names its tokenizer and the entries of tokenizer_config.json that differ.
"""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
VARIANTS = [
    ("bytes", {}),
    ("bytes", {"tokenizer_class": "LlamaTokenizerFast"}),
    ("pieces", {}),
    ("pieces", {"legacy": True}),
    ("pieces", {"legacy": False, "tokenizer_class": "LlamaTokenizerFast"}),
    ("pieces", {"add_prefix_space": False}),
    ("pieces", {"legacy": True, "tokenizer_class": "CodeLlamaTokenizer"}),
    ("pieces", {"tokenizer_class": None}),
    ("pieces", {"tokenizer_class": "PreTrainedTokenizerFast"}),
]
TEXTS = [
    "", " ", "  ", "\n", "a", " a", "  a", "a ", "Paris", " Paris", "  Paris", "\nParis", "\t x", "Answer: Paris",
    "Question: Où?\n\n Two  spaces, 🦙", "日本語 🙂👩‍👩‍👧", "e\u0301 é", "\u00a0\u2028\u0085x", "a\u0000b", "▁a ▁", "<0x41>",
    "a</s> b", "</s>", "<s>a", "<s> a", " <s>a", "a<s></s>b", "<unk>", "<|im_end|>", "a<|im_end|> Paris",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_end", "<<|im_end|>>", "x<|endoftext|>\n\ny",
]


def ids(name, entries):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / name
        shutil.copytree(HERE / name, folder)
        path = folder / "tokenizer_config.json"
        config = {**json.loads(path.read_text(encoding="utf-8")), **entries}
        config = {key: entry for key, entry in config.items() if entry is not None}
        path.write_text(json.dumps(config), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in TEXTS]


variants = [{"tokenizer": name, "entries": entries, "tokens": ids(name, entries)} for name, entries in VARIANTS]
versions = {package: version(package) for package in ("transformers", "tokenizers")}
lines = lambda items: "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"
text = f'{{"versions": {json.dumps(versions)},\n"texts": {lines(TEXTS)},\n"variants": {lines(variants)}}}\n'
(HERE / "golden.json").write_text(text, encoding="utf-8")
