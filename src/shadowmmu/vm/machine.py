# SPDX-License-Identifier: GPL-2.0-or-later
"""`Vm`, `Vcpu`, `Memslot`: the machine as a person handles it.

    vm = Vm(memory=16 << 20)                   # one memslot at gpa 0, one vCPU, rules of Linux 6.12
    vm.write_gpa(0x10000, (0x11007).to_bytes(8, "little"))
    cpu = vm.vcpus[0]
    cpu.set_sregs(cr0=0x80010011, cr3=0x10000, cr4=0x20, efer=0xD00)
    cpu.read(0x200000)                         # a guest load: faults, shadow pages, events happen here
    print(vm.shadow_pages[0], vm.stat["mmu_cache_miss"])

Everything that is looked at is read from the state when asked for; nothing is kept twice.
"""

import array
from dataclasses import dataclass

from .. import rules as rule_sets
from ..mmu import counters, events, flush, memslots, roles, warn
from ..mmu.sptes import MMU_PRESENT
from ..rules.fields import FIELDS
from ..state import JIT, PATCH, interpreted, layout
from ..state.store import Config, Store
from ..x86.bits import CR0_ET, CR4_DEFINED, CR4_PCIDE, EFER_DEFINED, EFER_LMSLE, EFER_SVME, PFERR_FETCH, PFERR_USER, PT_PAGE_SIZE
from . import calls, operations
from .errors import GuestFault, VmError
from .guest_hypervisor import nested_exit
from .numbers import U64, signed

#: Names of MMUs -> the module parameters that choose them.
MMUS = {"shadow": {"tdp_enabled": 0, "tdp_mmu_enabled": 0}, "tdp": {"tdp_enabled": 1, "tdp_mmu_enabled": 1},
        "tdp-legacy": {"tdp_enabled": 1, "tdp_mmu_enabled": 0}}


@dataclass(frozen=True)
class Memslot:
    """A memslot as the host sees it.  Addresses in bytes; `hva` counts from the start of the VM's own memory."""

    id: int
    as_id: int
    gpa: int
    size: int
    hva: int
    flags: int


@dataclass(frozen=True)
class ShadowPage:
    """A shadow page, copied out of the state.  `sptes`: index -> value (unsigned), empty entries left out.
    `parents_in_descs`: parent_ptes is a chain of descriptors (it stays one when it shrinks to a single entry)."""

    id: int
    gfn: int
    role: int
    unsync: bool
    unsync_children: int
    root_count: int
    gen: int
    write_flooding_count: int
    parents: int
    parents_in_descs: bool
    frame: int
    sptes: dict

    @property
    def level(self):
        return roles.LEVEL & self.role

    @property
    def direct(self):
        return bool(self.role & roles.DIRECT)

    @property
    def access(self):
        return (self.role & roles.ACCESS) >> roles.ACCESS_SHIFT

    def __str__(self):
        state = f"{'unsync ' if self.unsync else ''}{'direct ' if self.direct else ''}root_count {self.root_count}"
        entries = ", ".join(f"{index}: {spte:#x}" for index, spte in list(self.sptes.items())[:4])
        more = f" and {len(self.sptes) - 4} more" if len(self.sptes) > 4 else ""
        return f"gfn {self.gfn:#x} level {self.level} role {self.role:#x} {state} sptes {{{entries}{more}}}"


@dataclass(frozen=True)
class Root:
    """A root: guest pgd and the hpa of the shadow table (None: invalid)."""

    pgd: int
    hpa: int | None


class Stats:
    """Read-only mapping of counter names to values."""

    def __init__(self, names, array):
        self._names, self._array = names, array

    def __getitem__(self, name):
        return self._array[self._names.index(name)]

    def __iter__(self):
        return iter(self._names)

    def items(self):
        return [(name, self._array[i]) for i, name in enumerate(self._names)]

    def __repr__(self):
        return repr({name: value for name, value in self.items() if value})


class Vcpu:
    """One virtual CPU: control registers, guest accesses, roots.  Values are unsigned."""

    def __init__(self, vm, index):
        self.vm, self.index = vm, index
        self.record = interpreted.vcpu(vm.view, index)
        r = self.record
        r.maxphyaddr, r.has_gbpages, r.has_pse36, r.has_nx, r.is_amd = 40, 1, 1, 1, 1
        r.cr4_reserved = ~CR4_DEFINED
        r.efer_reserved = signed(~EFER_DEFINED | EFER_LMSLE)
        r.cr0 = CR0_ET
        calls.create_vcpu(vm.handle, index)

    # -- what the guest can do to registers

    def _register(self, function, value, name, *more):
        if function(self.vm.handle, self.index, signed(value), *more):
            raise GuestFault(13, 0, 0)

    @property
    def cr0(self):
        return self.record.cr0

    @property
    def cr3(self):
        return self.record.cr3 & U64

    @property
    def cr4(self):
        return self.record.cr4

    @property
    def efer(self):
        return self.record.efer

    @property
    def cr2(self):
        return self.record.cr2 & U64

    def set_cr0(self, value):
        """MOV CR0.  Raises GuestFault (#GP) as the architecture demands."""
        self._register(calls.set_cr0, value, "CR0")

    def set_cr3(self, value):
        """MOV CR3; bit 63 is NOFLUSH when CR4.PCIDE is set."""
        self._register(calls.set_cr3, value, "CR3")

    def set_cr4(self, value):
        """MOV CR4."""
        self._register(calls.set_cr4, value, "CR4")

    def set_efer(self, value):
        """WRMSR EFER."""
        self._register(calls.set_efer, value, "EFER", False)

    def set_sregs(self, *, cr0, cr3, cr4, efer, cs_l=None):
        """KVM_SET_SREGS.  Raises VmError for a combination that KVM refuses."""
        if calls.set_sregs(self.vm.handle, self.index, signed(cr0), signed(cr3), signed(cr4), signed(efer)):
            raise VmError(f"KVM_SET_SREGS refuses cr0={cr0:#x} cr3={cr3:#x} cr4={cr4:#x} efer={efer:#x}")
        self.record.cs_l = int(bool(efer & 0x400) if cs_l is None else cs_l)

    def set_privilege(self, cpl, ac=False):
        """Current privilege level and EFLAGS.AC for the accesses that follow."""
        self.record.cpl, self.record.ac = cpl, int(ac)

    def set_cpuid(self, *, maxphyaddr=None, pcid=None, gbpages=None):
        """KVM_SET_CPUID2: the facts that translation depends on."""
        r = self.record
        if maxphyaddr is not None:
            if not 32 <= maxphyaddr <= 52:
                raise VmError(f"MAXPHYADDR {maxphyaddr} is outside 32..52")
            r.maxphyaddr = maxphyaddr
        if gbpages is not None:
            r.has_gbpages = int(gbpages)
        if pcid is not None:
            r.has_pcid = int(pcid)
            r.cr4_reserved = signed(r.cr4_reserved & ~CR4_PCIDE if pcid else r.cr4_reserved | CR4_PCIDE)
        calls.after_set_cpuid(self.vm.handle, self.index)

    def set_svm(self, enabled):
        """Whether EFER.SVME may be set."""
        mask = self.record.efer_reserved
        self.record.efer_reserved = signed(mask & ~EFER_SVME if enabled else mask | EFER_SVME)

    def invlpg(self, gva):
        """INVLPG."""
        calls.invlpg(self.vm.handle, self.index, signed(gva))

    def invpcid(self, kind, pcid=0, gva=0):
        """INVPCID of type 0..3."""
        if calls.invpcid(self.vm.handle, self.index, kind, pcid, signed(gva)):
            raise GuestFault(13, 0, 0)

    def enter_smm(self):
        """System management mode: the other address space."""
        calls.smm_changed(self.vm.handle, self.index, True)

    def leave_smm(self):
        """RSM, as far as the MMU notices."""
        calls.smm_changed(self.vm.handle, self.index, False)

    def init(self):
        """INIT."""
        calls.reset_vcpu(self.vm.handle, self.index)

    # -- guest accesses

    def _outcome(self, result):
        r = self.record
        if result == operations.NESTED_EXIT:
            raise nested_exit(self)
        if result == operations.FAULTED:
            r.exception_pending = 0
            has_error = r.exception_has_error
            raise GuestFault(r.exception_vector, r.exception_error if has_error else None, self.cr2)
        if result == operations.MMIO:
            raise VmError("the address has no memory (MMIO)")
        if result == operations.STUCK:
            raise VmError(f"the access did not succeed in {operations.MAX_EXITS} exits")
        if result == operations.DEAD:
            raise VmError("the vCPU cannot enter the guest: triple fault, or no shadow page left")
        return result

    def read(self, gva, size=8):
        """A guest load of `size` bytes (1, 2, 4, 8; may cross pages): the value."""
        return int.from_bytes(self._pieces(gva, size, 0), "little")

    def fetch(self, gva, size=1):
        """An instruction fetch: the bytes."""
        return self._pieces(gva, size, PFERR_FETCH)

    def _pieces(self, gva, size, access):
        out = b""
        while size:
            n = min(size, self.vm.page_size - gva % self.vm.page_size, 8)
            result, value = calls.load(self.vm.handle, self.index, signed(gva), n, access)
            self._outcome(result)
            out += (value & U64).to_bytes(8, "little")[:n]
            gva, size = gva + n, size - n
        return out

    def write(self, gva, value, size=8):
        """A guest store of `size` bytes (may cross pages)."""
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        at = 0
        while at < size:
            n = min(size - at, self.vm.page_size - (gva + at) % self.vm.page_size, 8)
            piece = int.from_bytes(data[at:at + n], "little")
            self._outcome(calls.store(self.vm.handle, self.index, signed(gva + at), signed(piece), n))
            at += n

    def translate(self, gva, *, write=False, user=False, fetch=False):
        """Walk the guest's tables as the emulator does (sets A and D): gpa, or None on a fault."""
        access = (2 if write else 0) | (PFERR_USER if user else 0) | (PFERR_FETCH if fetch else 0)
        gpa = calls.gva_to_gpa(self.vm.handle, self.index, signed(gva), access)
        return None if gpa < 0 else gpa

    # -- looking

    @property
    def mmu(self):
        """The current MMU context record (struct kvm_mmu)."""
        return interpreted.context(self.vm.view, self.record.mmu)

    @property
    def other_walker(self):
        """The walker of translations that are not page faults; after a failed one, its fault."""
        return interpreted.walker(self.vm.view, layout.WALKERS_PER_VCPU * self.index + 1)

    @property
    def root(self):
        """Current root."""
        c = self.mmu
        return Root(c.root_pgd & U64, None if c.root_hpa < 0 else c.root_hpa)

    @property
    def prev_roots(self):
        """The cached roots, most recently used first."""
        c = self.mmu
        return [Root(c.prev_pgd[i] & U64, None if c.prev_hpa[i] < 0 else c.prev_hpa[i]) for i in range(3)]

    @property
    def requests(self):
        """Names of pending requests."""
        return [name[4:] for name in dir(flush) if name.startswith("REQ_")
                and getattr(flush, name) & self.record.requests]

    @property
    def stat(self):
        return Stats(counters.VCPU_STATS, self.record.stat)


class Vm:
    """A virtual machine.

    memory: bytes of guest RAM in one memslot at gpa 0 (0: none; add slots yourself).  rules: name in `RULES`, or a
    dict of rule fields.  mmu: "shadow", "tdp" (two-dimensional paging, TDP MMU) or "tdp-legacy" (two-dimensional paging
    with the direct MMU of kvm.tdp_mmu=N).  vcpus: number.  config: a `Config` for other sizes or another geometry.
    record: which events are recorded (mask of `mmu.events`), drained by `drain_events`.
    """

    def __init__(self, memory=16 << 20, *, rules=rule_sets.DEFAULT, mmu="shadow", vcpus=1, config=None,
                 record=events.ALL):
        PATCH.check()
        if mmu not in MMUS:
            raise VmError(f"no MMU named {mmu!r}; there are: {', '.join(MMUS)}")
        if isinstance(rules, str):
            if rules not in rule_sets.RULES:
                raise VmError(f"no rules named {rules!r}; there are: {', '.join(rule_sets.RULES)}")
            values, self.rules_name = rule_sets.RULES[rules], rules
        else:
            values, self.rules_name = rules, "custom"
        page_size = 1 << (config.page_shift if config else 12)
        if memory % page_size:
            raise VmError(f"memory size {memory:#x} is not a multiple of the page size")
        self.config = config or Config(memory_pages=max(memory // page_size, 1), vcpus=vcpus)
        self.store = Store(self.config, len(FIELDS))
        self.view, self.handle = self.store.view, self.store.vm
        self.page_size = page_size
        rule_sets.load(interpreted.rules(self.view), {**values, **MMUS[mmu]})
        self.view.event_mask = record
        self.view.mmio_caching = 1
        self.vcpus = [Vcpu(self, i) for i in range(self.config.vcpus)]
        if memory:
            self.add_memslot(0, 0, memory, 0)

    # -- the host's side

    def set_host_maxphyaddr(self, bits):
        """Width of the host's physical addresses: 52 turns MMIO caching off (kvm_mmu_reset_all_pte_masks)."""
        self.view.mmio_caching = int(bits < 52)

    def _slot_call(self, result, what):
        if result < 0:
            raise VmError(f"{what}: errno {-result}")
        return result

    def add_memslot(self, slot, gpa, size, hva, *, readonly=False, log_dirty=False, as_id=0):
        """KVM_SET_USER_MEMORY_REGION (create).  Sizes and addresses in bytes, page aligned."""
        if (gpa | size | hva) % self.page_size or size <= 0 or hva + size > self.view.n_hva * self.page_size:
            raise VmError(f"memslot {slot}: gpa {gpa:#x} size {size:#x} hva {hva:#x} does not fit")
        flags = (memslots.READONLY if readonly else 0) | (memslots.LOG_DIRTY_PAGES if log_dirty else 0)
        self._refuse_high(slot, gpa + size)
        n = self.page_size
        self._slot_call(calls.create_memslot(self.handle, as_id, slot, gpa // n, size // n, hva // n, flags),
                        f"memslot {slot}")

    def _refuse_high(self, slot, end):
        """shadowed_translation keeps 28 bits of a gfn (the kernel 52)."""
        if end // self.page_size > 1 << 28:
            raise VmError(f"memslot {slot}: ends at gpa {end:#x}; guest memory above page 2^28 is not supported")

    def _memslot(self, slot, as_id):
        """A memslot by its number, or None."""
        return next((s for s in self.memslots if (s.id, s.as_id) == (slot, as_id)), None)

    def delete_memslot(self, slot, *, as_id=0):
        """KVM_SET_USER_MEMORY_REGION with size 0."""
        self._slot_call(calls.delete_memslot(self.handle, as_id, slot), f"delete memslot {slot}")

    def move_memslot(self, slot, gpa, *, as_id=0):
        """The same memory at another guest address."""
        old = self._memslot(slot, as_id)
        self._refuse_high(slot, gpa + (old.size if old else 0))
        self._slot_call(calls.move_memslot(self.handle, as_id, slot, gpa // self.page_size), f"move memslot {slot}")

    def log_dirty(self, slot, on, *, as_id=0):
        """Switch dirty logging."""
        old = self._memslot(slot, as_id)
        flags = (old.flags & memslots.READONLY if old else 0) | (memslots.LOG_DIRTY_PAGES if on else 0)
        self._slot_call(calls.set_memslot_flags(self.handle, as_id, slot, flags), f"memslot {slot} flags")

    def dirty_log(self, slot, *, as_id=0):
        """KVM_GET_DIRTY_LOG: page numbers in the slot, cleared and write-protected again."""
        found = next((s for s in self.memslots if s.id == slot and s.as_id == as_id), None)
        pages = found.size // self.page_size if found else 1
        buffer = array.array("q", bytes(8 * pages))
        out = _pointer(buffer)
        self._slot_call(calls.get_dirty_log(self.handle, as_id, slot, out), f"dirty log of memslot {slot}")
        return [i for i, bit in enumerate(buffer) if bit]

    def unmap_host(self, hva, size):
        """The host takes pages away (madvise, punched hole): MMU notifier, then fresh zero pages on the next touch."""
        calls.unmap_host_pages(self.handle, hva // self.page_size, size // self.page_size)

    def set_nr_mmu_pages(self, n):
        """KVM_SET_NR_MMU_PAGES."""
        self._slot_call(calls.set_nr_mmu_pages(self.handle, n), f"KVM_SET_NR_MMU_PAGES {n}")

    def age(self, gpa, size, *, test_only=False, as_id=0):
        """The host asks whether pages were used since the last time (clear_young, or test_young with `test_only`)."""
        n = self.page_size
        slot = next((s for s in self.memslots if s.as_id == as_id and s.gpa <= gpa and gpa + size <= s.gpa + s.size), None)
        if slot is None:
            raise VmError(f"no memslot holds gpa {gpa:#x} size {size:#x}")
        return bool(calls.age_memslot(self.handle, as_id, slot.id, gpa // n, (gpa + size) // n, test_only))

    def recover_nx_huge_pages(self, ratio=60):
        """One period of the NX huge page worker: zap the oldest 1/ratio of the tables that stand where a huge page could.
        The number of tables looked at."""
        return calls.recover_nx_huge_pages(self.handle, ratio)

    def close(self):
        """Destroy the VM as closing its last file descriptor does: all shadow pages are zapped, all roots put."""
        calls.destroy(self.handle)

    @property
    def memslots(self):
        """All memslots."""
        n, out = self.page_size, []
        for i in range(self.view.n_slots):
            s = interpreted.slot(self.view, i)
            if s.used:
                out.append(Memslot(s.id, s.as_id, s.base_gfn * n, s.npages * n, s.hva * n, s.flags))
        return out

    def _host_offset(self, gpa):
        n = self.page_size
        for slot in self.memslots:
            if slot.as_id == 0 and slot.gpa <= gpa < slot.gpa + slot.size:
                hva = (slot.hva + gpa - slot.gpa) // n
                entry = interpreted.words(self.view, self.view.hva)[hva]
                if entry == -1:
                    calls.read_guest(self.handle, 0, gpa // n * n, 1)
                    entry = interpreted.words(self.view, self.view.hva)[hva]
                return ((entry & (1 << 56) - 1) - self.view.ram_pfn) * n + gpa % n
        raise VmError(f"gpa {gpa:#x} is in no memslot")

    def read_gpa(self, gpa, size):
        """Guest memory by physical address, from the host: bytes."""
        out, ram = bytearray(), self.store.ram()
        while size:
            n = min(size, self.page_size - gpa % self.page_size)
            at = self._host_offset(gpa)
            out += ram[at:at + n]
            gpa, size = gpa + n, size - n
        return bytes(out)

    def write_gpa(self, gpa, data):
        """Write guest memory from the host, behind the MMU's back."""
        ram, at = self.store.ram(), 0
        while at < len(data):
            n = min(len(data) - at, self.page_size - (gpa + at) % self.page_size)
            offset = self._host_offset(gpa + at)
            ram[offset:offset + n] = data[at:at + n]
            at += n

    # -- looking

    def shadow_page(self, i):
        """Shadow page by index."""
        sp = interpreted.page(self.view, i)
        spt = interpreted.words(self.view, self.view.spt)
        first = (self.view.special_frames + i) << self.view.level_bits
        empty = interpreted.rules(self.view).nonpresent_spte
        entries = {k: spt[first + k] & U64 for k in range(1 << self.view.level_bits) if spt[first + k] != empty}
        return ShadowPage(i, sp.gfn, sp.role, bool(sp.unsync), sp.unsync_children, sp.root_count, sp.mmu_valid_gen,
                          sp.write_flooding_count, int(sp.ptep >= 0) if sp.tdp_mmu_page else self._count(sp.parent_ptes),
                          bool(sp.parent_ptes & 1),
                          self.view.shadow_pfn + self.view.special_frames + i, entries)

    @property
    def tdp_pages(self):
        """Tables of the TDP MMU: each root of tdp_mmu_roots (newest first), followed by what it links, depth first."""
        out, i = [], self.view.list_head[layout.TDP_ROOT_LIST]
        while i >= 0:
            self._add_tree(i, out)
            i = interpreted.page(self.view, i).next
        return out

    def _add_tree(self, i, out):
        table = self.shadow_page(i)
        out.append(table)
        if table.level == 1:
            return
        for spte in table.sptes.values():
            if spte & MMU_PRESENT and not spte & PT_PAGE_SIZE:
                self._add_tree((spte >> 12 & (1 << 40) - 1) - self.view.shadow_pfn - self.view.special_frames, out)

    def _count(self, head):
        if head == 0 or not head & 1:
            return int(head != 0)
        d = interpreted.desc(self.view, (head >> 1) - 1)
        return d.tail_count + d.spte_count

    @property
    def shadow_pages(self):
        """Shadow pages in the order of active_mmu_pages (newest first)."""
        out, i = [], self.view.list_head[0]
        while i >= 0:
            out.append(self.shadow_page(i))
            i = interpreted.page(self.view, i).next
        return out

    def rmap(self, gfn, level=1, as_id=0):
        """Places of the sptes that map `gfn` at `level`: list of (shadow page index, entry index)."""
        for i in range(self.view.n_slots):
            s = interpreted.slot(self.view, i)
            if s.used and s.as_id == as_id and s.base_gfn <= gfn < s.base_gfn + s.npages:
                shift = self.view.level_bits * (level - 1)
                at = (gfn >> shift) - (s.base_gfn >> shift)
                table = {1: (interpreted.meta, s.meta), 2: (interpreted.meta2, s.meta2), 3: (interpreted.meta3, s.meta3)}
                get, first = table[level]
                return [((p >> self.view.level_bits) - self.view.special_frames, p & ((1 << self.view.level_bits) - 1))
                        for p in self._places(get(self.view, first + at).rmap)]
        raise VmError(f"gfn {gfn:#x} is in no memslot")

    def _places(self, head):
        if head == 0:
            return []
        if not head & 1:
            return [(head >> 1) - 1]
        out, d = [], (head >> 1) - 1
        while d >= 0:
            desc = interpreted.desc(self.view, d)
            out += [desc.sptes[k] for k in range(desc.spte_count)]
            d = desc.more
        return out

    @property
    def stat(self):
        """The VM's counters by their kernel names."""
        return Stats(counters.VM_STATS, self.view.stat)

    @property
    def warning(self):
        """The last WARN that the kernel would have printed, or None."""
        return warn.NAMES[self.view.last_warning] if self.view.warnings else None

    def drain_events(self):
        """Events since the last call, as rows [kind, arguments...] (see mmu.events).  VmError if some were lost."""
        rows, lost = self.store.events()
        if lost:
            raise VmError(f"{lost} events were lost: the ring of {self.view.event_capacity} is too small")
        return rows

    def emit(self, kind, *arguments):
        """Append an event from outside the core."""
        if not self.view.event_mask >> kind & 1:
            return
        ring = interpreted.words(self.view, self.view.events)
        n = ring[0]
        if n >= self.view.event_capacity:
            ring[1] += 1
            return
        at = events.RING_HEADER + n * len(self._row)
        row = (kind, *arguments)
        for i in self._row:
            ring[at + i] = signed(row[i]) if i < len(row) else 0
        ring[0] = n + 1

    _row = range(layout.EVENT_WORDS)


def _pointer(buffer):
    """A word buffer as core functions take it."""
    if not JIT:
        return buffer
    import numpy
    return numpy.frombuffer(buffer, dtype=numpy.int64)

