# SPDX-License-Identifier: GPL-2.0-or-later
"""What the instruction behind an SVM exit says.

The engine has neither DecodeAssists nor next-RIP: an exit for MOV CR, INVLPG or LMSW gives only its address.
Capstone reads the bytes; this module turns the few instructions that exit into the facts a handler needs.

    0f 22 d8  --->  Instruction(length=3, kind="mov_cr", write=True, number=3, gpr=0)
"""

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import capstone
from capstone import x86_const as x86

from .errors import EngineError

ADDRESS_BITS = {16: 0xFFFF, 32: 0xFFFFFFFF, 64: (1 << 64) - 1}
_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
_SEGMENTS = {x86.X86_REG_ES: 0, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2, x86.X86_REG_DS: 3, x86.X86_REG_FS: 4,
             x86.X86_REG_GS: 5}
_NAMES64 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
_MNEMONICS = {"invlpg": "invlpg", "invpcid": "invpcid", "clts": "clts", "lmsw": "lmsw", "smsw": "smsw"}


@dataclass(frozen=True)
class MemoryOperand:
    """A memory operand as written: x86 register numbers or None; `segment` is 0..5 with defaults resolved.

    `rip_relative` operands count from the end of the instruction.
    """

    segment: int
    base: int | None
    index: int | None
    scale: int
    displacement: int
    rip_relative: bool
    address_size: int


@dataclass(frozen=True)
class Instruction:
    """One decoded instruction.

    `kind` is "mov_cr", "mov_dr", "invlpg", "invpcid", "clts", "lmsw", "smsw" or "other"; for the first two
    `write` (to CR/DR), `number` (of it) and `gpr` are set, for the others `gpr` or `memory` is the operand.
    `size` is the operand's size in bytes.
    """

    length: int
    mnemonic: str
    kind: str = "other"
    write: bool = False
    number: int | None = None
    gpr: int | None = None
    memory: MemoryOperand | None = None
    size: int = 0


def code_bits(hardware):
    """16, 32 or 64: the kind of code the CPU is in."""
    flags = hardware.segment(1).flags
    if hardware.mode[2] & 0x400 and flags & 1 << 21:
        return 64
    return 32 if flags & 1 << 22 else 16


@lru_cache(maxsize=4096)
def decode(code, bits):
    """Decode the first instruction of `code` (bytes; may be longer) as `bits`-bit code.

    Raises EngineError if the bytes are no instruction or end too early.
    """
    for entry in _disassembler(bits).disasm(code, 0, 1):
        return _describe(entry, bits)
    if code[:1] == b"\xf0" and code[1:2] == b"\x0f":
        # LOCK MOV CR0 is AMD's name for CR8 in code without REX; capstone does not know it.
        locked = decode(code[1:], bits)
        if locked.kind == "mov_cr" and locked.number == 0:
            return replace(locked, length=locked.length + 1, mnemonic="lock " + locked.mnemonic, number=8)
    raise EngineError(f"no {bits}-bit instruction in bytes {bytes(code).hex(' ')}")


def linear_address(operand, hardware, length, bits):
    """Linear address of a memory operand: segment base + offset, truncated to the address size and the mode.

    `length` is the instruction's. In 64-bit code only FS and GS have a base.
    """
    gpr = hardware.gpr
    offset = operand.displacement
    if operand.base is not None:
        offset += gpr[operand.base]
    if operand.index is not None:
        offset += gpr[operand.index] * operand.scale
    if operand.rip_relative:
        offset += hardware.rip + length
    offset &= ADDRESS_BITS[operand.address_size]
    base = hardware.segment(operand.segment).base if bits != 64 or operand.segment >= 4 else 0
    return base + offset & ADDRESS_BITS[64 if bits == 64 else 32]


@cache
def _disassembler(bits):
    engine = capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits])
    engine.detail = True
    return engine


def _describe(entry, bits):
    operands = entry.operands
    facts = {"length": entry.size, "mnemonic": f"{entry.mnemonic} {entry.op_str}".strip()}
    if entry.mnemonic == "mov" and entry.opcode[0] == 0x0F and 0x20 <= entry.opcode[1] <= 0x23:
        write = entry.opcode[1] & 2 != 0
        number = entry.modrm >> 3 & 7 | (entry.rex & 4) << 1
        return Instruction(**facts, kind="mov_dr" if entry.opcode[1] & 1 else "mov_cr", write=write, number=number,
                           gpr=entry.modrm & 7 | (entry.rex & 1) << 3, size=8 if bits == 64 else 4)
    kind = _MNEMONICS.get(entry.mnemonic)
    if kind is None:
        return Instruction(**facts)
    gpr = memory = None
    size = 0
    for operand in operands:
        if operand.type == x86.X86_OP_MEM:
            memory, size = _memory(entry, operand.mem), operand.size
        elif operand.type == x86.X86_OP_REG:
            gpr = _number(entry.reg_name(operand.reg))
            size = size or operand.size
    return Instruction(**facts, kind=kind, gpr=gpr, memory=memory, size=size)


def _memory(entry, mem):
    base = entry.reg_name(mem.base) if mem.base else None
    index = entry.reg_name(mem.index) if mem.index else None
    rip_relative = base in ("rip", "eip")
    base = None if base is None or rip_relative else _number(base)
    if mem.segment:
        segment = _SEGMENTS[mem.segment]
    else:
        segment = 2 if base in (4, 5) else 3
    return MemoryOperand(segment, base, None if index in (None, "riz", "eiz") else _number(index), mem.scale,
                         mem.disp, rip_relative, entry.addr_size * 8)


def _number(name):
    """x86 number of a general register from any of its names except the high bytes."""
    if name[0] == "r" and name[1].isdigit():
        return int(name[1:].rstrip("bwd"))
    if name in ("al", "cl", "dl", "bl"):
        return "acdb".index(name[0])
    return next(number for number, wide in enumerate(_NAMES64) if name[-2:] == wide[-2:])
