"""The price of exits by method and seed: trains every method with every seed, evaluates every exit, prints a table.

    cargo build --release
    python benches/frontier.py --model SmolLM2-135M-Instruct --train triviaqa-unfiltered-nocontext-train.json \\
        --dev triviaqa-unfiltered-nocontext-dev.json --out runs/frontier [--seeds 1,2,3] [--methods soft,project]

Seeds decide the order of the rows. Cells are means over the seeds and half of the range: the loss of every exit in nats, the loss of
the full depth less that of SFT with the same seed, the accuracy of the deepest exit without ends of answers. What is in --out already
is not computed again; models are deleted once they are evaluated, except those of --keep.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

# The flags of each phase; a phase starts from the result of the one before.
METHODS = {
    "untrained": [],
    "sft": ["--method sft --exits EXITS --steps ALL"],
    "soft": ["--method soft --exits EXITS --steps ALL"],
    "limit": ["--method soft --exits EXITS --steps ALL --gradient-limit 1"],
    "clip-apart": ["--method soft --exits EXITS --steps ALL --combine-gradients clip-apart"],
    "limit-inverse": ["--method soft --exits EXITS --steps ALL --gradient-limit 0.4 --exit-weights inverse"],
    "project": ["--method soft --exits EXITS --steps ALL --combine-gradients project"],
    "balconies": ["--method balcony --exits EXITS --steps ALL --train-body"],
    "frozen-balconies": ["--method balcony --exits EXITS --steps ALL --distill 1 --lr 1e-3"],
    "distill": ["--method soft --exits EXITS --steps ALL --distill 0.5"],
    "sampled": ["--method soft --exits EXITS --steps ALL --sampled-exits 1"],
    "lora": ["--method soft --exits EXITS --steps ALL --lora 16 --lr 1e-3"],
    "gradual": ["--method soft --exits EXITS --steps ALL --curriculum gradual=HALF"],
    "rotational": ["--method soft --exits EXITS --steps ALL --curriculum rotational=3"],
    "layer-dropout": ["--method soft --exits EXITS --steps ALL --layer-dropout 0.1"],
    "sft+ict": ["--method sft --exits EXITS --steps HALF", "--method ict --exits EXITS --steps HALF"],
    "extracted-12": ["extract --depth 12", "--method sft --exits 12 --steps ALL"],
    "extracted-21": ["extract --depth 21", "--method sft --exits 21 --steps ALL"],
}
EXITS = "12:30:3"
# What all runs of a folder of results share.
SETTINGS = ["model", "train", "dev", "format", "max_len", "batch", "steps", "limit"]


def soft(args, *arguments):
    threads = max(1, os.cpu_count() // args.jobs)
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    command = ["target/release/soft", *map(str, arguments)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def train(args, method, seed, folder):
    """The folder of the trained model, and its exits."""
    model, exits = args.model, EXITS
    for phase, flags in enumerate(METHODS[method]):
        flags = flags.replace("EXITS", EXITS).replace("ALL", str(args.steps)).replace("HALF", str(args.steps // 2)).split()
        out = folder / str(phase)
        if flags[0] == "extract":
            soft(args, *flags, "--model", model, "--out", out)
            model = out
        else:
            rate = [] if "--lr" in flags else ["--lr", "3e-4"]
            length = ["--max-len", args.max_len] if args.max_len else []
            soft(args, "finetune", "--model", model, "--data", args.train, "--format", args.format, "--batch", args.batch,
                 "--accumulation", 1, "--warmup", 10, "--validation", 0, "--checkpoint-every", 100000, "--seed", seed, "--out", out,
                 *rate, *length, *flags)
            model, exits = out / "model", flags[flags.index("--exits") + 1]
    return model, exits


def evaluation(args, method, seed):
    """The evaluation of a run, made if it is not there."""
    result = args.out / f"{method}-{seed}.json"
    if not result.exists():
        folder = result.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        model, exits = train(args, method, seed, folder)
        soft(args, "evaluate", "--model", f"{method}={model}", "--data", args.dev, "--format", args.format, "--exits", exits,
             "--limit", args.limit, "--no-answers", "--baselines", args.train, "--json", result)
        if method not in args.keep.split(","):
            shutil.rmtree(folder)
        print(f"{method}, seed {seed}: done", file=sys.stderr, flush=True)
    return json.loads(result.read_text())


def keep_settings(args):
    """Refuses a folder with results of other settings."""
    settings = {name: str(getattr(args, name)) for name in SETTINGS}
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "settings.json"
    found = json.loads(kept.read_text()) if kept.exists() else settings
    if found != settings:
        raise SystemExit(f"{kept}: expected {settings}, found {found}: name a new --out")
    kept.write_text(json.dumps(settings))


def spread(values):
    """Mean and half of the range."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.2f}"


def print_table(results, methods, seeds):
    """Loss of every exit, the full depth's less SFT's, and the accuracy of the deepest exit without ends of answers."""
    def exits(method, seed):
        rows = results[method, seed]["findings"][0]["rows"]
        return {row["scores"]["exit"]: row["scores"] for row in rows}

    def over_seeds(method, depth, of=lambda scores, _: scores["loss"]):
        found = [(exits(method, seed), exits("sft", seed)) for seed in seeds]
        return spread([of(ours[depth], sft[depth]) for ours, sft in found]) if depth in found[0][0] else "–"

    depths = list(exits("sft", seeds[0]))
    print("| method |", " | ".join(map(str, depths)), "| tax | accuracy % |")
    print("|---" * (len(depths) + 3) + "|")
    for method in methods:
        deepest = max(exits(method, seeds[0]))
        cells = [over_seeds(method, depth) for depth in depths]
        cells.append(over_seeds(method, depths[-1], lambda ours, sft: ours["loss"] - sft["loss"]))
        cells.append(over_seeds(method, deepest, lambda ours, _: 100 * ours["accuracy_without_ends"]))
        print(f"| {method} |", " | ".join(cells), "|")
    for baseline in results[methods[0], seeds[0]]["findings"][0]["baselines"]:
        print(f"{baseline['baseline']}: {baseline['loss']['estimate']:.2f} nats, {100 * baseline['accuracy_without_ends']:.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--keep", default="", help="methods whose trained models stay in --out")
    parser.add_argument("--format", default="triviaqa", help="of both files, a --format of soft finetune")
    parser.add_argument("--max-len", type=int, help="tokens of a training row")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--limit", type=int, default=500, help="rows of --dev")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    args = parser.parse_args()
    seeds = args.seeds.split(",")
    # The tax is against SFT.
    methods = list(dict.fromkeys(["sft", *args.methods.split(",")]))
    unknown = set(methods) - METHODS.keys()
    if unknown:
        parser.error(f"--methods names {', '.join(sorted(unknown))}: expected some of {', '.join(METHODS)}")
    keep_settings(args)
    runs = [(method, seed) for seed in seeds for method in methods]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = dict(zip(runs, pool.map(lambda run: evaluation(args, *run), runs)))
    print_table(results, methods, seeds)


if __name__ == "__main__":
    main()
