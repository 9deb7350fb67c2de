"""Prints the orders pinned in src/shuffle.rs and src/split.rs, from an independent ChaCha8.

Standard library only: python3 orders.py
"""

import struct

MASK = 0xFFFFFFFF


def quarter(x, a, b, c, d):
    for left, right, third, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[left] = (x[left] + x[right]) & MASK
        mixed = x[third] ^ x[left]
        x[third] = (mixed << turn | mixed >> (32 - turn)) & MASK


def numbers(key):
    """The key stream as little-endian 64-bit numbers, nonce 0, counter from 0."""
    counter = 0
    while True:
        start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key),
                 *struct.unpack("<2I", struct.pack("<Q", counter)), 0, 0]
        x = start[:]
        for _ in range(4):
            for lane in range(4):
                quarter(x, lane, 4 + lane, 8 + lane, 12 + lane)
            for lane in range(4):
                quarter(x, lane, 4 + (lane + 1) % 4, 8 + (lane + 2) % 4, 12 + (lane + 3) % 4)
        block = struct.pack("<16I", *((a + b) & MASK for a, b in zip(x, start)))
        yield from struct.unpack("<8Q", block)
        counter += 1


def shuffled(items, purpose, seed, epoch):
    random = numbers(struct.pack("<QQ8s8x", seed, epoch, purpose))
    for last in range(len(items) - 1, 0, -1):
        bound = last + 1
        complete = 2**64 - 1 - (2**64 - 1) % bound
        draw = next(draw for draw in random if draw < complete)
        items[last], items[draw % bound] = items[draw % bound], items[last]
    return items


print("rows    42 0", shuffled([*range(10)], b"rows    ", 42, 0))
print("rows    42 1", shuffled([*range(10)], b"rows    ", 42, 1))
print("batches 42 0", shuffled([*range(10)], b"batches ", 42, 0))
print("split   42 0", shuffled([*range(10)], b"split   ", 42, 0))
held_out = shuffled([row < 4 for row in range(20)], b"split   ", 0, 0)
print("split 4 of 20", [row for row in range(20) if held_out[row]])
