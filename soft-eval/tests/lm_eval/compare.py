"""The same questions through lm-evaluation-harness and through `soft lm-eval`: equal scores, sample by sample?

    python compare.py SOFT MODEL TRIVIA WORK --exits 12,30 --limit 100

SOFT is the program, MODEL a model folder, TRIVIA TriviaQA's official dev file, WORK a new folder. A sub-model of depth n is,
for the harness, transformers' model with its first n layers. The data sets are made of TRIVIA, so that nothing is
downloaded: `triviaqa` itself; `arc_easy` with the answers of three other questions as wrong choices; `hellaswag`, `piqa` and
`boolq` in their layouts from the same texts. Needs lm_eval 0.4.13, torch, transformers 5.24.0. Exit status 1 if any score of
a sample or an answer differs, or a log-likelihood by more than 1e-3.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
parser = argparse.ArgumentParser()
parser.add_argument("soft")
parser.add_argument("model")
parser.add_argument("trivia")
parser.add_argument("work")
parser.add_argument("--exits", default="12,30")
parser.add_argument("--limit", type=int, default=100)
args = parser.parse_args()
work = Path(args.work)
work.mkdir(parents=True)
exits = [int(n) for n in args.exits.split(",")]

rows = json.loads(Path(args.trivia).read_text())["Data"][: args.limit]
value = [row["Answer"]["Value"] for row in rows]
other = lambda i, k: value[(i * 7 + k * 13 + 1) % len(value)]
sets = {name: [] for name in ("triviaqa", "arc_easy", "hellaswag", "piqa", "boolq")}
for i, row in enumerate(rows):
    question, answer = row["Question"], row["Answer"]
    sets["triviaqa"].append({"question": question.rstrip("?"), "question_id": row["QuestionId"],
                             "answer": {"aliases": answer["Aliases"], "value": answer["Value"]}})
    choices = [other(i, k) for k in range(3)]
    choices.insert(i % 4, value[i])
    sets["arc_easy"].append({"question": question, "answerKey": "ABCD"[i % 4],
                             "choices": {"text": choices, "label": list("ABCD")}})
    sets["hellaswag"].append({"activity_label": "Quiz [title] show", "ctx_a": question, "ctx_b": "the ANSWER is", "label": str(i % 4),
                              "endings": [f"{c}  [substeps] of course." for c in choices]})
    sets["piqa"].append({"goal": question, "sol1": choices[i % 4 - 1], "sol2": value[i], "label": 1})
    sets["boolq"].append({"passage": f"{question} {value[i]}.", "question": f"is it {choices[0]}", "label": int(i % 4 == 0)})
for name, docs in sets.items():
    (work / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

manager = TaskManager()


def local(name: str) -> dict:
    """The harness's own task, on the local file."""
    config = dict(manager._get_config(name)) if hasattr(manager, "_get_config") else {}
    if not config:
        import yaml

        path = next(Path(lm_eval.__file__).parent.glob(f"tasks/**/{name}.yaml"), None)
        path = path or Path(lm_eval.__file__).parent / "tasks/super_glue/boolq/default.yaml"
        if name == "triviaqa":
            path = Path(lm_eval.__file__).parent / "tasks/triviaqa/default.yaml"
        text = path.read_text().replace("!function utils.process_docs", "PROCESS")
        config = yaml.safe_load(text)
        if config.get("process_docs") == "PROCESS":
            from lm_eval.tasks.hellaswag import utils

            config["process_docs"] = utils.process_docs
    config.pop("tag", None)
    config.update(dataset_path="json", dataset_name=None, training_split=None, test_split=None, validation_split="validation",
                  dataset_kwargs={"data_files": {"validation": str(work / f"{name}.jsonl")}})
    return config


def theirs(depth: int) -> dict:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    model.model.layers = model.model.layers[:depth]
    model.config.num_hidden_layers = depth
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    return lm_eval.simple_evaluate(wrapped, tasks=[local(name) for name in sets], log_samples=True)


wrong = 0
expected = {depth: theirs(depth) for depth in exits}
for name in sets:
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
