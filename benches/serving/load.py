"""Many clients at once against `soft serve`: every answer that is finished must be that of `soft generate`.

    pip install httpx
    python benches/serving/load.py --model MODEL --exits 12,21,30 --prompts prompts.jsonl --clients 64 --seconds 300

PROMPTS are JSON lines with a `prompt`. Starts the server, and first decodes the prompts offline in every mode. Clients ask in
random modes and depths; a tenth hangs up in mid-answer. Prints throughput, latencies and the server's memory, then the same with
one client, and restarts the server while clients wait. Exit status 1 if an answer differs, a row leaks or a client hangs.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time

import httpx


class Server:
    def __init__(self, args):
        command = [args.soft, "serve", "--model", args.model, "--name", "m", "--exits", args.exits, "--listen", "127.0.0.1:0"]
        command += ["--rows", str(args.rows)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().split("; ")[0].split(" at ")[1].removesuffix("/v1")

    def memory(self):
        """Resident megabytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def metrics(self):
        lines = httpx.get(f"{self.address}/metrics").text.splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def modes(args):
    """The names that requests use, and the mode of `soft generate` that they stand for."""
    exits = args.exits.split(",")
    depths = {f"m@{exit}": f"exit={exit}" for exit in exits[:-1]}
    every = {"m": "full", **depths, "m@auto": "auto", "m@speculative": "speculative", "m@dynamic": "dynamic"}
    return {name: mode for name, mode in every.items() if not args.names or name in args.names.split(",")}


def offline(args, mode):
    """The tokens of the answer to every prompt."""
    command = [args.soft, "generate", "--model", args.model, "--prompts", args.prompts, "--json", "--mode", mode]
    command += ["--max-new-tokens", str(args.tokens), "--batch", "8"]
    if mode in ("auto", "speculative", "dynamic"):
        command += ["--exits", args.exits]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["tokens"] for line in lines[:-1]]


class Load:
    def __init__(self, args, server, expected, prompts):
        self.args, self.server, self.expected, self.prompts = args, server, expected, prompts
        self.tokens, self.finished, self.hung_up, self.wrong, self.errors = 0, 0, 0, [], []
        self.first, self.per_token = [], []

    async def ask(self, client, rng, may_hang_up):
        name = rng.choice(list(self.expected))
        index = rng.randrange(len(self.prompts))
        body = {"model": name, "prompt": self.prompts[index], "max_tokens": self.args.tokens, "temperature": 0, "stream": True}
        leaves_after = rng.randrange(1, self.args.tokens) if may_hang_up and rng.random() < 0.1 else None
        begun, found, times = time.monotonic(), [], []
        async with client.stream("POST", f"{self.server.address}/v1/completions", json=body) as response:
            if response.status_code != 200:
                self.errors.append((response.status_code, (await response.aread()).decode()))
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                ids = json.loads(line[6:])["choices"][0]["token_ids"]
                found += ids
                times += [time.monotonic()] * len(ids)
                self.tokens += len(ids)
                if leaves_after is not None and len(found) >= leaves_after:
                    self.hung_up += 1
                    return
        self.finished += 1
        if found != self.expected[name][index]:
            self.wrong.append((name, index, found, self.expected[name][index]))
        if times:
            self.first.append(times[0] - begun)
        if len(times) > 1:
            self.per_token.append((times[-1] - times[0]) / (len(times) - 1))

    async def client(self, number, until, may_hang_up):
        rng = random.Random(number)
        async with httpx.AsyncClient(timeout=120) as client:
            while time.monotonic() < until:
                try:
                    await self.ask(client, rng, may_hang_up)
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                    return

    async def run(self, clients, seconds, may_hang_up):
        begun, memory = time.monotonic(), []

        async def watch():
            while True:
                memory.append(self.server.memory())
                await asyncio.sleep(max(1, seconds / 20))

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(self.client(number, begun + seconds, may_hang_up) for number in range(clients)))
        watching.cancel()
        took = time.monotonic() - begun
        cut = lambda values, share: sorted(values)[int(share * (len(values) - 1))] * 1000 if values else float("nan")
        half = memory[len(memory) // 2]
        print(f"{clients} clients, {took:.0f} s: {self.finished} answers, {self.hung_up} hung up, {self.tokens / took:.1f} tokens/s, "
              f"first token {cut(self.first, 0.5):.0f} ms (95 %: {cut(self.first, 0.95):.0f}), "
              f"per token {cut(self.per_token, 0.5):.1f} ms (95 %: {cut(self.per_token, 0.95):.1f}), "
              f"memory {half:.0f} MB after half of the time, {memory[-1]:.0f} MB at the end; "
              f"{len(self.wrong)} wrong, {len(self.errors)} errors", flush=True)
        return self.tokens / took


def wait_until_idle(server):
    for _ in range(100):
        metrics = server.metrics()
        if metrics["soft_active_rows"] == 0 and metrics["soft_queue_length"] == 0:
            return True
        time.sleep(0.1)
    return False


async def kill_and_restart(args, server, prompts):
    """Clients of a killed server get an error at once; a new server answers."""
    async def ask(address):
        async with httpx.AsyncClient(timeout=20) as client:
            body = {"model": "m", "prompt": prompts[0], "max_tokens": args.tokens, "temperature": 0, "ignore_eos": True}
            return await client.post(f"{address}/v1/completions", json=body)

    asked = [asyncio.create_task(ask(server.address)) for _ in range(16)]
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    server.process.kill()
    found = await asyncio.gather(*asked, return_exceptions=True)
    errors = sum(isinstance(result, httpx.HTTPError) for result in found)
    took = time.monotonic() - begun
    again = Server(args)
    answered = (await ask(again.address)).status_code == 200
    again.process.terminate()
    print(f"killed: {errors} of {len(found)} clients got an error within {took:.2f} s; the new server answers: {answered}")
    return errors > 0 and took < 5 and answered


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soft", default="target/release/soft")
    parser.add_argument("--model", required=True)
    parser.add_argument("--exits", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--names", help="of the model in requests, such as m,m@auto [default: all]")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--alone", type=float, default=60, help="seconds with one client")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer at most")
    parser.add_argument("--rows", type=int, default=8)
    args = parser.parse_args()
    with open(args.prompts) as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    expected = {name: offline(args, mode) for name, mode in modes(args).items()}
    mean = statistics.mean(len(tokens) for answers in expected.values() for tokens in answers)
    print(f"{len(prompts)} prompts in {len(expected)} modes, {mean:.1f} tokens per answer, {args.rows} rows", flush=True)
    server = Server(args)
    fine = True
    for clients, seconds in [(args.clients, args.seconds), (1, args.alone)]:
        load = Load(args, server, expected, prompts)
        asyncio.run(load.run(clients, seconds, may_hang_up=clients > 1))
        idle = wait_until_idle(server)
        fine = fine and not load.wrong and not load.errors and idle
        for problem in load.wrong[:3] + load.errors[:3]:
            print(problem)
        if not idle:
            print("rows or queue are not empty:", server.metrics())
    metrics = server.metrics()
    by_exit = {key: int(value) for key, value in metrics.items() if key.startswith("soft_tokens_total") or "answers" in key}
    print(by_exit, f"drafts accepted: {metrics['soft_accepted_total']:.0f} of {metrics['soft_verified_total']:.0f}")
    fine = asyncio.run(kill_and_restart(args, server, prompts)) and fine
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
