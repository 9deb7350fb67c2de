"""Draws the tokens of answers, colored by exit, from the output of `soft generate --json` on the quickstart's model.

soft generate --model runs/quickstart-*/soft/model --mode dynamic --policy confidence --thresholds 0.9 \\
    --prompts prompts.jsonl --json | python docs/quickstart_tokens.py prompts.jsonl > docs/quickstart-tokens.svg

The quickstart's tokenizer has one token per word, so that words and exits go in pairs.
"""
import json
import sys
from html import escape

COLORS = {2: "#9ecae1", 4: "#6baed6", 6: "#fdae6b", 8: "#e6550d"}
WIDTH, LINE, CHARACTER = 1100, 34, 8.4

prompts = [json.loads(line)["prompt"] for line in open(sys.argv[1])]
answers = [json.loads(line) for line in sys.stdin]
answers = [answer for answer in answers if "text" in answer]
shapes, y = [], 30


def text(x, y, words, weight="normal"):
    shapes.append(f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(words)}</text>')


for prompt, answer in zip(prompts, answers):
    words = answer["text"].split()
    assert len(words) == len(answer["exits"]), answer
    text(12, y, prompt)
    x = 12 + CHARACTER * (len(prompt) + 1)
    for word, depth in zip(words, answer["exits"]):
        width = CHARACTER * len(word) + 10
        shapes.append(f'<rect x="{x:.1f}" y="{y - 17}" width="{width:.1f}" height="24" rx="4" fill="{COLORS[depth]}"/>')
        text(x + 5, y, word)
        x += width + 5
    y += LINE
y += 6
x = 12
for depth, color in COLORS.items():
    shapes.append(f'<rect x="{x}" y="{y - 14}" width="18" height="18" rx="4" fill="{color}"/>')
    text(x + 24, y, f"exit {depth} of 8")
    x += 160
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 16}" font-family="monospace" font-size="14">')
print('<rect width="100%" height="100%" fill="white"/>')
print("\n".join(shapes))
print("</svg>")
