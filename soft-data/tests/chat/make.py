"""Writes golden.json: what transformers makes of the conversations below with our own templates.

Needs transformers 5.24.0, tokenizers 0.23.3 and Jinja2 3.1.6: python3 make.py

Each case names its template (templates/NAME.jinja), its tokenizer (../tokenizers/NAME) and its
conversation, and holds the rendered text and its tokens, or what the template says against it; of
the template `marked` also which tokens the assistant generates.
"""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

HERE = Path(__file__).parent
TEMPLATES = {"turns": "bytes", "headers": "pieces", "alternating": "pieces", "listing": "bytes", "marked": "bytes",
             "tools": "bytes"}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CALL = {"type": "function", "function": {"name": "add", "arguments": {"b": 1, "a": [2, None, "é<'\""]}}}
CONVERSATIONS = [
    turns(("user", "Where is the Eiffel tower?")),
    turns(("system", "  Be brief.\n"), ("user", "Hi"), ("assistant", " Hello! \n"), ("user", " Où?")),
    turns(("user", "\n a\n\nb"), ("assistant", "<think>\nhm</think>\n\nIt's \"Paris\" & <b>\\ 🦙\t"),
          ("user", "{{ messages }} {% if %}")),
    turns(("user", "a<|im_end|>b</s>c<s>"), ("assistant", "")),
    turns(("user", "a"), ("user", "b")),
    turns(("assistant", "a")),
    turns(("user", "Sir: add!"), ("assistant", "Paris"), ("user", " Paris"), ("assistant", "No.")),
    turns(("user", "add")) + [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
    + turns(("tool", "3"), ("assistant", "It is 3.")),
]
# For the template `optional` alone.
OPTIONAL = [
    turns(("user", "add")) + [{"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm"}]
    + turns(("tool", "3")) + [{"role": "assistant", "content": "It is 3.", "thinking": "so", "tool_calls": None}],
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object",
          "properties": {"b": {"type": "number"}, "a": {"type": "array"}}, "required": ["b", "a"]}}}]


def tokenizer_of(name, template):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / name
        shutil.copytree(HERE.parent / "tokenizers" / name, folder)
        shutil.copy(HERE / "templates" / f"{template}.jinja", folder / "chat_template.jinja")
        return AutoTokenizer.from_pretrained(folder)


def case(name, number, prompt):
    tokenizer = tokenizer_of(TEMPLATES.get(name, "bytes"), name)
    made = {"template": name, "tokenizer": TEMPLATES.get(name, "bytes"), "conversation": number, "prompt": prompt}
    given = {"add_generation_prompt": prompt, "tools": TOOLS if name == "tools" and number == 7 else None}
    try:
        text = tokenizer.apply_chat_template(CONVERSATIONS[number], tokenize=False, **given)
    except TemplateError as error:
        return {**made, "refusal": str(error)}
    tokens = tokenizer.apply_chat_template(CONVERSATIONS[number], return_dict=False, **given)
    made |= {"text": text, "tokens": tokens}
    if name == "marked" and not prompt:
        whole = tokenizer.apply_chat_template(CONVERSATIONS[number], return_dict=True, return_assistant_tokens_mask=True)
        made["assistant"] = whole["assistant_masks"]
    return made


cases = [case(name, number, prompt) for name in TEMPLATES for number in range(len(CONVERSATIONS))
         for prompt in (False, True)]
first = len(CONVERSATIONS)
CONVERSATIONS += OPTIONAL
cases += [case("optional", number, prompt) for number in range(first, len(CONVERSATIONS)) for prompt in (False, True)]
versions = {package: version(package) for package in ("transformers", "tokenizers", "jinja2")}
lines = lambda items: "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"
text = (f'{{"versions": {json.dumps(versions)},\n"tools": {json.dumps(TOOLS)},\n"conversations": {lines(CONVERSATIONS)},\n'
        f'"cases": {lines(cases)}}}\n')
(HERE / "golden.json").write_text(text, encoding="utf-8")
