# SPDX-License-Identifier: GPL-2.0-or-later
"""Event rows as the kernel's own text.

    row  [6, 0, 0x10, role, 0, 0, 1]      (kind and arguments of `mmu.events.EVENTS`, roles in our layout)
      |  Formatter("6.12").raw(row)
    kvm_mmu_get_page: sp gen 0 gfn 10 l4 8-byte q0 wux nxe ad root 0 sync new

`raw` is what /sys/kernel/tracing/trace prints after the timestamp.  `normal` is the same without what depends on the
host's memory: a guest frame becomes G<gfn>, a shadow table S, the place of an spte its index (see `normalise`).
What differs between kernels is in the tables of `names` and in `_Style`.

The binary reader uses the same functions through `body`, with a kernel's own role words and a few fields that our
rows do not have; these follow the arguments of `EVENTS` (`EXTRA`).
"""

from dataclasses import dataclass, field

from ..mmu import events
from . import layouts, names

#: Text of a marker by the number in the row's `mark`; the arguments follow it in the row.
MARKS = (
    "MARK {a}", "VAL {a:08x}", "PFEC {a:08x}", "PFCR2 {a:08x}", "EXC vector {a}", "EXIT {a}", "HOSTOP {a} begin",
    "HOSTOP {a} end rc {b}", "VMM run", "VMM done code {a}", "MMIO R {a:x} len {b} val {c:x}",
    "MMIO W {a:x} len {b} val {c:x}", "VMM teardown", "VMM closed", "IO port {a:x} val {b:x}",
    "VMM exit_reason {a} hw {b:x}",
)
(MARK, VAL, PFEC, PFCR2, EXC, EXIT, HOSTOP_BEGIN, HOSTOP_END, VMM_RUN, VMM_DONE, MMIO_READ, MMIO_WRITE, VMM_TEARDOWN,
 VMM_CLOSED, IO_PORT, VMM_EXIT_REASON) = range(len(MARKS))
#: Numbers from here on are keys (minus this) of the caller's table of texts.
MARK_TEXT = 100
#: Markers with a signed argument.
_SIGNED_MARKS = {HOSTOP_END: "b", VMM_DONE: "a"}

_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
#: What `%p` prints for a pointer, until the kernel has enough entropy to hash it.
HASHED_POINTER = "(____ptrval____)"

_FRAME = (1 << 39) - 1
_ARGUMENTS = 12
_MMIO_MARK = 1 << 51


#: Fields after those of `EVENTS`, which only recorded events have.
EXTRA = {
    "kvm_exit": ("intr_info", "intr_error", "requests", "isa"),
    "kvm_nested_vmexit": ("intr_info", "intr_error", "requests", "isa"),
    "kvm_nested_vmenter": ("isa",), "kvm_nested_vmexit_inject": ("isa",),
    "kvm_userspace_exit": ("errno",),
    "kvm_mmu_set_spte": ("letters", "r", "x", "u"),
}
_ISA_VMX = 1


@dataclass(frozen=True)
class _Style:
    """What a kernel version prints differently."""

    pferr: tuple = names.PFERR
    vectors: dict = field(default_factory=lambda: names.VECTORS)
    exits: dict = field(default_factory=lambda: names.SVM_EXITS)
    vmx_exits: dict = field(default_factory=lambda: names.VMX_EXITS)
    wide: bool = False                 # 7.2: access of spte_requested, intr_info at entry, requests at exit
    narrow_fault: bool = False         # fast_page_fault keeps 32 bits of the error code


_STYLES = {
    "5.15": _Style(narrow_fault=True),
    "6.1": _Style(narrow_fault=True),
    "6.12": _Style(),
    "7.2": _Style(names.PFERR_7_2, names.VECTORS_7_2, names.SVM_EXITS_7_2, names.VMX_EXITS_7_2, True),
}


def spte_text(value, frame_name):
    """An spte without host addresses: `G201|a25`, `S|827|NX`; one that is not present, or of MMIO, in hex.

    Software bits 52 to 62, if any, follow as `|H<bits>`.

    frame_name  function pfn -> text
    """
    value &= _U64
    if not value & 1 or value & _MMIO_MARK:
        return f"{value:x}"
    high = value >> 52 & 0x7FF
    return (f"{frame_name(value >> 12 & _FRAME)}|{value & 0xFFF:x}{f'|H{high:x}' if high else ''}"
            f"{'|NX' if value >> 63 else ''}")


def spte_letters(spte):
    """r, w, x, u of `kvm_mmu_set_spte`, from the spte.  With shadow paging r is always there."""
    return (f"r{'w' if spte & 2 else '-'}{'-' if spte & _U64 >> 63 << 63 else 'x'}{'u' if spte & 4 else '-'}")


class Formatter:
    """Turns rows into text for one kernel.

    kernel        "6.1", "6.12", "7.2" (anything that `layouts.layout_of` knows)
    guest_frames  pfn -> gfn of the pages of guest memory, for `normal`
    marks         texts of markers with numbers of 100 and more: number - 100 -> text
    shadow_base   host physical address of the first entry of the shadow table area, in bytes, for `at` of `raw`
    entries       entries of a shadow table (512)
    recorded      arguments are the kernel's: its own role words and access masks, host addresses, `EXTRA` fields
    """

    def __init__(self, kernel, guest_frames=None, marks=None, shadow_base=0, entries=512, recorded=False):
        self.layout = layouts.layout_of(kernel)
        self.style = _STYLES[self.layout.kernel]
        self.guest_frames = {} if guest_frames is None else guest_frames
        self.marks = {} if marks is None else marks
        self.shadow_base = shadow_base
        self.index_mask = entries - 1
        self.recorded = recorded
        self._roles = {}
        self._bodies = {name: getattr(self, f"_{name}") for name, _fields in events.EVENTS.values()}
        if recorded:
            # the kernel's event has a text where ours has a number
            del self._bodies["kvm_nested_vmenter_failed"]
        self._normalised = False

    def raw(self, row):
        """The kernel's text of one row (a sequence of ints).  ValueError for an unknown kind."""
        self._normalised = False
        return self._format(row)

    def normal(self, row):
        """The same, with host memory renamed.  Equal to a line of a recorded `norm.txt`."""
        self._normalised = True
        return self._format(row)

    def _format(self, row):
        try:
            name = events.EVENTS[row[0]][0]
        except KeyError:
            raise ValueError(f"unknown event kind {row[0]}") from None
        return f"{name}: {self.body(name, [v & _U64 for v in row[1:]])}"

    def knows(self, name):
        """Whether `body` can print events of this name."""
        return name in self._bodies

    def body(self, name, arguments):
        """Text after the name, from arguments in the order of `EVENTS` and `EXTRA`, as unsigned numbers."""
        return self._bodies[name](list(arguments) + [0] * (_ARGUMENTS - len(arguments)))

    # -- parts

    def _frame(self, pfn):
        gfn = self.guest_frames.get(pfn)
        return "S" if gfn is None else f"G{gfn:x}"

    def _pfn(self, pfn):
        return self._frame(pfn) if self._normalised else f"{pfn:x}"

    def _spte(self, value):
        return spte_text(value, self._frame) if self._normalised else f"{value:x}"

    def _pointer(self, value):
        return f"{value:016x}" if self.recorded and not self._normalised else HASHED_POINTER

    def _sp(self, gen, gfn, role, root_count, unsync):
        middle = self._roles.get(role)
        if middle is None:
            word = role if self.recorded else layouts.role_to_kernel(role, self.layout)
            middle = self._roles[role] = role_text(word, self.layout)
        return f"sp gen {gen & 0xFF} gfn {gfn:x} {middle} root {root_count & _U32} {'unsync' if unsync else 'sync'}"

    def _pferr(self, code):
        return f"pferr {code & _U32:x} {names.flags(self.style.pferr, code & _U32)}"

    # -- kvmmmu

    def _kvm_mmu_pagetable_walk(self, a):
        return f"addr {a[0]:x} {self._pferr(a[1])}"

    def _kvm_mmu_paging_element(self, a):
        return f"pte {a[0]:x} level {a[1]}"

    def _kvm_mmu_set_accessed_bit(self, a):
        return f"gpa {a[0]:x}"

    _kvm_mmu_set_dirty_bit = _kvm_mmu_set_accessed_bit

    def _kvm_mmu_walker_error(self, a):
        return self._pferr(a[0])

    def _kvm_mmu_get_page(self, a):
        return f"{self._sp(*a[:5])} {'new' if a[5] else 'existing'}"

    def _kvm_mmu_sync_page(self, a):
        return self._sp(*a[:5])

    _kvm_mmu_unsync_page = _kvm_mmu_prepare_zap_page = _kvm_mmu_sync_page

    def _mark_mmio_spte(self, a):
        return f"sptep:{self._pointer(a[0])} gfn {a[1]:x} access {a[2] & _U32:x} gen {a[3] & _U32:x}"

    def _handle_mmio_page_fault(self, a):
        return f"addr:{a[0]:x} gfn {a[1]:x} access {a[2] & _U32:x}"

    def _fast_page_fault(self, a):
        vcpu, gva, code, sptep, old, new, spurious, fixed = a[:8]
        if self.style.narrow_fault:
            code &= _U32
        old_text = self._spte(old) if self._normalised else f"0x{old:x}" if old else "0"
        return (f"vcpu {vcpu} gva {gva:x} error_code {names.flags(self.style.pferr, code)} "
                f"sptep {self._pointer(sptep)} old {old_text} new {self._spte(new)} spurious {spurious} fixed {fixed}")

    def _kvm_mmu_zap_all_fast(self, a):
        return f"kvm-mmu-valid-gen {a[0] & 0xFF} used_pages {a[1] & _U32:x}"

    def _check_mmio_spte(self, a):
        return f"spte {self._spte(a[0])} kvm_gen {a[1] & _U32:x} spte-gen {a[2] & _U32:x} valid {a[3]}"

    def _kvm_mmu_set_spte(self, a):
        gfn, spte, level, place = a[:4]
        if self.recorded:
            at = f"idx {(place & 0xFFF) // 8:x}" if self._normalised else f"at {place:x}"
        else:
            at = f"idx {place & self.index_mask:x}" if self._normalised else f"at {self.shadow_base + 8 * place:x}"
        letters = self._given_letters(spte, *a[5:8]) if a[4] else spte_letters(spte)
        return f"gfn {gfn:x} spte {self._spte(spte)} ({letters}) level {level} {at}"

    @staticmethod
    def _given_letters(spte, r, x, u):
        """The letters when the event carries them (they do not follow from the spte with EPT)."""
        user = "" if u == 0xFF or u == _U64 else "u" if u else "-"
        return f"{'r' if r else '-'}{'w' if spte & 2 else '-'}{'x' if x else '-'}{user}"

    def _kvm_mmu_spte_requested(self, a):
        mask = a[3] if self.recorded or not self.style.wide else layouts.access_to_kernel(a[3], self.layout)
        access = f" access {mask:x}" if self.style.wide else ""
        return f"gfn {a[0]:x} pfn {self._pfn(a[1])} level {a[2]}{access}"

    def _kvm_tdp_mmu_spte_changed(self, a):
        return (f"as id {a[0]} gfn {a[1]:x} level {a[2]} old_spte {self._spte(a[3])} new_spte {self._spte(a[4])}")

    def _kvm_mmu_split_huge_page(self, a):
        return f"gfn {a[0]:x} spte {self._spte(a[1])} level {a[2]} errno {_signed(a[3])}"

    # -- kvm

    def _kvm_page_fault(self, a):
        return f"vcpu {a[0]} rip 0x{a[1]:x} address 0x{a[2]:016x} error_code 0x{a[3]:x}"

    def _kvm_exit(self, a):
        text = (f"vcpu {a[0]} reason {self._reason(a[1] & _U32, a[8])} rip 0x{a[2]:x} "
                f"info1 0x{a[3]:016x} info2 0x{a[4]:016x}")
        if self._normalised:
            return text
        return f"{text} {_event_info(a[5], a[6])}{f' requests 0x{a[7]:016x}' if self.style.wide else ''}"

    def _reason(self, code, isa):
        if isa != _ISA_VMX:
            return names.symbol(self.style.exits, code)
        high = code & ~0xFFFF
        failed = names.flags(((names.VMX_FAILED_ENTRY, "FAILED_VMENTRY"),), high)
        return f"{names.symbol(self.style.vmx_exits, code & 0xFFFF)}{' ' if high else ''}{failed}"

    def _kvm_entry(self, a):
        vcpu, rip, immediate_exit, info, error = a[:5]
        text = f"vcpu {vcpu}, rip 0x{rip:x}"
        if self.style.wide and (immediate_exit or not self._normalised):
            # the normal form drops the injected event only where it ends the line
            text = f"{text} {_event_info(info, error)}"
        return f"{text}[immediate exit]" if immediate_exit else text

    def _kvm_inj_exception(self, a):
        error = f" (0x{a[2] & _U32:x})" if a[1] else ""
        return f"{names.symbol(self.style.vectors, a[0])}{error}{' [reinjected]' if a[3] else ''}"

    def _kvm_emulate_insn(self, a):
        csbase, rip, length, low, high, mode, failed = a[:7]
        code = (low | high << 64).to_bytes(16, "little")[:min(length, 15)].hex(" ")
        mode_name = names.EMULATOR_MODES[mode] if mode < len(names.EMULATOR_MODES) else f"0x{mode:x}"
        return f"{csbase & _U32:x}:{rip:x}:{code} ({mode_name}){' failed' if failed else ''}"

    def _kvm_pio(self, a):
        write, port, size, count, value = a[:5]
        return (f"pio_{'write' if write else 'read'} at 0x{port:x} size {size} count {count} val 0x{value & _U32:x} "
                f"{'(...)' if count > 1 else ''}")

    def _kvm_userspace_exit(self, a):
        reason, errno = a[0] & _U32, _signed(a[1])
        if errno < 0:
            return f"reason {'restart' if errno == -4 else 'error'} ({-errno})"
        return f"reason {names.symbol(names.USERSPACE_EXITS, reason)} ({reason})"

    def _kvm_msr(self, a):
        return f"msr_{'write' if a[0] else 'read'} {a[1] & _U32:x} = 0x{a[2]:x}{' (#GP)' if a[3] else ''}"

    def _kvm_mmio(self, a):
        return f"mmio {names.symbol(names.MMIO_TYPES, a[0])} len {a[1]} gpa 0x{a[2]:x} val 0x{a[3]:x}"

    def _kvm_cr(self, a):
        return f"cr_{'write' if a[0] else 'read'} {a[1]:x} = 0x{a[2]:x}"

    _kvm_nested_vmexit = _kvm_exit

    def _kvm_nested_vmenter(self, a):
        vmx = self.recorded and a[7] == _ISA_VMX
        pgd = "guest_cr3" if not a[5] else "nested_eptp" if vmx else "nested_cr3"
        return (f"rip: 0x{a[0]:016x} {'vmcs' if vmx else 'vmcb'}: 0x{a[1]:016x} nested_rip: 0x{a[2]:016x} "
                f"int_ctl: 0x{a[3]:08x} event_inj: 0x{a[4]:08x} nested_{'ept' if vmx else 'npt'}="
                f"{'y' if a[5] else 'n'} {pgd}: 0x{a[6]:016x}")

    def _kvm_nested_intercepts(self, a):
        return (f"cr_read: {a[0]:04x} cr_write: {a[1]:04x} excp: {a[2]:08x} "
                f"intercepts: {a[3]:08x} {a[4]:08x} {a[5]:08x}")

    def _kvm_nested_vmexit_inject(self, a):
        return (f"reason: {self._reason(a[0] & _U32, a[5])} ext_inf1: 0x{a[1]:016x} ext_inf2: 0x{a[2]:016x} "
                f"ext_int: 0x{a[3]:08x} ext_int_err: 0x{a[4]:08x}")

    def _kvm_nested_vmenter_failed(self, a):
        return names.NESTED_CHECKS[a[0]]

    def _kvm_hypercall(self, a):
        return f"nr 0x{a[0]:x} a0 0x{a[1]:x} a1 0x{a[2]:x} a2 0x{a[3]:x} a3 0x{a[4]:x}"

    def _kvm_nested_intr_vmexit(self, a):
        return f"rip: 0x{a[0]:016x}"

    def _kvm_invlpga(self, a):
        return f"rip: 0x{a[0]:016x} asid: {a[1]} address: 0x{a[2]:016x}"

    def _vcpu_match_mmio(self, a):
        return (f"gva {_hash_hex(a[0])} gpa {_hash_hex(a[1])} {'Write' if a[2] else 'Read'} "
                f"{'GPA' if a[3] else 'GVA'}")

    def _tracing_mark_write(self, a):
        number = a[0]
        if number >= MARK_TEXT:
            try:
                return self.marks[number - MARK_TEXT]
            except (KeyError, IndexError):
                raise ValueError(f"marker {number} has no text") from None
        values = dict(zip("abc", (*a[1:4], 0, 0, 0), strict=False))
        if number in _SIGNED_MARKS:
            letter = _SIGNED_MARKS[number]
            values[letter] = _signed(values[letter])
        return MARKS[number].format(**values)


def _event_info(info, error):
    """The event that an exit interrupted or an entry delivers."""
    return f"intr_info 0x{info & _U32:08x} error_code 0x{error & _U32:08x}"


def _signed(value):
    """A u64 as a signed 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


def _hash_hex(value):
    """`%#lx`: zero has no prefix."""
    return f"0x{value:x}" if value else "0"


def role_text(word, layout):
    """The middle of a shadow page's text, from a kernel's role word: `l4 8-byte q0 wux nxe ad`."""
    get = layout.get
    return (f"l{get(word, 'level')} {4 if get(word, 'has_4_byte_gpte') else 8}-byte q{get(word, 'quadrant')}"
            f"{' direct' if get(word, 'direct') else ''} {layout.access[get(word, 'access')]}"
            f"{' invalid' if get(word, 'invalid') else ''} {'' if get(word, 'efer_nx') else '!'}nxe "
            f"{'!' if get(word, 'ad_disabled') else ''}ad")


def format_event(row, kernel, *, normal=True, guest_frames=None, marks=None):
    """Text of one row; for many rows keep a `Formatter`.

    normal  rename host memory (see `Formatter.normal`); else the kernel's raw text
    """
    formatter = Formatter(kernel, guest_frames, marks)
    return formatter.normal(row) if normal else formatter.raw(row)
