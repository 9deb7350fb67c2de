"""The same questions through lm-evaluation-harness and through `soft lm-eval`: equal scores, sample by sample?

    python compare.py SOFT MODEL TRIVIA WORK --exits 12,30 --limit 100

SOFT is the program, MODEL a model folder, TRIVIA TriviaQA's official dev file, WORK a new folder. A sub-model of depth n is,
for the harness, transformers' model with its first n layers. The data sets are those of local_tasks.py. Needs lm_eval 0.4.13, torch, transformers 5.24.0. Exit status 1 if any score of
a sample or an answer differs, or a log-likelihood by more than 1e-3.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from local_tasks import TASKS, local_task, write_sets

parser = argparse.ArgumentParser()
parser.add_argument("soft")
parser.add_argument("model")
parser.add_argument("trivia")
parser.add_argument("work")
parser.add_argument("--exits", default="12,30")
parser.add_argument("--limit", type=int, default=100)
args = parser.parse_args()
work = Path(args.work)
exits = [int(n) for n in args.exits.split(",")]

write_sets(args.trivia, args.limit, work)

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer


def theirs(depth: int) -> dict:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    model.model.layers = model.model.layers[:depth]
    model.config.num_hidden_layers = depth
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    return lm_eval.simple_evaluate(wrapped, tasks=[local_task(name, work) for name in TASKS], log_samples=True)


wrong = 0
expected = {depth: theirs(depth) for depth in exits}
for name in TASKS:
    out = work / f"ours-{name}"
    subprocess.run([args.soft, "lm-eval", "--model", args.model, "--task", name, "--data", str(work / f"{name}.jsonl"),
                    "--exits", args.exits, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    for depth in exits:
        ours = json.loads(next((out / f"exit_{depth}").glob("results_*.json")).read_text())
        lines = next((out / f"exit_{depth}").glob("samples_*.jsonl")).read_text().splitlines()
        samples = sorted((json.loads(line) for line in lines), key=lambda s: s["doc_id"])
        result, wanted = expected[depth]["results"][name], sorted(expected[depth]["samples"][name], key=lambda s: s["doc_id"])
        metrics = [key for key in ours["results"][name] if "," in key and "stderr" not in key]
        differing, largest = 0, 0.0
        for mine, theirs_ in zip(samples, wanted, strict=True):
            for key in metrics:
                metric = key.split(",")[0]
                differing += mine[metric] != theirs_[metric]
            if name == "triviaqa":
                differing += mine["filtered_resps"] != [str(text) for text in theirs_["filtered_resps"]]
                continue
            for a, b in zip(mine["filtered_resps"], theirs_["filtered_resps"], strict=True):
                largest = max(largest, abs(float(a[0]) - float(b[0])))
        for key in metrics:
            error = key.replace(",", "_stderr,")
            print(f"{name:10} exit {depth:3} {key:30} ours {ours['results'][name][key]:.4f} ± {ours['results'][name][error]:.4f}"
                  f"  theirs {result[key]:.4f} ± {float(result[error]):.4f}")
        print(f"{name:10} exit {depth:3} {len(samples)} samples, {differing} scores or answers differ, log-likelihoods within {largest:.1e}")
        wrong += differing + (largest > 1e-3)
sys.exit(1 if wrong else 0)
