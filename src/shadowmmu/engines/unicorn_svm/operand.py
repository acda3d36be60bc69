# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory operands of instructions in 64-bit and flat 32-bit code, decoded in compiled code.

    [prefixes] [REX, 64-bit only] opcode  ModRM [SIB] [displacement] [immediate]
                                          ^ at                       ^ what `effective_address` returns

Operand and address size are the code segment's own: the prefixes 66 and 67 are left to Python, as are 16-bit code and
code segments whose base is not 0.
"""

from ...state import core
from ...state.foreign import load32, load64
from . import offsets as o

CODE64, CODE32, OTHER_CODE = 2, 1, 0
VM86 = 1 << 17
CS, SS, DS = 1, 2, 3
RSP, RBP = 4, 5
LOW32 = 0xFFFFFFFF


@core
def code_kind(env):
    """CODE64, CODE32 (protected mode, base 0) or OTHER_CODE."""
    hflags = load32(env + o.HFLAGS)
    if hflags & o.HF_CS64:
        return CODE64
    if hflags & o.HF_CS32 == 0 or hflags & o.HF_PE == 0 or load64(env + o.EFLAGS) & VM86:
        return OTHER_CODE
    return CODE32 if load64(env + o.SEGS + o.SEG_SIZE * CS + o.SEG_BASE) == 0 else OTHER_CODE


@core
def little_endian(code, at, size):
    """A signed value of 1 or 4 bytes in the instruction."""
    value = code[at] + 0
    if size == 4:
        value |= code[at + 1] << 8 | code[at + 2] << 16 | code[at + 3] << 24
    sign = 1 << (8 * size - 1)
    return (value ^ sign) - sign


@core
def segment_of_prefix(byte):
    """Number of the segment register that a prefix byte names, or -1."""
    if byte == 0x64 or byte == 0x65:
        return byte - 0x60
    if byte == 0x26 or byte == 0x2E or byte == 0x36 or byte == 0x3E:
        return byte - 0x26 >> 3
    return -1


@core
def linear(env, kind, segment, offset):
    """Linear address.  Of 64-bit code's segments only FS and GS have a base."""
    if kind == CODE64 and segment < 4:
        return offset
    address = load64(env + o.SEGS + o.SEG_SIZE * segment + o.SEG_BASE) + offset
    return address if kind == CODE64 else address & LOW32


@core
def effective_address(code, limit, at, rex, env, kind, following):
    """(offset, index behind the operand, default segment) of the operand whose ModRM is at `at`; index 0: does not fit.

    following: bytes of immediate behind it; RIP-relative operands count from the end."""
    mode = code[at] >> 6
    low = code[at] & 7
    at += 1
    base = low | (rex & 1) << 3
    offset = 0
    if low == 4:
        if at >= limit:
            return 0, 0, DS
        sib = code[at] + 0
        at += 1
        index = sib >> 3 & 7 | (rex & 2) << 2
        base = sib & 7 | (rex & 1) << 3
        if index != 4:
            offset = load64(env + o.REGS + 8 * index) << (sib >> 6)
        if sib & 7 == 5 and mode == 0:
            base = -1
    elif low == 5 and mode == 0:
        base = -2
    size = 1 if mode == 1 else (4 if mode == 2 or base < 0 else 0)
    if at + size > limit:
        return 0, 0, DS
    if size:
        offset += little_endian(code, at, size)
    at += size
    if base >= 0:
        offset += load64(env + o.REGS + 8 * base)
    elif base == -2 and kind == CODE64:
        offset += load64(env + o.EIP) + at + following
    segment = SS if base == RSP or base == RBP else DS
    return offset if kind == CODE64 else offset & LOW32, at, segment
