# SPDX-License-Identifier: GPL-2.0-or-later
"""Random memory in scaled-down geometry (32-byte pages, 4 entries a table): KVM's walker against the oracle's.

Every page of RAM is a table of random entries, so walks meet tables that map themselves, each other, memory that does
not exist and read-only memory.  Compared: fault or not, error code, address, and all of RAM afterwards.  Fixed seeds.
"""

import random

import pytest
from walk_machine import ACCESSES, memory_of, oracle_load_pdptes, table

from shadowmmu import state
from shadowmmu.oracle import walker as ow
from shadowmmu.state import JIT, core
from shadowmmu.state.store import Config
from shadowmmu.vm import calls
from shadowmmu.vm.machine import Vm, VmError
from shadowmmu.x86 import bits as b

PAGES, READ_ONLY = 48, 8
#: Attribute bits of a random entry, and how often.
BITS = ((0, 0.9), (1, 0.8), (2, 0.8), (5, 0.5), (6, 0.5), (7, 0.2), (8, 0.05), (63, 0.1), (45, 0.03))
CR4_OF = {"bits32": b.CR4_PSE, "pae": b.CR4_PAE, "level4": b.CR4_PAE, "level5": b.CR4_PAE | b.CR4_LA57}


@core
def oracle_access(handle, frames, cpu, gva, kind, out):
    vm = state.attach(handle)
    return ow.access(memory_of(vm, frames), cpu, gva, kind, out)


class Scaled:
    def __init__(self, mode, pse36=False):
        self.mode, self.size = mode, 4 if mode == "bits32" else 8
        config = Config(page_shift=5, level_bits=2, memory_pages=PAGES + READ_ONLY, shadow_pages=64, hash_buckets=16,
                        events=16)
        self.vm = Vm(memory=PAGES * 32, config=config, record=0)
        self.vm.add_memslot(1, PAGES * 32, READ_ONLY * 32, PAGES * 32, readonly=True)
        self.vcpu, self.ram = self.vm.vcpus[0], self.vm.store.ram()
        self.vcpu.record.has_pse36 = int(pse36)
        self.vcpu.set_cpuid(maxphyaddr=40)
        self.frames = table([ow.ram_frame(i, int(i >= PAGES)) for i in range(PAGES + READ_ONLY)])
        self.cpu, self.out = table([0] * ow.CPU_WORDS), table([0] * ow.OUT_WORDS)
        for field, value in ((ow.MAXPHYADDR, 40), (ow.AMD, 1), (ow.GBPAGES, 1), (ow.PSE36, int(pse36))):
            self.cpu[field] = value

    def entry(self, rng):
        value = rng.randrange(PAGES + READ_ONLY + 4) << 12
        for bit, chance in BITS:
            if rng.random() < chance and bit < 8 * self.size:
                value |= 1 << bit
        return value.to_bytes(self.size, "little")

    def prepare(self, rng):
        """New memory and new registers, accepted by both."""
        length = (PAGES + READ_ONLY) * 32
        cr0 = b.CR0_PE | b.CR0_PG | b.CR0_ET | rng.choice((0, b.CR0_WP))
        cr4 = CR4_OF[self.mode] | rng.choice((0, b.CR4_SMEP)) | rng.choice((0, b.CR4_SMAP))
        efer = 0 if self.mode == "bits32" else rng.choice((0, b.EFER_NX))
        if self.mode.startswith("level"):
            efer |= b.EFER_LMA | b.EFER_LME
        cr3 = rng.randrange(PAGES) << 12
        self.ram[:length] = b"".join(self.entry(rng) for _ in range(length // self.size))
        if self.mode == "pae":
            at = cr3 >> 12 << 5
            self.ram[at:at + 32] = b"".join((rng.randrange(PAGES) << 12 | 1).to_bytes(8, "little") for _ in range(4))
        self.vcpu.set_sregs(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)
        self.vcpu.record.ac = ac = rng.randrange(2)
        for field, value in ((ow.CR0, cr0), (ow.CR3, cr3), (ow.CR4, cr4), (ow.EFER, efer), (ow.AC, ac)):
            self.cpu[field] = value
        ow.prepare(self.cpu, 2)
        if self.mode == "pae" and not oracle_load_pdptes(self.vm.handle, self.frames, self.cpu, cr3):
            raise VmError("PDPTEs")
        return length

    def case(self, rng, length, what):
        bits = 5 + (3 * 2 if self.size == 4 else 2 + 2 * 2 if self.mode == "pae" else 2 * int(self.mode[-1]))
        gva = rng.randrange(1 << bits)
        if self.mode.startswith("level") and gva >> (bits - 1):
            gva -= 1 << bits
        access, kind, cpl = ACCESSES[what]
        before = bytes(self.ram[:length])
        self.cpu[ow.CPL] = self.vcpu.record.cpl = cpl
        status = oracle_access(self.vm.handle, self.frames, self.cpu, gva, kind, self.out)
        ours = None, int(self.out[ow.ERROR])
        if status == ow.TRANSLATED:
            ours = int(self.out[ow.GFN]) << 5 | gva & 31, 0
        after = bytes(self.ram[:length])
        self.ram[:length] = before
        gpa = int(calls.gva_to_gpa(self.vm.handle, 0, gva, access))
        kvm = (gpa, 0) if gpa >= 0 else (None, self.vcpu.other_walker.fault_error)
        assert kvm == ours, f"{self.mode} {what} gva {gva:#x}: KVM {kvm}, oracle {ours}"
        assert bytes(self.ram[:length]) == after, f"{self.mode} {what} gva {gva:#x}: A and D differ"
        return status == ow.TRANSLATED


@pytest.mark.parametrize("mode", ["bits32", "pae", "level4", "level5"])
def test_random_memory(mode):
    machine, rng = Scaled(mode), random.Random(7)
    good = cases = 0
    for _ in range(300 if JIT else 25):
        length = machine.prepare(rng)
        for _ in range(20):
            good += machine.case(rng, length, rng.choice(list(ACCESSES)))
            cases += 1
    assert cases / 20 < good < cases


def test_pse36_in_scaled_geometry():
    """The field of PSE-36 has no room in small tables: both must take the frame from its usual bits."""
    machine, rng = Scaled("bits32", pse36=True), random.Random(9)
    for _ in range(200 if JIT else 25):
        length = machine.prepare(rng)
        for _ in range(20):
            machine.case(rng, length, "read")
