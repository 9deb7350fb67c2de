"""What `on_device.rs` measures, in PyTorch: training steps of SFT and SoFT, and decoding, of large shapes with random weights.

Knows nothing of this library's code. Needs torch and transformers, for adapters peft:

    python benches/peers/on_device.py --shape llama2-7b --train lora [--device cuda] [--dtype bf16] [--rows 8] [--length 512] [--steps 7]

Training all weights keeps them in f32 and computes under autocast of the type, as is usual, with the fused AdamW; adapters (peft) are trained beside frozen
weights of the type. Cross-entropy at the supervised second half of each row only (`soft-stacked`, the authors' way, holds the logits of all exits at
all positions). Decoding is transformers' `soft generate`, with `assistant_early_exit` for self-speculation, in the type.
"""

import time

BEGAN = time.perf_counter()  # before the libraries are loaded, which a cold start includes

import argparse
import statistics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TINY = dict(
    vocab_size=218, hidden_size=96, intermediate_size=256, num_hidden_layers=15, num_attention_heads=6, num_key_value_heads=6,
    head_dim=16, max_position_embeddings=2048, tie_word_embeddings=True,
)
SMALL = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    head_dim=64, max_position_embeddings=2048, tie_word_embeddings=True,
)
SEVEN = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    head_dim=128, max_position_embeddings=4096, tie_word_embeddings=False,
)
THIRTEEN = SEVEN | dict(
    hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=40,
)
SHAPES = {"tiny": (TINY, 3), "smollm2": (SMALL, 3), "llama2-7b": (SEVEN, 4), "llama2-13b": (THIRTEEN, 4)}


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def synchronize(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def model(args, dtype, deviation=0.02):
    torch.manual_seed(42)
    torch.set_default_dtype(dtype)
    with torch.device(args.device):
        made = LlamaForCausalLM(LlamaConfig(rms_norm_eps=1e-5, initializer_range=deviation, **SHAPES[args.shape][0]))
    torch.set_default_dtype(torch.float32)
    return made


def loss(llama, exits, stacked, args):
    vocab = llama.config.vocab_size
    tokens = ((torch.arange(args.rows)[:, None] * 31 + torch.arange(args.length)[None] * 7) % vocab).to(args.device)
    supervised = torch.arange(args.length - 1, device=args.device) >= args.length // 2 - 1
    targets = tokens[:, 1:][:, supervised].flatten()
    body = llama.get_base_model() if hasattr(llama, "get_base_model") else llama
    output = body.model(tokens, use_cache=False, output_hidden_states=True)
    depth = body.config.num_hidden_layers
    # The last of transformers' hidden states is normed already.
    normed = [output.hidden_states[n] if n == depth else body.model.norm(output.hidden_states[n]) for n in exits]
    if stacked:
        logits = torch.stack([body.lm_head(x) for x in normed])
        chosen = [x[:, :-1][:, supervised].flatten(0, 1) for x in logits]
    else:
        chosen = [body.lm_head(x[:, :-1][:, supervised]).flatten(0, 1) for x in normed]
    return sum(torch.nn.functional.cross_entropy(x.float(), targets) for x in chosen) / len(chosen)


HEADINGS = "| step | exits | s/step | tokens/s | time of SFT | peak GB |\n|---|---|---|---|---|---|"


def train(args):
    depth, step = SHAPES[args.shape][0]["num_hidden_layers"], SHAPES[args.shape][1]
    every = list(range(12, depth + 1, step))
    lora = args.train == "lora"
    print(f"\ntraining, {args.train}, {args.rows} rows of {args.length} tokens: median of {args.steps}")
    of_sft = None
    is_on_cuda, is_first = args.device == "cuda", True
    for side, exits in [("sft", [depth]), ("soft-two", [12, depth]), ("soft", every), ("soft-stacked", every)]:
        if args.side not in (None, side):
            continue
        llama = model(args, DTYPES[args.dtype] if lora else torch.float32)
        if lora:
            from peft import LoraConfig, get_peft_model
            names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            llama = get_peft_model(llama, LoraConfig(r=16, lora_alpha=16, target_modules=names))
        llama.train()
        moving = [p for p in llama.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(moving, lr=2e-5, weight_decay=0.0, fused=True)
        seconds = []
        if is_on_cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(args.steps + 2):
                started = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
                    total = loss(llama, exits, side == "soft-stacked", args)
                total.backward()
                torch.nn.utils.clip_grad_norm_(moving, 1.0)
                optimizer.step()
                total.item()
                synchronize(args)
                seconds.append(time.perf_counter() - started)
                if is_first:
                    print(f"first step done {time.perf_counter() - BEGAN:.2f} s after the start of the program")
                    print(HEADINGS)
                    is_first = False
            taken = statistics.median(seconds[2:])
            of_sft = of_sft or taken
            peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if is_on_cuda else "–"
            speed = args.rows * args.length / taken
            print(f"| {side} | {exits} | {taken:.3f} | {speed:.0f} | {taken / of_sft:.2f} | {peak} |", flush=True)
        except torch.OutOfMemoryError:
            print(f"| {side} | {exits} | out of memory | | | |", flush=True)
        del llama, moving, optimizer
        total = None
        if is_on_cuda:
            torch.cuda.empty_cache()


def decode(args):
    llama = model(args, DTYPES[args.dtype], 1e-5).eval()
    llama.generation_config.eos_token_id = None
    prompt = ((torch.arange(64)[None] * 37) % 101).to(args.device)
    print(f"\ndecoding one row, {args.new_tokens} tokens after 64: median of {args.answers}")
    print("| mode | tokens/s | ms/token |\n|---|---|---|")

    def taken(tokens, options):
        synchronize(args)
        started = time.perf_counter()
        llama.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, **options)
        synchronize(args)
        return time.perf_counter() - started

    for name, options in [("full", {}), ("self-speculative, exit 12", {"assistant_early_exit": 12})]:
        try:
            taken(args.new_tokens, options)
            # Without the prompt's pass and what is computed once.
            runs = [taken(args.new_tokens, options) - taken(1, options) for _ in range(args.answers)]
            each = statistics.median(runs) / (args.new_tokens - 1)
            print(f"| {name} | {1 / each:.1f} | {1000 * each:.2f} |", flush=True)
        except Exception as reason:  # versions of transformers differ in what they let one do
            print(f"| {name} | failed: {type(reason).__name__}: {str(reason)[:100]} | |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--side", choices=["sft", "soft-two", "soft", "soft-stacked"])
    parser.add_argument("--train", choices=["nothing", "full", "lora"], default="full")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--answers", type=int, default=3)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    place = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"{args.shape} on {place}, {args.dtype}, torch {torch.__version__}")
    if args.train != "nothing":
        train(args)
    if args.new_tokens:
        with torch.no_grad():
            decode(args)


if __name__ == "__main__":
    main()
