"""What `on_device.rs` measures, in PyTorch: training steps of SFT and SoFT, and decoding, of large shapes with random weights.

Knows nothing of this library's code. Needs torch, transformers and peft, and a GPU:

    python benches/peers/on_device.py --shape llama2-7b --train lora [--rows 8] [--length 512] [--steps 7] [--new-tokens 128]

Training all weights keeps them in f32 and computes under bf16 autocast, as is usual; adapters (peft) are trained beside frozen bf16
weights. Cross-entropy at the supervised second half of each row only (`soft-stacked`, the authors' way, holds the logits of all exits at
all positions). Decoding is transformers' `generate`, with `assistant_early_exit` for self-speculation, in bf16.
"""

import argparse
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
SHAPES = {"smollm2": (SMALL, 3), "llama2-7b": (SEVEN, 4), "llama2-13b": (THIRTEEN, 4)}


def model(shape, dtype, deviation=0.02):
    torch.manual_seed(42)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        made = LlamaForCausalLM(LlamaConfig(rms_norm_eps=1e-5, initializer_range=deviation, **SHAPES[shape][0]))
    torch.set_default_dtype(torch.float32)
    return made


def loss(llama, exits, stacked, args):
    vocab = llama.config.vocab_size
    tokens = ((torch.arange(args.rows)[:, None] * 31 + torch.arange(args.length)[None] * 7) % vocab).cuda()
    supervised = torch.arange(args.length - 1, device="cuda") >= args.length // 2 - 1
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


def train(args):
    depth, step = SHAPES[args.shape][0]["num_hidden_layers"], SHAPES[args.shape][1]
    every = list(range(12, depth + 1, step))
    lora = args.train == "lora"
    print(f"\ntraining, {args.train}, {args.rows} rows of {args.length} tokens: median of {args.steps}")
    print("| step | exits | s/step | tokens/s | time of SFT | peak GB |\n|---|---|---|---|---|---|")
    of_sft = None
    for name, exits in [("sft", [depth]), ("soft", [12, depth]), ("soft", every), ("soft-stacked", every)]:
        llama = model(args.shape, torch.bfloat16 if lora else torch.float32)
        if lora:
            from peft import LoraConfig, get_peft_model
            names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            llama = get_peft_model(llama, LoraConfig(r=16, lora_alpha=16, target_modules=names))
        llama.train()
        moving = [p for p in llama.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(moving, lr=2e-5, weight_decay=0.0)
        seconds = []
        torch.cuda.reset_peak_memory_stats()
        try:
            for _ in range(args.steps + 2):
                started = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    total = loss(llama, exits, name == "soft-stacked", args)
                total.backward()
                torch.nn.utils.clip_grad_norm_(moving, 1.0)
                optimizer.step()
                total.item()
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            taken = statistics.median(seconds[2:])
            of_sft = of_sft or taken
            peak = torch.cuda.max_memory_allocated() / 1e9
            speed = args.rows * args.length / taken
            print(f"| {name} | {exits} | {taken:.3f} | {speed:.0f} | {taken / of_sft:.2f} | {peak:.1f} |", flush=True)
        except torch.OutOfMemoryError:
            print(f"| {name} | {exits} | out of memory | | | |", flush=True)
        del llama, moving, optimizer
        total = None
        torch.cuda.empty_cache()


def decode(args):
    llama = model(args.shape, torch.bfloat16, 1e-5).eval()
    llama.generation_config.eos_token_id = None
    prompt = ((torch.arange(64)[None] * 37) % 101).cuda()
    print(f"\ndecoding one row, {args.new_tokens} tokens after 64: median of {args.answers}")
    print("| mode | tokens/s | ms/token |\n|---|---|---|")

    def taken(tokens, options):
        torch.cuda.synchronize()
        started = time.perf_counter()
        llama.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, **options)
        torch.cuda.synchronize()
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
    parser.add_argument("--train", choices=["nothing", "full", "lora"], default="full")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--answers", type=int, default=3)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    print(f"{args.shape}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
    if args.train != "nothing":
        train(args)
    if args.new_tokens:
        with torch.no_grad():
            decode(args)


if __name__ == "__main__":
    main()
