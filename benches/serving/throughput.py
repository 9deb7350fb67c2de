"""Throughput of running servers with OpenAI's API, in turns: greedy completions by one client and by several.

    pip install httpx
    python benches/serving/throughput.py --server soft=http://127.0.0.1:8000 --server llama=http://127.0.0.1:8001 \\
        --prompts prompts.jsonl [--clients 1,8] [--seconds 30] [--rounds 3]

PROMPTS are JSON lines with a `prompt`. Prints tokens per second, the median over rounds and the range, and latencies.
"""

import argparse
import asyncio
import json
import random
import statistics
import time

import httpx


async def client(address, args, prompts, number, until, found):
    rng = random.Random(number)
    async with httpx.AsyncClient(timeout=120) as http:
        while time.monotonic() < until:
            body = {"prompt": rng.choice(prompts), "max_tokens": args.tokens, "temperature": 0}
            begun = time.monotonic()
            response = await http.post(f"{address}/v1/completions", json=body)
            response.raise_for_status()
            found.append((response.json()["usage"]["completion_tokens"], time.monotonic() - begun, time.monotonic()))


async def load(address, args, prompts, clients):
    begun, found = time.monotonic(), []
    until = begun + args.seconds
    await asyncio.gather(*(client(address, args, prompts, number, until, found) for number in range(clients)))
    took = max(end for _, _, end in found) - begun
    return sum(tokens for tokens, _, _ in found) / took, statistics.median(latency for _, latency, _ in found), len(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, help="NAME=URL, several times")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    servers = [server.split("=", 1) for server in args.server]
    with open(args.prompts) as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    results = {}
    for _ in range(args.rounds):
        for clients in map(int, args.clients.split(",")):
            for name, address in servers:
                results.setdefault((name, clients), []).append(asyncio.run(load(address, args, prompts, clients)))
    print("| server | clients | tokens/s | range | median time of an answer, ms | answers |")
    print("|---|---|---|---|---|---|")
    for (name, clients), runs in results.items():
        speeds = [speed for speed, _, _ in runs]
        latency = 1000 * statistics.median(latency for _, latency, _ in runs)
        print(f"| {name} | {clients} | {statistics.median(speeds):.1f} | {min(speeds):.1f} to {max(speeds):.1f} | {latency:.0f} | "
              f"{sum(count for _, _, count in runs)} |")


if __name__ == "__main__":
    main()
