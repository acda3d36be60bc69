# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMCB in guest memory: fields by name (APM volume 2, appendix B).

    0x000 control area   intercepts, IOPM, MSRPM, ASID, TLB_CONTROL, EXITCODE ..., EVENTINJ, nCR3
    0x400 state save     segments, EFER, CR0 ... CR4, RFLAGS, RIP, RSP, RAX, CR2 ...
"""

from dataclasses import dataclass

#: name -> (offset, bytes)
FIELDS = {
    "cr_read": (0x000, 2), "cr_write": (0x002, 2), "exceptions": (0x008, 4), "intercept1": (0x00C, 4),
    "intercept2": (0x010, 4), "intercept3": (0x014, 4), "iopm": (0x040, 8), "msrpm": (0x048, 8), "asid": (0x058, 4),
    "tlb_control": (0x05C, 1), "int_ctl": (0x060, 4), "int_state": (0x068, 8), "exit_code": (0x070, 8),
    "exit_info1": (0x078, 8), "exit_info2": (0x080, 8), "exit_int_info": (0x088, 4), "exit_int_error": (0x08C, 4),
    "nested_ctl": (0x090, 8), "event_inj": (0x0A8, 4), "event_inj_error": (0x0AC, 4), "nested_cr3": (0x0B0, 8),
    "next_rip": (0x0C8, 8),
    "cpl": (0x4CB, 1), "efer": (0x4D0, 8), "cr4": (0x548, 8), "cr3": (0x550, 8), "cr0": (0x558, 8), "dr7": (0x560, 8),
    "dr6": (0x568, 8), "rflags": (0x570, 8), "rip": (0x578, 8), "rsp": (0x5D8, 8), "rax": (0x5F8, 8),
    "star": (0x600, 8), "lstar": (0x608, 8), "cstar": (0x610, 8), "sfmask": (0x618, 8), "kernel_gs_base": (0x620, 8),
    "sysenter_cs": (0x628, 8), "sysenter_esp": (0x630, 8), "sysenter_eip": (0x638, 8), "cr2": (0x640, 8),
}
#: selector u16, attributes u16, limit u32, base u64
SEGMENTS = {"es": 0x400, "cs": 0x410, "ss": 0x420, "ds": 0x430, "fs": 0x440, "gs": 0x450, "gdtr": 0x460, "ldtr": 0x470,
            "idtr": 0x480, "tr": 0x490}
#: Intercept vectors: bit n is exit code n.
INTERCEPT_BYTES = 0x18
NP_ENABLE = 1
V_IRQ, V_INTR_MASKING = 1 << 8, 1 << 24


@dataclass(frozen=True)
class VmcbSegment:
    """A segment as the VMCB has it; `attributes` are descriptor bits 40..47 and 52..55."""

    selector: int
    attributes: int
    limit: int
    base: int

    @property
    def flags(self):
        """Bits 8..23 of the descriptor's upper half, in place, as `hardware.Segment` has them."""
        return (self.attributes & 0xFF) << 8 | (self.attributes & 0xF00) << 12


def attributes(flags):
    """VMCB attributes of an engine segment's flags."""
    return flags >> 8 & 0xFF | flags >> 12 & 0xF00


class Vmcb:
    """View of the 4096 bytes at `offset` of `ram` (a writable buffer); fields are attributes."""

    def __init__(self, ram, offset):
        object.__setattr__(self, "_bytes", memoryview(ram)[offset:offset + 0x1000])

    def __getattr__(self, name):
        at, size = FIELDS[name]
        return int.from_bytes(self._bytes[at:at + size], "little")

    def __setattr__(self, name, value):
        at, size = FIELDS[name]
        self._bytes[at:at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    @property
    def intercepts(self):
        """All intercept vectors as one number: bit n is exit code n."""
        return int.from_bytes(self._bytes[:INTERCEPT_BYTES], "little")

    def segment(self, name):
        at = SEGMENTS[name]
        word = int.from_bytes(self._bytes[at:at + 16], "little")
        return VmcbSegment(word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32 & 0xFFFFFFFF, word >> 64)

    def set_segment(self, name, segment):
        at = SEGMENTS[name]
        word = segment.selector | segment.attributes << 16 | segment.limit << 32 | segment.base << 64
        self._bytes[at:at + 16] = word.to_bytes(16, "little")

    def snapshot(self):
        """A copy that later stores to memory do not change (KVM works on one: TOCTOU)."""
        return Vmcb(bytearray(self._bytes), 0)
