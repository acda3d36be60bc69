# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of random bytes; `python hostile.py FIRST COUNT INSTRUCTIONS` runs some and prints how each ended.

    bytes     code is random, entered in long mode or protected mode
    tables    a loop stores random words into the guest's own page tables and reads through them
    storm     the IDT sends every page fault to an instruction that faults again
"""

import random
import struct
import sys
from collections import Counter

from shadowmmu.engines.unicorn_svm.errors import EngineError
from shadowmmu.guests import boot_params, session
from shadowmmu.guests.image import GuestImage
from shadowmmu.vm import VmError

MEMORY = 16 << 20
CODE_AT = 0x200000
#: XORSHIFT on %rbx; store to a random word of the six table pages; load through a random page of the first 16 MiB
TABLES = bytes.fromhex(
    "4889d8 48c1e00d 4831c3 4889d8 48c1e807 4831c3 4889d8 48c1e011 4831c3"   # rbx ^= rbx << 13, >> 7, << 17
    "4889d9 81e1f85f0000 81c100000100"                                       # ecx = 0x10000 + (rbx & 0x5ff8)
    "4889d8 4825ff0fff00 4883c867 488901"                                    # [rcx] = rbx & 0xff0fff | 0x67
    "4889d9 48c1e910 81e1f8ffff00 488b11"                                    # rdx = [rbx >> 16 & 0xfffff8]
    "ebb7")


def guest(seed):
    """A GuestImage from a seed."""
    chance = random.Random(seed)
    kind = seed % 3
    code = chance.randbytes(4096)
    if kind == 1:
        code = b"\x48\xbb" + chance.randbytes(8) + TABLES
    elif kind == 2:
        # lidt from a table whose gate 14 leads to a load from an unmapped address; then fault
        code = bytes.fromhex("0f011d00010000 48b80000000000800000 488b00 ebfe").ljust(0x107, b"\x90")
        code += struct.pack("<HQ", 0xFFF, CODE_AT + 0x1000)
        handler = CODE_AT + 7
        gate = struct.pack("<HHBBHII", handler & 0xFFFF, 0x10, 0, 0x8E, handler >> 16 & 0xFFFF, 0, 0)
        code = code.ljust(0x1000, b"\0") + gate * 256
    tables_at, tables = boot_params.identity_tables()
    state, gdt = boot_params.entry64(CODE_AT) if kind or chance.random() < 0.6 else boot_params.entry32(CODE_AT)
    return GuestImage(f"seed {seed}", MEMORY, ((tables_at, tables), gdt, (CODE_AT, code)), state, "pc")


def outcome(seed, instructions):
    """How a guest ended: a short word.  Exceptions of ours other than these two would be a bug."""
    try:
        return session.run(guest(seed), max_instructions=instructions, timeout=20).report.reason
    except (EngineError, VmError) as error:
        return f"{type(error).__name__}: {str(error)[:60]}"


if __name__ == "__main__":
    first, count, instructions = map(int, sys.argv[1:4])
    ends = Counter()
    for number in range(first, first + count):
        print(f"seed {number}", end=" ", flush=True)
        ends[end := outcome(number, instructions)] += 1
        print(end, flush=True)
    print(*(f"{end}: {n}" for end, n in ends.most_common()), sep="\n")
