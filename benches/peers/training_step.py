"""A training step of SFT and SoFT in PyTorch and in this library, in turns: same shape, rows, optimizer and cores.

Knows nothing of this library's code but the bench that it starts. Needs torch and transformers:

    python3 -m venv venv && venv/bin/pip install torch transformers
    cargo build --release --workspace --benches
    venv/bin/python benches/peers/training_step.py [--rounds 3] [--steps 3] [--threads 2]
    venv/bin/python benches/peers/training_step.py --wide    # peak memory alone, of 8 rows of 512 tokens

Shape of SmolLM2-135M with random weights, f32, fused AdamW, 2 rows of 128 tokens, half of them supervised, exits 12:30:3.
`soft-stacked` is the authors' way: the logits of all exits at all positions are held until one backward pass.
`soft-supervised` takes the head at supervised positions only. A round is some steps of every side, PyTorch's first;
figures are medians over all steps, of this library's sides medians over rounds. Peak memory is that of a process of its own per side.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

EXITS = list(range(12, 31, 3))
# This library's name of a shape, rows and their length.
NARROW, WIDE = ("smollm2-long", 2, 128), ("smollm2-wide", 8, 512)
SIDES = ["sft", "soft-stacked", "soft-supervised"]
OURS = "soft7,sampled7,plain7"


def model():
    torch.manual_seed(42)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, rms_norm_eps=1e-5, max_position_embeddings=8192, tie_word_embeddings=True,
    )).train()


def batch(shape):
    _, rows, length = shape
    tokens = (torch.arange(rows)[:, None] * 31 + torch.arange(length)[None] * 7) % 49152
    # State t predicts token t + 1; the second half of each row is supervised.
    return tokens, torch.arange(length - 1) >= length // 2 - 1


def loss(llama, side, shape):
    tokens, supervised = batch(shape)
    targets = tokens[:, 1:][:, supervised].flatten()
    output = llama.model(tokens, use_cache=False, output_hidden_states=True)
    # The last of transformers' hidden states is normed already.
    states = {n: output.hidden_states[n] for n in (EXITS if side != "sft" else EXITS[-1:])}
    normed = {n: x if n == EXITS[-1] else llama.model.norm(x) for n, x in states.items()}
    if side == "soft-stacked":
        logits = torch.stack([llama.lm_head(x) for x in normed.values()])
        chosen = [x[:, :-1][:, supervised].flatten(0, 1) for x in logits]
    else:
        chosen = [llama.lm_head(x[:, :-1][:, supervised]).flatten(0, 1) for x in normed.values()]
    return sum(torch.nn.functional.cross_entropy(x, targets) for x in chosen) / len(chosen)


class Run:
    def __init__(self, side, shape):
        self.side, self.shape, self.model = side, shape, model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-5, weight_decay=0.0, fused=True)

    def step(self):
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss(self.model, self.side, self.shape).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - started


def peak_megabytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def bench(*arguments):
    return output_of("cargo", "bench", "--bench", "training_step", "--", *map(str, arguments))


def timed(steps):
    """Seconds per step and peak megabytes of this library's sides, by name."""
    table = bench("--shape", NARROW[0], "--steps", steps, "--sides", OURS)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if NARROW[0] in line]
    return {row[1]: (float(row[3]), float(row[7])) for row in rows}


def peak_alone(args, side):
    again = [sys.executable, __file__, "--alone", side, "--threads", str(args.threads)] + ["--wide"] * args.wide
    return float(output_of(*again))


def print_wide(args):
    """Peak memory of some sides at the wide shape."""
    print("| step | peak MB |\n|---|---|")
    for side in ["sft", "soft-supervised"]:
        print(f"| PyTorch, {side} | {peak_alone(args, side):.0f} |", flush=True)
    for side in ["sft", "soft7", "checkpointed7"]:
        peak = bench("--alone", side, "--shape", WIDE[0], "--steps", 2)
        print(f"| this library, {side} | {float(peak):.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        run = Run(args.alone, WIDE if args.wide else NARROW)
        for _ in range(2):
            run.step()
        print(peak_megabytes())
        return
    if args.wide:
        print_wide(args)
        return
    runs = [Run(side, NARROW) for side in SIDES]
    for run in runs:
        run.step()
    theirs = {side: [] for side in SIDES}
    ours = {}
    for _ in range(args.rounds):
        for _ in range(args.steps):
            for run in runs:
                theirs[run.side].append(run.step())
        for side, figures in timed(args.steps).items():
            ours.setdefault(side, []).append(figures)
    del runs
    print(f"torch {torch.__version__}, {args.threads} threads\n| step | s/step | peak MB |\n|---|---|---|")
    for side in SIDES:
        print(f"| PyTorch, {side} | {statistics.median(theirs[side]):.3f} | {peak_alone(args, side):.0f} |", flush=True)
    for side, figures in ours.items():
        seconds, peaks = zip(*figures)
        print(f"| this library, {side} | {statistics.median(seconds):.3f} | {max(peaks):.0f} |")


if __name__ == "__main__":
    main()
