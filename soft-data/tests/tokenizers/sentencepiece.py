"""Writes sentencepiece/: a small SentencePiece model laid out like LLaMA 2's, without tokenizer.json, and the tokens that SentencePiece and transformers give for odd texts.

Needs sentencepiece 0.2.3 and transformers 5.24.0: python3 sentencepiece.py  (run from another folder than this one, whose name shadows the package)

golden.json: `texts`; `pieces`, the ids by SentencePiece itself, without a begin-of-text token; `variants`, by
transformers' LlamaTokenizer with entries of tokenizer_config.json.
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE]

import sentencepiece as spm
from transformers import AutoTokenizer

OUT = HERE / "sentencepiece"
WORDS = """the answer is a river that runs north, and the question was where the rivers run. Paris is in France;
Lyon too. Twelve monks cook soup with carrots, kale and 365 grams of barley. int main() { return 0; } x = x + 1
naïve café Straße où ça va ありがとう 日本語 здравствуйте мир. She said: "No  way!"  Then	tabs and\nlines.""".split("\n")
TEXTS = [
    "", " ", "  ", "\n", "a", " a", "  a", "a ", "Paris", " Paris", "  Paris", "\nParis", "\t x", "Answer: Paris",
    "Question: Où?\n\n Two  spaces, 🦙", "日本語 🙂👩‍👩‍👧", "e\u0301 é", "\u00a0\u2028\u0085x", "▁a ▁", "<0x41>", "x = 365 + 1;",
    "the rivers run   north  ", "ᚠᛇᚻ ᛒᛦᚦ", "\ufb01ne \u212b", "a" * 40, "river" * 9,
]
SPECIAL = ["a</s> b", "</s>", "<s>a", " <s>a", "a<s></s>b", "<unk>", "x<pad>y", "a <|turn|> b", "<|turn|>"]
CONFIG = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2, "model_type": "llama"}
TOKENS = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
          "pad_token": "<pad>", "add_bos_token": True}


def train(folder: Path) -> None:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(WORDS * 20), encoding="utf-8")
    spm.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=380, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=0.98,
        allow_whitespace_only_pieces=True, user_defined_symbols=["<|turn|>"], num_threads=1, minloglevel=2,
    )
    corpus.unlink()
    (folder / "tokenizer.vocab").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 380}) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS) + "\n")


def of_transformers(entries: dict) -> list:
    with tempfile.TemporaryDirectory() as copy:
        copy = Path(copy) / "model"
        shutil.copytree(OUT, copy)
        (copy / "tokenizer_config.json").write_text(json.dumps({**TOKENS, **entries}))
        tokenizer = AutoTokenizer.from_pretrained(copy)
        return [tokenizer(text)["input_ids"] for text in TEXTS + SPECIAL]


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir()
train(OUT)
model = spm.SentencePieceProcessor(model_file=str(OUT / "tokenizer.model"))
golden = {
    "versions": {package: version(package) for package in ("sentencepiece", "transformers", "tokenizers")},
    "texts": TEXTS + SPECIAL,
    "pieces": [model.encode(text) for text in TEXTS],
    "variants": [{"entries": entries, "tokens": of_transformers(entries)}
                 for entries in ({}, {"legacy": True}, {"legacy": False}, {"add_prefix_space": False})],
}
(OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
print({k: len(v) for k, v in golden.items()}, sum(f.stat().st_size for f in OUT.iterdir()), "bytes")
