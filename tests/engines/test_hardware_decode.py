# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding of the instructions behind exits; the lengths are also checked by executing them."""

import pytest

from shadowmmu.engines.unicorn_svm import EngineError
from shadowmmu.engines.unicorn_svm import exits as ex
from shadowmmu.engines.unicorn_svm.decode import code_bits, decode, linear_address

from .test_hardware_harness import CODE, Machine, code


@pytest.mark.parametrize("text, write, number, gpr", [
    ("0f 22 d8", True, 3, 0), ("41 0f 22 df", True, 3, 15), ("0f 20 e1", False, 4, 1),
    ("44 0f 20 c2", False, 8, 2), ("44 0f 22 c0", True, 8, 0), ("f0 0f 20 c0", False, 8, 0), ("0f 22 c3", True, 0, 3),
])
def test_mov_cr(text, write, number, gpr):
    entry = decode(code(text) + b"\x90\x90", 64)
    assert (entry.kind, entry.write, entry.number, entry.gpr) == ("mov_cr", write, number, gpr)
    assert entry.length == len(code(text))


def test_mov_dr():
    entry = decode(code("0f 23 f8"), 32)
    assert (entry.kind, entry.write, entry.number, entry.gpr, entry.size) == ("mov_dr", True, 7, 0, 4)


@pytest.mark.parametrize("text, kind", [("0f 06", "clts"), ("0f 01 f3", "lmsw"), ("0f 01 e3", "smsw"),
                                        ("66 0f 38 82 03", "invpcid"), ("f4", "other"), ("0f a2", "other")])
def test_other_kinds(text, kind):
    entry = decode(code(text), 64)
    assert entry.kind == kind and entry.length == len(code(text))
    if kind in ("lmsw", "smsw"):
        assert entry.gpr == 3


@pytest.mark.parametrize("mode, text, expected", [
    ("long", "0f 01 38", 0x1111_2222_3333_4444),                       # [rax]
    ("long", "67 0f 01 38", 0x3333_4444),                              # [eax]
    ("long", "41 0f 01 7c cd 10", (5 + 8 * 3 + 0x10)),                 # [r13 + rcx*8 + 0x10]
    ("long", "0f 01 3d 00 10 00 00", CODE + 7 + 0x1000),               # [rip + 0x1000]
    ("long", "65 0f 01 3c 25 30 00 00 00", 0x7700_0000_0030),          # gs:[0x30]
    ("long", "36 0f 01 38", 0x1111_2222_3333_4444),                    # ss: has no base in 64-bit code
    ("long", "0f 01 7d 00", 0x9_0000_0000),                            # [rbp]
    ("pae", "0f 01 38", 0x3333_4444 + 0x10000),                        # ds base
    ("pae", "0f 01 7d fc", 0x1_FFFC),                                  # [ebp-4], ss base
    ("pae", "67 0f 01 3f", 0x10000 + 0x6677),                          # [bx]
    ("real", "0f 01 38", 0x10000 + (0x6677 + 0x5566 & 0xFFFF)),        # [bx+si]
])
def test_invlpg_operand(mode, text, expected):
    machine = Machine(mode)
    hw = machine.hardware
    machine.run(code(text))
    assert machine.exits == [ex.INVLPG]
    if mode != "long":
        for number in (2, 3):
            old = hw.segment(number)
            hw.set_segment(number, old.selector, 0x10000, old.limit, old.flags)
        hw.gpr[5] = 0x10000 if mode == "pae" else 0x2000
        hw.gpr[3], hw.gpr[6] = 0x8899_6677, 0x5566
    else:
        hw.write_msr(0xC0000101, 0x7700_0000_0000)
        hw.gpr[5] = 0x9_0000_0000
    hw.gpr[0], hw.gpr[13], hw.gpr[1] = 0x1111_2222_3333_4444, 5, 3
    bits = code_bits(hw)
    entry = decode(hw.instruction_bytes, bits)
    assert entry.kind == "invlpg" and entry.length == len(code(text))
    assert linear_address(entry.memory, hw, entry.length, bits) == expected


def test_not_an_instruction():
    with pytest.raises(EngineError, match="06 90"):
        decode(b"\x06\x90", 64)
    with pytest.raises(EngineError):
        decode(b"\x0f", 64)
