"""Writes golden.json: what transformers makes of the conversations below with our own templates.

Needs transformers 5.23.0, tokenizers 0.23.3 and Jinja2 3.1.6: python3 make.py

Each case names its template (templates/NAME.jinja), its tokenizer (../tokenizers/NAME) and its
conversation, and holds the rendered text and its tokens, or what the template says against it.
"""

import json
from importlib.metadata import version
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
TEMPLATES = {"turns": "bytes", "headers": "pieces", "alternating": "pieces", "listing": "bytes"}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CONVERSATIONS = [
    turns(("user", "Where is the Eiffel tower?")),
    turns(("system", "  Be brief.\n"), ("user", "Hi"), ("assistant", " Hello! \n"), ("user", " Où?")),
    turns(("user", "\n a\n\nb"), ("assistant", "<think>\nhm</think>\n\nIt's \"Paris\" & <b>\\ 🦙\t"),
          ("user", "{{ messages }} {% if %}")),
    turns(("user", "a<|im_end|>b</s>c<s>"), ("assistant", "")),
    turns(("user", "a"), ("user", "b")),
    turns(("assistant", "a")),
]


def tokenizer_of(name):
    folder = HERE.parent / "tokenizers" / name
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    text = lambda token: token["content"] if isinstance(token, dict) else token
    special = {key: text(config[key]) for key in ("bos_token", "eos_token", "pad_token")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)


def case(name, number, prompt):
    tokenizer = tokenizer_of(TEMPLATES[name])
    tokenizer.chat_template = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    made = {"template": name, "tokenizer": TEMPLATES[name], "conversation": number, "prompt": prompt}
    given = {"add_generation_prompt": prompt}
    try:
        text = tokenizer.apply_chat_template(CONVERSATIONS[number], tokenize=False, **given)
    except TemplateError as error:
        return {**made, "refusal": str(error)}
    tokens = tokenizer.apply_chat_template(CONVERSATIONS[number], return_dict=False, **given)
    return {**made, "text": text, "tokens": tokens}


cases = [case(name, number, prompt) for name in TEMPLATES for number in range(len(CONVERSATIONS))
         for prompt in (False, True)]
versions = {package: version(package) for package in ("transformers", "tokenizers", "jinja2")}
lines = lambda items: "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"
text = f'{{"versions": {json.dumps(versions)},\n"conversations": {lines(CONVERSATIONS)},\n"cases": {lines(cases)}}}\n'
(HERE / "golden.json").write_text(text, encoding="utf-8")
