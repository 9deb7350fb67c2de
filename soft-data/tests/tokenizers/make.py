"""Writes the two toy tokenizers beside this file. Standard library only: python3 make.py

bytes/   byte-level BPE with ChatML tokens and no BOS, laid out like SmolLM2's
pieces/  SentencePiece-style BPE with prefix space, byte fallback and a post-processor that adds
         BOS, laid out like LLaMA 2's
"""

import json
from pathlib import Path

HERE = Path(__file__).parent


def special(id, content):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def added(content):
    """A token as tokenizer_config.json has it."""
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False}


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b if b in plain else next(spare)) for b in range(256)]


def bpe(symbols, merges, **options):
    vocab = {symbol: id for id, symbol in enumerate(symbols)}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    return {**model, **options, "vocab": vocab, "merges": [f"{l} {r}" for l, r in merges]}


def merges_of(words):
    """Merges that build each word from left to right."""
    seen = {}
    for word in words:
        for end in range(1, len(word)):
            seen[(word[:end], word[end])] = None
    return list(seen)


def write(name, tokenizer, config, model):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    whole = {"version": "1.0", "truncation": None, "padding": None, **tokenizer}
    files = {"tokenizer.json": whole, "tokenizer_config.json": config, "config.json": model}
    for file, value in files.items():
        text = json.dumps(value, ensure_ascii=False, indent=1)
        (folder / file).write_text(text + "\n", encoding="utf-8")


def make_bytes():
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    model = bpe(specials + byte_alphabet(), merges_of(["ĠParis", "ĊĊ", "Answer"]))
    write("bytes", {
        "added_tokens": [special(id, content) for id, content in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": model,
    }, {"add_bos_token": False, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>"}, {"vocab_size": len(model["vocab"])})


def make_pieces():
    specials = ["<unk>", "<s>", "</s>"]
    letters = [chr(c) for c in range(33, 127)] + ["▁"]
    symbols = specials + [f"<0x{byte:02X}>" for byte in range(256)] + letters
    model = bpe(symbols, merges_of(["▁Paris", "Paris", "▁▁"]), unk_token="<unk>", fuse_unk=True,
                byte_fallback=True)
    write("pieces", {
        "added_tokens": [special(id, content) for id, content in enumerate(specials)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": model,
    }, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "bos_token": added("<s>"), "eos_token": added("</s>"), "pad_token": None},
        {"vocab_size": len(model["vocab"]), "bos_token_id": 1, "eos_token_id": 2})


make_bytes()
make_pieces()
