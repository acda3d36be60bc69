# SPDX-License-Identifier: GPL-2.0-or-later
"""The page role and the extended role as each kernel lays them out, and the way between them and ours.

Every kernel packs the same ideas into 32 bits at places of its own; what people read (dumps, `role_btf.txt`, crash
sessions) is the kernel's word, what `mmu.roles` computes is our superset:

    bit        4               8 .. 10 11        12       13      14              15
    5.15       gpte_is_8_bytes access  invalid   efer_nx  cr0_wp  smep_andnot_wp  smap_andnot_wp
    6.1, 6.12  has_4_byte_gpte access  invalid   efer_nx  cr0_wp  smep_andnot_wp  smap_andnot_wp
    7.2        has_4_byte_gpte access (4 bits)   invalid  efer_nx cr0_wp          smap_andnot_wp    20: cr4_smep
    ours       has_4_byte_gpte access (4 bits)   invalid  efer_nx cr0_wp          smap_andnot_wp    20, 21: both SMEPs

A layout is a table of fields; `INVERTED` fields hold the opposite of what the name of ours says.
"""

from dataclasses import dataclass, field

#: (field, first bit, bits), least significant first.
_HEAD = (("level", 0, 4), ("has_4_byte_gpte", 4, 1), ("quadrant", 5, 2), ("direct", 7, 1))
_OLD = (*_HEAD, ("access", 8, 3), ("invalid", 11, 1), ("efer_nx", 12, 1), ("cr0_wp", 13, 1), ("smep_andnot_wp", 14, 1),
        ("smap_andnot_wp", 15, 1), ("ad_disabled", 16, 1), ("guest_mode", 17, 1))
_NEW = (*_HEAD, ("access", 8, 4), ("invalid", 12, 1), ("efer_nx", 13, 1), ("cr0_wp", 14, 1),
        ("smap_andnot_wp", 15, 1), ("ad_disabled", 16, 1), ("guest_mode", 17, 1), ("passthrough", 18, 1),
        ("is_mirror", 19, 1), ("cr4_smep", 20, 1))
_SMM = ("smm", 24, 8)
_5_15 = (*_OLD, _SMM)
_6 = (*_OLD, ("passthrough", 18, 1), _SMM)
_7_2 = (*_NEW, _SMM)
#: mmu.roles: 7.2's, and the SMEP bit of the kernels before it.
INTERNAL = (*_NEW, ("smep_andnot_wp", 21, 1), _SMM)
#: libtraceevent's plugin_kvm, as seen in 1.7.1: bit 4 read as `cr4_pae`, everything as in 2018.
_PLUGIN = (("level", 0, 4), ("cr4_pae", 4, 1), ("quadrant", 5, 2), ("direct", 7, 1), ("access", 8, 3),
           ("invalid", 11, 1), ("nxe", 12, 1), ("cr0_wp", 13, 1), ("smep_andnot_wp", 14, 1),
           ("smap_andnot_wp", 15, 1), ("smm", 24, 8))

#: The extended role: names of single bits, from bit 0.
_EXT_5_15 = ("valid", "execonly", "cr0_pg", "cr4_pae", "cr4_pse", "cr4_pke", "cr4_smap", "cr4_smep", "cr4_la57",
             "efer_lma")
_EXT_6 = ("valid", "execonly", "cr4_pse", "cr4_pke", "cr4_smap", "cr4_smep", "cr4_la57", "efer_lma")
_EXT_7_2 = ("valid", "execonly", "cr4_pse", "cr4_pke", "cr4_smap", "cr4_la57", "efer_lma", "has_pferr_fetch")

_ACCESS_6 = ("---", "--x", "w--", "w-x", "-u-", "-ux", "wu-", "wux")
_ACCESS_7_2 = ("----", "r---", "-w--", "rw--", "--u-", "r-u-", "-wu-", "rwu-",
               "---x", "r--x", "-w-x", "rw-x", "--ux", "r-ux", "-wux", "rwux")


@dataclass(frozen=True)
class Layout:
    """How one family of kernels lays out roles and prints them.

    kernel        name of the family ("6.12")
    role          fields of the page role: (name, first bit, bits)
    ext           bit names of the extended role
    access        what the tracepoints print for each value of `access`
    gpte_inverted bit 4 is set when guest entries have 8 bytes
    wide_access   `access` has four bits: read, write, user, execute
    """

    kernel: str
    role: tuple
    ext: tuple
    access: tuple
    gpte_inverted: bool = False
    wide_access: bool = False
    places: dict = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "places", {name: (at, (1 << bits) - 1) for name, at, bits in self.role})

    def get(self, word, name):
        """Field `name` of a role word of this kernel (0 if the kernel has no such field)."""
        at, mask = self.places.get(name, (0, 0))
        value = word >> at & mask
        return value ^ 1 if self.gpte_inverted and name == "has_4_byte_gpte" else value

    def pack(self, fields):
        """Role word from a dict of fields; names that this kernel lacks are left out."""
        word = 0
        for name, (at, mask) in self.places.items():
            value = fields.get(name, 0)
            if self.gpte_inverted and name == "has_4_byte_gpte":
                value ^= 1
            word |= (value & mask) << at
        return word

    def unpack(self, word):
        """All fields of a role word of this kernel, by name."""
        return {name: self.get(word, name) for name in self.places}


LAYOUTS = {
    "5.15": Layout("5.15", _5_15, _EXT_5_15, _ACCESS_6, gpte_inverted=True),
    "6.1": Layout("6.1", _6, _EXT_6, _ACCESS_6),
    "6.12": Layout("6.12", _6, _EXT_6, _ACCESS_6),
    "7.2": Layout("7.2", _7_2, _EXT_7_2, _ACCESS_7_2, wide_access=True),
}
#: Our own words (`mmu.roles`): access is execute 1, write 2, user 4 whatever the kernel.
OURS = Layout("internal", INTERNAL, _EXT_6, _ACCESS_6)
KERNELS = tuple(LAYOUTS)
#: What trace-cmd prints when its plugin is loaded.
PLUGIN = Layout("plugin", _PLUGIN, (), _ACCESS_6)

#: First kernel version of each layout, newest first; 5.18 inverted bit 4, 7.2 widened `access` (MBEC, GMET).
_SINCE = (((7, 2), "7.2"), ((6, 4), "6.12"), ((5, 18), "6.1"), ((0, 0), "5.15"))


def layout_of(kernel):
    """`Layout` of a kernel given as "6.12", "linux-6.12", "6.12.95+deb12-cloud-amd64" or a `Layout`.

    Raises ValueError if there is no version in the text.
    """
    if isinstance(kernel, Layout):
        return kernel
    text = str(kernel).lower().removeprefix("linux-").removeprefix("linux ")
    if text in LAYOUTS:
        return LAYOUTS[text]
    parts = text.split("-")[0].split("+")[0].split(".")
    try:
        version = int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    except ValueError:
        raise ValueError(f"no kernel version in {kernel!r}") from None
    return next(LAYOUTS[name] for since, name in _SINCE if version >= since)


def access_to_kernel(access, kernel):
    """An access mask of ours (execute 1, write 2, user 4) as `kernel` has it; 7.2's is read 1 (always), execute 8."""
    return 1 | access & 6 | (access & 1) << 3 if layout_of(kernel).wide_access else access & 7


def access_from_kernel(access, kernel):
    """A kernel's access mask as ours."""
    return access & 6 | access >> 3 & 1 if layout_of(kernel).wide_access else access & 7


def role_to_kernel(role, kernel):
    """Our role word as `kernel` lays it out; fields that the kernel lacks are left out.

    The role of an MMU that was never used has no level and no access, not even 7.2's bit for reading.
    """
    layout = layout_of(kernel)
    fields = OURS.unpack(role)
    if fields["level"] or fields["access"]:
        fields["access"] = access_to_kernel(fields["access"], layout)
    return layout.pack(fields)


def role_from_kernel(word, kernel):
    """A kernel's role word in our layout."""
    if not word:
        return 0
    layout = layout_of(kernel)
    fields = layout.unpack(word)
    fields["access"] = access_from_kernel(fields["access"], layout)
    return OURS.pack(fields)


def ext_to_kernel(ext, kernel, role=0):
    """Our extended role as `kernel` lays it out.

    ext   bits of `mmu.roles.EXT_*`
    role  our role word of the same MMU: 5.15 repeats CR0.PG and CR4.PAE in the extended role, 7.2 has the bit
          has_pferr_fetch, and both follow from it
    """
    layout = layout_of(kernel)
    on = {name for i, name in enumerate(OURS.ext) if ext >> i & 1}
    if "cr0_pg" in layout.ext and on:
        level = OURS.get(role, "level")
        if level:
            on.add("cr0_pg")
        if level >= 3:
            on.add("cr4_pae")
    if OURS.get(role, "efer_nx") or "cr4_smep" in on:
        on.add("has_pferr_fetch")
    return sum(1 << i for i, name in enumerate(layout.ext) if name in on)


def ext_from_kernel(word, kernel):
    """A kernel's extended role in our layout (bits that we do not have are left out)."""
    layout = layout_of(kernel)
    on = {name for i, name in enumerate(layout.ext) if word >> i & 1}
    return sum(1 << i for i, name in enumerate(OURS.ext) if name in on)


def describe(word, kernel):
    """A kernel's role word in words, for people: "level 4, 8-byte entries, access wux, efer_nx, cr0_wp"."""
    layout = layout_of(kernel)
    parts = [f"level {layout.get(word, 'level')}", f"{4 if layout.get(word, 'has_4_byte_gpte') else 8}-byte entries"]
    if layout.get(word, "quadrant"):
        parts.append(f"quadrant {layout.get(word, 'quadrant')}")
    parts.append(f"access {layout.access[layout.get(word, 'access')]}")
    flags = [name for name, _at, bits in layout.role if bits == 1 and name != "has_4_byte_gpte"]
    parts += [name for name in flags if layout.get(word, name)]
    if layout.get(word, "smm"):
        parts.append("smm")
    return ", ".join(parts)
