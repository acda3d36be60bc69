# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's walker against the oracle's, over all combinations of entry bits.

Per mode and per pair of levels (upper, lower) of the path; the other entries of the path permit everything:

    format   every combination of all FORMAT bits in both entries (20 to 21 bits: 1 to 2 million), for FORMAT_ACCESSES,
             NXE off and on
    rights   every combination of P W U NX A (both) and D (lower), for every kind of access, WP, NXE, SMEP, SMAP, AC
    keys     64-bit modes: W, U and the key of the leaf, every PKRU of that key, WP, every kind of access

With SHADOWMMU_EXHAUSTIVE=1 one pair per mode gets the whole product: all FORMAT bits but G, 9 x 9, every kind of
access, all 32 control combinations (64 million cases a pair).  Interpreted (SHADOWMMU_JIT=0) a fixed sample of the
combinations is walked.  Compared: fault or not, error code, guest-physical address, rights of the path, both entries
afterwards.

What KVM does otherwise than the manuals is in DEVIATIONS; the tests below them pin each one down.
"""

import itertools
import os

import pytest
from walk_machine import ACCESSES, CASES, ROOT, Controls, WalkMachine

from shadowmmu.oracle import walker as ow
from shadowmmu.state import JIT

PAIRS = {"bits32": [(2, 1)], "pae": [(2, 1)], "level4": [(2, 1), (3, 2), (4, 3), (4, 1)],
         "level5": [(2, 1), (5, 4), (5, 1)]}
CASES_OF = [(mode, pair) for mode, pairs in PAIRS.items() for pair in pairs]

P, W, U, A, D, PS, G, LOW, HIGH, NX = 0, 1, 2, 5, 6, 7, 8, 13, 40, 63
FORMAT = [P, W, U, A, D, PS, G, LOW, HIGH, NX]
#: 4-byte PDE: bits 13..21 lie around PSE-36's address field.
FORMAT32 = ([P, W, U, A, D, PS, 13, 16, 17, 20, 21], [P, W, U, A, D, PS, G, 13])
FORMAT_ACCESSES = ("read", "user fetch", "user write")
RIGHTS = ([P, W, U, A, NX], [P, W, U, A, D, NX])
RIGHTS32 = ([P, W, U, A, PS], [P, W, U, A, D])

DEVIATIONS = (
    # what KVM does, where, what the manuals say
    ("error code bit 4 (I/D) of a fetch in 32-bit paging with NXE=1, SMEP=0",
     "walk.fail tests EFER.NXE alone, like FNAME(walk_addr_generic)",
     "SDM 4.7: only if SMEP, or CR4.PAE and NXE; APM 8.4.2: only defined if NXE and PAE; test_fetch_bit_without_pae"),
    ("PSE-36 with MAXPHYADDR > 36: PDE bits 20:17 are reserved",
     "contexts.reset_rsvd_bits and walk_once know 4 address bits, like __reset_rsvds_bits_mask and pse36_gfn_delta",
     "SDM 4.3: M = min(40, MAXPHYADDR), bits (M-20):13 are address; APM 5.2.2: bits 20:13; test_pse36_above_64_gbytes"),
    ("PSE-36 with MAXPHYADDR < 36: PDE bits 16:(M-19) are not reserved", "same", "SDM 4.3; "
     "test_pse36_below_64_gbytes"),
    ("32-bit and PAE paging use CR3 bits 63:32 for the first table",
     "walk_once and load_pdptrs take the whole register",
     "SDM tables 4-3, 4-7: bits 63:32 are ignored; test_high_half_of_cr3"),
)


def sampled(positions, mode_wide):
    """Interpreted, both lists lose bits: about 100 combinations stay."""
    if JIT:
        return positions
    keep = [b for b in positions if b in (P, W, U, A)] if mode_wide else [b for b in positions if b not in (A, D, G)]
    return keep[:4]


def bases(machine, levels):
    """Frame bits of both entries; a leaf level above 1 gets PS through the varied bits."""
    return machine.target(levels[0]), machine.target(levels[1])


def check(machine, names, levels, positions, controls, what):
    machine.reset_path()
    for c in controls:
        machine.control(c)
        for name in names:
            difference = machine.compare(name, levels, bases(machine, levels), positions)
            assert difference is None, f"{machine.mode} {levels} {name} {c} ({what}): {difference}"


def all_controls(mode):
    # 32-bit paging with NXE is a deviation of its own
    nxe = (False,) if mode == "bits32" else (False, True)
    return [Controls(*v) for v in itertools.product((False, True), nxe, (False, True), (False, True), (False, True))]


@pytest.mark.parametrize("mode, levels", CASES_OF)
def test_format(mode, levels):
    for amd in (False, True) if mode.startswith("level") else (True,):
        machine = WalkMachine(mode, amd=amd)
        positions = FORMAT32 if mode == "bits32" else (FORMAT, FORMAT)
        positions = [sampled(p, False) for p in positions]
        nxe = (False,) if mode == "bits32" else (False, True)
        names = FORMAT_ACCESSES if amd and JIT else FORMAT_ACCESSES[2:3]
        controls = [Controls(nxe=n, pse=s) for n in nxe for s in ((False, True) if mode == "bits32" else (True,))]
        check(machine, names, levels, positions, controls, f"format, AMD {amd}")
        if JIT:
            assert machine.report[CASES] >= 1 << 20


@pytest.mark.parametrize("mode, levels", CASES_OF)
def test_rights(mode, levels):
    machine = WalkMachine(mode)
    positions = [sampled(p, True) for p in (RIGHTS32 if mode == "bits32" else RIGHTS)]
    controls = all_controls(mode) if JIT else all_controls(mode)[::7]
    check(machine, ACCESSES if JIT else list(ACCESSES)[::3], levels, positions, controls, "rights")


def test_rights_of_large_pages():
    for mode, leaf in (("bits32", 2), ("pae", 2), ("level4", 2), ("level4", 3)):
        machine = WalkMachine(mode)
        upper = leaf + 1 if mode == "level4" else leaf
        machine.reset_path()
        for c in all_controls(mode) if JIT else all_controls(mode)[::9]:
            machine.control(c)
            for name in ACCESSES:
                # one leaf, varied twice when there is no entry above it
                positions = ([P, W, U] if upper != leaf else [], [P, W, U, A, D] + ([NX] if mode != "bits32" else []))
                difference = machine.compare(name, (upper, leaf), (machine.target(upper), machine.target(leaf) | 0x80),
                                             positions)
                assert difference is None, f"{mode} leaf {leaf} {name} {c}: {difference}"


@pytest.mark.parametrize("mode", ["level4", "level5"])
def test_protection_keys(mode):
    machine = WalkMachine(mode)
    for wp, smap, ac, rights, pke in itertools.product((False, True), (False, True), (False, True), range(4),
                                                       (False, True)):
        for key in (0, 5, 15):
            machine.control(Controls(wp=wp, smap=smap, ac=ac, pke=pke, pkru=rights << 2 * key))
            for name in ACCESSES:
                lower = machine.target(1) | key << 59
                difference = machine.compare(name, (2, 1), (machine.target(2) | 1, lower), ([W, U], [P, W, U, D]))
                assert difference is None, f"{mode} key {key} PKRU {rights} {name} WP {wp}: {difference}"


@pytest.mark.parametrize("maxphyaddr", [36, 39, 45, 51])
@pytest.mark.parametrize("mode", ["pae", "level4", "level5"])
def test_every_single_reserved_bit(mode, maxphyaddr):
    machine = WalkMachine(mode, maxphyaddr=maxphyaddr, amd=False)
    for nxe, gbpages, bit7 in itertools.product((False, True), (False, True), (0, 0x80)):
        machine.vcpu.set_cpuid(maxphyaddr=maxphyaddr, gbpages=gbpages)
        machine.cpu[ow.GBPAGES] = int(gbpages)
        machine.control(Controls(nxe=nxe))
        for level in range(1, ROOT[mode] + 1):
            if mode == "pae" and level == 3:
                continue
            for bit in range(3, 64):
                machine.reset_path()
                base = machine.target(level) | 7 | bit7 | 1 << bit
                difference = machine.compare("user write", (level, level), (base, base), ([], []))
                assert difference is None, f"level {level} bit {bit} PS {bit7} NXE {nxe} 1G {gbpages}: {difference}"


def test_pse36_with_36_bits():
    machine = WalkMachine("bits32", maxphyaddr=36, pse36=True)
    for pse in (False, True):
        machine.control(Controls(pse=pse, nxe=False))
        for name in ACCESSES:
            difference = machine.compare(name, (2, 2), (0x400001, 0x400001), ([], [*range(1, 3), *range(5, 22)]
                                         if JIT else [2, 7, 13, 16, 17, 21]))
            assert difference is None, difference


@pytest.mark.skipif(not os.environ.get("SHADOWMMU_EXHAUSTIVE") or not JIT, reason="minutes: SHADOWMMU_EXHAUSTIVE=1")
@pytest.mark.parametrize("mode", ["bits32", "pae", "level4"])
def test_whole_product(mode):
    machine = WalkMachine(mode)
    positions = [[p for p in FORMAT if p != G]] * 2
    if mode == "bits32":
        positions = FORMAT32
    check(machine, ACCESSES, (2, 1), positions, all_controls(mode), "everything")
    print(f"{mode}: {machine.report[CASES]} cases")


# ---- deviations of KVM, each shown to be exactly what DEVIATIONS says

def walk_both(machine, name):
    out = machine.oracle(name)
    gpa, error = machine.kvm(name)
    ours = out[ow.GFN] << 12 if out[ow.STATUS] == ow.TRANSLATED else None
    return (ours, out[ow.ERROR]), (gpa, error)


def test_fetch_bit_without_pae():
    machine = WalkMachine("bits32")
    for smep in (False, True):
        machine.control(Controls(nxe=True, smep=smep))
        machine.set(1, 0)
        (_, ours), (_, kvm) = walk_both(machine, "user fetch")
        assert (ours, kvm) == ((0x14, 0x14) if smep else (0x4, 0x14))
    # and nothing else differs
    machine.control(Controls(nxe=True))
    for name in ACCESSES:
        if "fetch" not in name:
            assert machine.compare(name, (2, 1), bases(machine, (2, 1)), [sampled(p, False) for p in FORMAT32]) is None


def test_pse36_above_64_gbytes():
    machine = WalkMachine("bits32", maxphyaddr=40, pse36=True)
    machine.control(Controls(nxe=False))
    for bit in range(13, 22):
        machine.set(2, 0x400087 | 1 << bit)
        (gpa, error), (kvm_gpa, kvm_error) = walk_both(machine, "read")
        expected = None if bit == 21 else 0x405000 | 1 << bit + 19
        assert (gpa, error) == (expected, 9 if bit == 21 else 0)
        assert (kvm_gpa, kvm_error) == ((expected, 0) if bit < 17 else (None, 9))


def test_pse36_below_64_gbytes():
    machine = WalkMachine("bits32", maxphyaddr=34, pse36=True)
    machine.control(Controls(nxe=False))
    for bit in range(13, 22):
        machine.set(2, 0x400087 | 1 << bit)
        (gpa, error), (kvm_gpa, kvm_error) = walk_both(machine, "read")
        reserved = bit >= 15
        assert (gpa is None, error) == (reserved, 9 if reserved else 0)
        assert (kvm_gpa is None, kvm_error) == (bit >= 17, 9 if bit >= 17 else 0)


@pytest.mark.parametrize("mode", ["bits32"])
def test_high_half_of_cr3(mode):
    machine = WalkMachine(mode)
    machine.control(Controls(nxe=False))
    cr3 = 1 << 32 | machine.vcpu.cr3
    machine.vcpu.set_sregs(cr0=machine.vcpu.cr0, cr3=cr3, cr4=machine.vcpu.cr4, efer=0)
    machine.cpu[ow.CR3] = cr3
    (gpa, _), (kvm_gpa, kvm_error) = walk_both(machine, "read")
    assert gpa == 0x20000
    assert (kvm_gpa, kvm_error) == (None, 0)
