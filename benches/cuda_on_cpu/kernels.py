"""What NVIDIA's compilers make of kernels: kernels.py COMPILATIONS PTXAS

Seconds of NVRTC, from C++ to PTX, and of ptxas, from PTX to instructions as the driver does it, both on this machine;
registers of a thread and bytes that do not fit in them, with the instruction set of Hopper.
"""

import collections
import re
import subprocess
import sys
import time

compilations, ptxas = sys.argv[1:]
table = collections.defaultdict(list)
for line in open(compilations):
    stem, name, result, nvrtc, _ = line.rstrip("\n").split("\t")
    if result != "0":
        sys.exit(f"NVRTC refuses {stem}.cu: {result}")
    begun = time.time()
    command = [ptxas, "-arch=sm_90a", "-v", f"{stem}.ptx", "-o", f"{stem}.cubin"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    # Names end with the types and a hash.
    kind = re.sub(r"(_[a-z]+_(f32|bf16|f16|i32|i64|n_\d+|size_\d+))*_[0-9a-f]{6,8}$", "", name)
    table[kind].append((float(nvrtc), time.time() - begun, int(registers[1]), int(spilled[1])))

print("\n| kernel | specializations | NVRTC s | ptxas s | most registers | most bytes spilled |")
print("|---|---|---|---|---|---|")
total = [0, 0.0, 0.0]
for kind, rows in sorted(table.items(), key=lambda row: -sum(it[0] + it[1] for it in row[1])):
    nvrtc, assembled, registers, spilled = zip(*rows)
    total = [total[0] + len(rows), total[1] + sum(nvrtc), total[2] + sum(assembled)]
    print(f"| {kind} | {len(rows)} | {sum(nvrtc):.2f} | {sum(assembled):.2f} | {max(registers)} | {max(spilled)} |")
print(f"| all | {total[0]} | {total[1]:.2f} | {total[2]:.2f} | | |")
