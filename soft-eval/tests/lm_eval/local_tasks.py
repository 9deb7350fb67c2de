"""Tasks of lm-evaluation-harness on data sets made of TriviaQA's official dev file, so that nothing is downloaded.

`triviaqa` itself; `arc_easy` with the answers of three other questions as wrong choices; `hellaswag`, `piqa` and `boolq` in
their layouts from the same texts.
"""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import yaml

TASKS = ("triviaqa", "arc_easy", "hellaswag", "piqa", "boolq")


def write_sets(trivia: str, limit: int, work: Path) -> None:
    """Writes one file per task into the new folder `work`."""
    work.mkdir(parents=True)
    rows = json.loads(Path(trivia).read_text())["Data"][:limit]
    value = [row["Answer"]["Value"] for row in rows]
    other = lambda i, k: value[(i * 7 + k * 13 + 1) % len(value)]
    sets = {name: [] for name in TASKS}
    for i, row in enumerate(rows):
        question, answer = row["Question"], row["Answer"]
        sets["triviaqa"].append({"question": question.rstrip("?"), "question_id": row["QuestionId"],
                                 "answer": {"aliases": answer["Aliases"], "value": answer["Value"]}})
        choices = [other(i, k) for k in range(3)]
        choices.insert(i % 4, value[i])
        sets["arc_easy"].append({"question": question, "answerKey": "ABCD"[i % 4],
                                 "choices": {"text": choices, "label": list("ABCD")}})
        sets["hellaswag"].append({"activity_label": "Quiz [title] show", "ctx_a": question, "ctx_b": "the ANSWER is",
                                  "label": str(i % 4), "endings": [f"{c}  [substeps] of course." for c in choices]})
        sets["piqa"].append({"goal": question, "sol1": choices[i % 4 - 1], "sol2": value[i], "label": 1})
        sets["boolq"].append({"passage": f"{question} {value[i]}.", "question": f"is it {choices[0]}", "label": int(i % 4 == 0)})
    for name, docs in sets.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))


def local_task(name: str, work: Path) -> dict:
    """The harness's own task, on the local file."""
    tasks = Path(lm_eval.__file__).parent / "tasks"
    path = {"triviaqa": tasks / "triviaqa/default.yaml", "boolq": tasks / "super_glue/boolq/default.yaml"}.get(name)
    path = path or next(tasks.glob(f"**/{name}.yaml"))
    config = yaml.safe_load(path.read_text().replace("!function utils.process_docs", "PROCESS"))
    if config.get("process_docs") == "PROCESS":
        from lm_eval.tasks.hellaswag import utils

        config["process_docs"] = utils.process_docs
    config.pop("tag", None)
    config.update(dataset_path="json", dataset_name=None, training_split=None, test_split=None, validation_split="validation",
                  dataset_kwargs={"data_files": {"validation": str(work / f"{name}.jsonl")}})
    return config
