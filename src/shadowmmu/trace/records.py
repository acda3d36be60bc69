# SPDX-License-Identifier: GPL-2.0-or-later
"""One event of a recorded trace, whatever file it came from.

    text, trace-cmd report, trace.dat  -->  Record(line, time, cpu, pid, task, event, body)  --.fields-->  dict

`body` is the kernel's text after the event's name; `fields` is that text taken apart, on demand, by the patterns of
`PATTERNS`.  Numbers are ints, shadow page fields have the names of `SP_FIELDS`.  trace-cmd's plugin prints roles with
a layout of 2018; what it printed is turned back into the role word and read again (`Roles`).
"""

import re

from . import layouts

#: Fields of get_page, sync_page, unsync_page and prepare_zap_page (`created` only of get_page).
SP_FIELDS = ("gen", "gfn", "level", "gpte_bytes", "quadrant", "direct", "access", "invalid", "nx", "ad", "root_count",
             "unsync", "created")
SP_EVENTS = ("kvm_mmu_get_page", "kvm_mmu_sync_page", "kvm_mmu_unsync_page", "kvm_mmu_prepare_zap_page")

_H = "([0-9a-f]+)"
_X = "0x([0-9a-f]+)"
_D = r"(-?\d+)"


def _hex(text):
    return int(text, 16)


def _yes(text):
    return int(text == "y")


def _pattern(pattern, **convert):
    """(compiled pattern, names, converters): one group for each name, in order."""
    return re.compile(pattern), tuple(convert), tuple(convert.values())


_PFERR = {"pferr": _hex, "flags": str}

#: event -> patterns that its body may have, the kernel's own first.
PATTERNS = {
    "kvm_mmu_pagetable_walk": [_pattern(rf"addr {_H} pferr {_H} ?(\S*)", addr=_hex, **_PFERR)],
    "kvm_mmu_paging_element": [_pattern(rf"pte {_H} level (\d+)", pte=_hex, level=int)],
    "kvm_mmu_set_accessed_bit": [_pattern(rf"gpa {_H}", gpa=_hex)],
    "kvm_mmu_set_dirty_bit": [_pattern(rf"gpa {_H}", gpa=_hex)],
    "kvm_mmu_walker_error": [_pattern(rf"pferr {_H} ?(\S*)", **_PFERR)],
    "mark_mmio_spte": [_pattern(rf"sptep: ?(\S+) gfn {_H} access {_H} gen {_H}",
                                sptep=str, gfn=_hex, access=_hex, gen=_hex)],
    "handle_mmio_page_fault": [_pattern(rf"addr:{_H} gfn {_H} access {_H}", addr=_hex, gfn=_hex, access=_hex)],
    "fast_page_fault": [_pattern(
        rf"vcpu {_D} gva {_H} error_code (\S*) sptep (\S+) old (?:0x)?{_H} new {_H} spurious (\d) fixed (\d)",
        vcpu=int, gva=_hex, error_code=str, sptep=str, old_spte=_hex, new_spte=_hex, spurious=int, fixed=int)],
    "kvm_mmu_zap_all_fast": [_pattern(rf"kvm-mmu-valid-gen (\d+) used_pages {_H}", gen=int, used_pages=_hex)],
    "check_mmio_spte": [_pattern(rf"spte {_H} kvm_gen {_H} spte-gen {_H} valid (\d)",
                                 spte=_hex, kvm_gen=_hex, spte_gen=_hex, valid=int)],
    "kvm_mmu_set_spte": [_pattern(rf"gfn {_H} spte {_H} \(([rwxu-]+)\) level (\d+) at {_H}",
                                  gfn=_hex, spte=_hex, letters=str, level=int, at=_hex)],
    "kvm_mmu_spte_requested": [
        _pattern(rf"gfn {_H} pfn {_H} level (\d+) access {_H}", gfn=_hex, pfn=_hex, level=int, access=_hex),
        _pattern(rf"gfn {_H} pfn {_H} level (\d+)", gfn=_hex, pfn=_hex, level=int)],
    "kvm_tdp_mmu_spte_changed": [_pattern(rf"as id (\d+) gfn {_H} level (\d+) old_spte {_H} new_spte {_H}",
                                          as_id=int, gfn=_hex, level=int, old_spte=_hex, new_spte=_hex)],
    "kvm_mmu_split_huge_page": [_pattern(rf"gfn {_H} spte {_H} level (\d+) errno {_D}",
                                         gfn=_hex, spte=_hex, level=int, errno=int)],
    "kvm_page_fault": [
        _pattern(rf"vcpu (\d+) rip {_X} address {_X} error_code {_X}",
                 vcpu=int, rip=_hex, address=_hex, error_code=_hex),
        _pattern(rf"address {_H} error_code {_H}", address=_hex, error_code=_hex)],
    "kvm_exit": [
        _pattern(rf"vcpu (\d+) reason (.+?) rip {_X} info1 {_X} info2 {_X}",
                 vcpu=int, reason=str, rip=_hex, info1=_hex, info2=_hex),
        _pattern(rf"reason (?:EXIT_)?(.+?) rip {_X} info {_H} {_H}", reason=str, rip=_hex, info1=_hex, info2=_hex)],
    "kvm_entry": [_pattern(rf" *vcpu (\d+),? rip {_X}", vcpu=int, rip=_hex)],
    "kvm_inj_exception": [
        _pattern(rf"(\S+) \({_X}\)( \[reinjected\])?", vector=str, error_code=_hex, reinjected=bool),
        _pattern(r"(#\w+|0x\w+)( \[reinjected\])?", vector=str, reinjected=bool)],
    "kvm_emulate_insn": [_pattern(rf"{_H}:{_H}: ?([0-9a-f ]*?)(?: \((\w+)\))?( failed)?$",
                                  csbase=_hex, rip=_hex, bytes=str, mode=str, failed=bool)],
    "kvm_pio": [_pattern(rf"pio_(read|write) at {_X} size (\d+) count (\d+) val {_X}",
                         direction=str, port=_hex, size=int, count=int, value=_hex)],
    "kvm_userspace_exit": [_pattern(r"reason (\S+) \((\d+)\)", reason=str, number=int)],
    "kvm_msr": [_pattern(rf"msr_(read|write) {_H} = {_X}( \(#GP\))?",
                         direction=str, ecx=_hex, data=_hex, exception=bool)],
    "kvm_mmio": [_pattern(rf"mmio (\S+) len (\d+) gpa {_X} val {_X}", type=str, length=int, gpa=_hex, value=_hex)],
    "kvm_cr": [_pattern(rf"cr_(read|write) {_H} = {_X}", direction=str, cr=_hex, value=_hex)],
    "vcpu_match_mmio": [_pattern(r"gva (?:0x)?([0-9a-f]+) gpa (?:0x)?([0-9a-f]+) (Read|Write) (GPA|GVA)",
                                 gva=_hex, gpa=_hex, direction=str, match=str)],
    "tracing_mark_write": [_pattern(r"(.*)", text=str)],
    "print": [_pattern(rf"(?:{_X}|\w+): (.*)", place=str, text=str), _pattern(r"(.*)", text=str)],
    "kvm_invlpga": [_pattern(rf"rip: {_X} asid: (\d+) address: {_X}", rip=_hex, asid=int, address=_hex)],
    "kvm_nested_vmenter": [_pattern(
        rf"rip: {_X} vmc[bs]: {_X} nested_rip: {_X} int_ctl: {_X} event_inj: {_X} nested_(?:npt|ept)=([yn]) \w+: {_X}",
        rip=_hex, vmcb=_hex, nested_rip=_hex, int_ctl=_hex, event_inj=_hex, tdp_enabled=_yes, guest_pgd=_hex)],
    "kvm_nested_intercepts": [_pattern(
        rf"cr_read: {_H} cr_write: {_H} excp: {_H} intercepts: {_H} {_H} {_H}",
        cr_read=_hex, cr_write=_hex, exceptions=_hex, intercept1=_hex, intercept2=_hex, intercept3=_hex)],
    "kvm_nested_vmexit_inject": [_pattern(
        rf"reason: (.+?) ext_inf1: {_X} ext_inf2: {_X} ext_int: {_X} ext_int_err: {_X}",
        reason=str, info1=_hex, info2=_hex, int_info=_hex, int_error=_hex)],
    "kvm_nested_vmenter_failed": [_pattern(r"(.*)", check=str)],
    "kvm_nested_intr_vmexit": [_pattern(rf"rip: {_X}", rip=_hex)],
    "kvm_hypercall": [_pattern(rf"nr {_X} a0 {_X} a1 {_X} a2 {_X} a3 {_X}", nr=_hex, a0=_hex, a1=_hex, a2=_hex, a3=_hex)],
}
PATTERNS["kvm_nested_vmexit"] = PATTERNS["kvm_exit"]

#: The kernel's text of a shadow page.
_SP = re.compile(r"sp gen (\w+) gfn (\w+) l(\d+) ([48])-byte q(\d)( direct)? ([rwux-]{3,4})( invalid)? (!?)nxe (!?)ad "
                 r"root (\d+) (sync|unsync)\W*(new|existing)?")
#: The same from trace-cmd's plugin; only get_page has the gfn.
_SP_PLUGIN = re.compile(r"(?:(new|existing) sp gfn (\w+) )?(\d+) q(\d)( direct)? ([wux-]{3})( invalid)? (!?)pae "
                        r"(!?)nxe (!?)wp( smep)?( smap)?( smm)? root (\d+) (sync|unsync)")
#: The same from trace-cmd without plugins.
_SP_RAW = re.compile(r"\[FAILED TO PARSE\] mmu_valid_gen=(\d+) gfn=(\d+) role=(\d+) root_count=(\d+) unsync=(\d+)"
                     r"(?: created=(\d+))?")
_FAILED = re.compile(r"\[FAILED TO PARSE\] (.*)")


class Roles:
    """How the role words of one trace are read, and what had to be corrected.

    layout     `layouts.Layout` of the recorded kernel
    corrected  bodies that trace-cmd's plugin printed with its outdated layout
    """

    def __init__(self, kernel="6.12"):
        self.layout = layouts.layout_of(kernel)
        self.corrected = 0

    def fields(self, word):
        """The role part of `SP_FIELDS`, and the word."""
        get = self.layout.get
        return {"level": get(word, "level"), "gpte_bytes": 4 if get(word, "has_4_byte_gpte") else 8,
                "quadrant": get(word, "quadrant"), "direct": get(word, "direct"),
                "access": self.layout.access[get(word, "access")], "invalid": get(word, "invalid"),
                "nx": get(word, "efer_nx"), "ad": 1 - get(word, "ad_disabled"), "role": word}

    def from_plugin(self, match):
        """Fields of a plugin line: its bits put back in their places, then read with the right layout."""
        (created, gfn, level, quadrant, direct, access, invalid, no_pae, no_nx, no_wp, smep, smap, smm, root_count,
         unsync) = match.groups()
        word = layouts.PLUGIN.pack({
            "level": int(level), "cr4_pae": not no_pae, "quadrant": int(quadrant), "direct": bool(direct),
            "access": layouts.LAYOUTS["6.12"].access.index(access), "invalid": bool(invalid), "nxe": not no_nx,
            "cr0_wp": not no_wp, "smep_andnot_wp": bool(smep), "smap_andnot_wp": bool(smap), "smm": bool(smm)})
        self.corrected += 1
        fields = self.fields(word)
        del fields["ad"]                              # bit 16 and more were not printed
        fields.update(root_count=int(root_count), unsync=int(unsync == "unsync"))
        if gfn:
            fields.update(gfn=int(gfn, 16), created=int(created == "new"))
        return fields


def parse_body(event, body, roles):
    """Fields of an event's body as a dict; None if it has none of the known forms.

    roles  `Roles` of the trace
    """
    if event in SP_EVENTS:
        return _parse_sp(body, roles)
    for pattern, fields, convert in PATTERNS.get(event, ()):
        match = pattern.match(body)
        if match:
            return {name: function(value) if value is not None else function()
                    for name, function, value in zip(fields, convert, match.groups(), strict=True)
                    if value is not None or function is bool}
    match = _FAILED.match(body)
    if match:
        return {name: int(value) for name, _, value in (part.partition("=") for part in match[1].split())
                if value.lstrip("-").isdigit()}
    return None if event in PATTERNS else {}


def _parse_sp(body, roles):
    match = _SP.match(body)
    if match:
        (gen, gfn, level, size, quadrant, direct, access, invalid, no_nx, no_ad, root_count, unsync,
         created) = match.groups()
        fields = {"gen": int(gen), "gfn": int(gfn, 16), "level": int(level), "gpte_bytes": int(size),
                  "quadrant": int(quadrant), "direct": int(bool(direct)), "access": access,
                  "invalid": int(bool(invalid)), "nx": int(not no_nx), "ad": int(not no_ad),
                  "root_count": int(root_count), "unsync": int(unsync == "unsync")}
        if created:
            fields["created"] = int(created == "new")
        return fields
    match = _SP_PLUGIN.match(body)
    if match:
        return roles.from_plugin(match)
    match = _SP_RAW.match(body)
    if match:
        gen, gfn, word, root_count, unsync = map(int, match.group(1, 2, 3, 4, 5))
        fields = {"gen": gen, "gfn": gfn, **roles.fields(word & 0xFFFFFFFF), "root_count": root_count, "unsync": unsync}
        if match[6]:
            fields["created"] = int(match[6])
        return fields
    return None


class Record:
    """One event.

    line   number of the line in a text file, of the record in a binary one, from 1
    time   nanoseconds of the trace clock, or None
    cpu, pid, task   where it happened (None if the file does not say)
    event  name; body  the kernel's text after it
    role   the kernel's role word where the file has it (binary traces)
    """

    __slots__ = ("_fields", "body", "cpu", "event", "line", "pid", "role", "roles", "task", "time")

    def __init__(self, line, time, cpu, pid, task, event, body, roles, role=None):
        self.line = line
        self.time = time
        self.cpu = cpu
        self.pid = pid
        self.task = task
        self.event = event
        self.body = body
        self.roles = roles
        self.role = role
        self._fields = _UNREAD

    @property
    def fields(self):
        """The body taken apart: a dict; empty for an event that is not known here or does not parse."""
        if self._fields is _UNREAD:
            self._fields = parse_body(self.event, self.body, self.roles)
            if self.role is not None and self._fields:
                self._fields["role"] = self.role
        return self._fields or {}

    @property
    def understood(self):
        """False if the event is known but its body has none of the known forms."""
        return bool(self.fields) or self._fields is not None

    @property
    def text(self):
        """`event: body` with roles corrected: what the kernel's own text would have been, as far as it is known."""
        return f"{self.event}: {self.corrected_body}"

    @property
    def corrected_body(self):
        """The body; a shadow page that trace-cmd printed is written as the kernel would (unknown parts as ?)."""
        if self.event not in SP_EVENTS or self.body.startswith("sp gen"):
            return self.body
        return sp_text(self.fields) if self.fields else self.body

    def to_dict(self):
        """Everything, for JSON and tables."""
        return {"line": self.line, "time": self.time, "cpu": self.cpu, "pid": self.pid, "task": self.task,
                "event": self.event, **{k: v for k, v in self.fields.items() if k not in _COLUMNS}}

    def __repr__(self):
        return f"<Record {self.line} {self.event}: {self.body}>"


_UNREAD = object()
_COLUMNS = frozenset(("line", "time", "cpu", "pid", "task", "event"))


def sp_text(fields):
    """The kernel's text of a shadow page from its fields; what is not known is written ?."""
    f = dict.fromkeys(SP_FIELDS, "?") | fields
    gfn = f["gfn"] if f["gfn"] == "?" else f"{f['gfn']:x}"
    ad = "?ad" if f["ad"] == "?" else "ad" if f["ad"] else "!ad"
    created = "" if f["created"] == "?" else " new" if f["created"] else " existing"
    return (f"sp gen {f['gen']} gfn {gfn} l{f['level']} {f['gpte_bytes']}-byte q{f['quadrant']}"
            f"{' direct' if f['direct'] == 1 else ''} {f['access']}{' invalid' if f['invalid'] == 1 else ''} "
            f"{'' if f['nx'] else '!'}nxe {ad} root {f['root_count']} {'unsync' if f['unsync'] else 'sync'}{created}")
