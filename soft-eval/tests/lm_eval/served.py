"""The same questions through lm-evaluation-harness's `local-completions` against `soft serve`, and through `soft lm-eval`.

    python served.py SOFT MODEL TRIVIA WORK --exits 12,21,30 --limit 100

SOFT is the program, MODEL a model folder, TRIVIA TriviaQA's official dev file, WORK a new folder. Starts the server. Needs
lm_eval[api] 0.4.13 and transformers' tokenizers. Exit status 1 if the score of a sample differs.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from local_tasks import local_task, write_sets

import lm_eval

TASKS = ("arc_easy", "triviaqa")

parser = argparse.ArgumentParser()
parser.add_argument("soft")
parser.add_argument("model")
parser.add_argument("trivia")
parser.add_argument("work")
parser.add_argument("--exits", default="12,21,30")
parser.add_argument("--limit", type=int, default=100)
args = parser.parse_args()
work = Path(args.work)
write_sets(args.trivia, args.limit, work)


def theirs(address: str, depth: int) -> dict:
    settings = {"model": f"served@{depth}", "base_url": f"http://{address}/v1/completions", "tokenizer": args.model,
                "tokenizer_backend": "huggingface", "num_concurrent": 4, "max_retries": 1}
    tasks = [local_task(name, work) for name in TASKS]
    return lm_eval.simple_evaluate("local-completions", model_args=settings, tasks=tasks, log_samples=True)


server = subprocess.Popen([args.soft, "serve", "--model", args.model, "--name", "served", "--exits", args.exits,
                           "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
address = server.stdout.readline().split("http://")[1].split("/")[0]
try:
    expected = {depth: theirs(address, depth) for depth in map(int, args.exits.split(","))}
finally:
    server.terminate()
wrong = 0
for name in TASKS:
    out = work / f"ours-{name}"
    subprocess.run([args.soft, "lm-eval", "--model", args.model, "--task", name, "--data", str(work / f"{name}.jsonl"),
                    "--exits", args.exits, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    for depth, result in expected.items():
        lines = next((out / f"exit_{depth}").glob("samples_*.jsonl")).read_text().splitlines()
        ours = sorted((json.loads(line) for line in lines), key=lambda s: s["doc_id"])
        served = sorted(result["samples"][name], key=lambda s: s["doc_id"])
        metrics = [key.split(",")[0] for key in result["results"][name] if "," in key and "stderr" not in key]
        differing = sum(mine[key] != theirs_[key] for mine, theirs_ in zip(ours, served, strict=True) for key in metrics)
        scores = {key: round(value, 4) for key, value in result["results"][name].items() if "," in key and "stderr" not in key}
        print(f"{name:8} exit {depth:3}: {scores}, {len(ours)} samples, {differing} scores differ")
        wrong += differing
sys.exit(1 if wrong else 0)
