# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's boot protocols, by kernels of a few bytes: they run, they get what they were promised, bad ones are refused."""

import struct

import linux_images
import pytest

from shadowmmu.guests import acpi, boot_params, session
from shadowmmu.guests.devices import acpi_pm, ioapic, lapic
from shadowmmu.guests.image import GuestImageError


def write(folder, contents, name="kernel"):
    path = folder / name
    path.write_bytes(contents)
    return path


def run(path, entry, arguments="console=ttyS0 hello", **options):
    out = []
    image = session.load(path, arguments, memory_size=32 << 20, entry=entry)
    outcome = session.run(image, on_output=out.append, max_instructions=100_000, **options)
    return outcome, b"".join(out)


@pytest.mark.parametrize("mmu", ["shadow", "none"])
@pytest.mark.parametrize("entry, build", [
    ("linux64", linux_images.bzimage), ("linux32", linux_images.bzimage), ("auto", lambda: linux_images.bzimage(xloadflags=0)),
    ("linux64", linux_images.elf), ("pvh", lambda: linux_images.elf(pvh=True)), ("auto", lambda: linux_images.elf(pvh=True)),
])
def test_kernel_prints_its_command_line_and_switches_off(tmp_path, entry, build, mmu):
    outcome, text = run(write(tmp_path, build()), entry, mmu=mmu)
    assert text == b"console=ttyS0 hello"
    assert (outcome.report.reason, outcome.report.exit_code) == ("exit", 0)
    assert outcome.report.text == "the guest switched the machine off"


def test_a_relocatable_kernel_moves_when_its_place_is_outside_memory(tmp_path):
    outcome, text = run(write(tmp_path, linux_images.bzimage(pref_address=0x4000000)), "auto")
    assert text == b"console=ttyS0 hello" and outcome.report.exit_code == 0


def test_initrd_lies_at_the_top_of_memory_and_in_the_zero_page(tmp_path):
    data = bytes(range(256)) * 20
    path, initrd = write(tmp_path, linux_images.bzimage()), write(tmp_path, data, "initrd")
    image = session.load(path, "", [(initrd, "")], 32 << 20)
    where = dict(image.segments)
    at = ((32 << 20) - len(data)) & -4096
    assert where[at] == data
    page = where[boot_params.ZERO_PAGE]
    assert struct.unpack_from("<II", page, 0x218) == (at, len(data))
    # type_of_loader "undefined", memory map: the last entry is RAM from 1 MiB to the end
    assert page[0x210] == 0xFF
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
    assert entries[-1] == (1 << 20, 31 << 20, 1)
    assert all(a + n <= b for (a, n, _), (b, _, _) in zip(entries, entries[1:], strict=False))


@pytest.mark.parametrize("field, value, words", [
    ("boot_flag", 0, "boot_flag"), ("version", 0x0205, "boot protocol 2.05"), ("loadflags", 0, "LOADED_HIGH"),
    ("setup_sects", 200, "truncated"), ("jump", 4, "jump"), ("jump", 0xFF, "jump"), ("kernel_alignment", 0, "kernel_alignment"),
    ("kernel_alignment", 0x180000, "kernel_alignment"), ("pref_address", 0x1000001, "pref_address"),
    ("pref_address", 0x1000, "pref_address"), ("init_size", 0xFFFFFFFF, "init_size"), ("syssize", 1000, "syssize"),
    ("cmdline_size", 3, "command line has 19 bytes"),
])
def test_a_bad_field_is_named(tmp_path, field, value, words):
    path = write(tmp_path, linux_images.bzimage(**{field: value}))
    with pytest.raises(GuestImageError, match=words):
        session.load(path, "console=ttyS0 hello", memory_size=32 << 20)


@pytest.mark.parametrize("build, options, words", [
    (lambda: linux_images.bzimage(xloadflags=0), {"entry": "linux64"}, "no 64-bit entry"),
    (linux_images.elf, {"entry": "pvh"}, "no PVH entry"),
    (lambda: linux_images.elf(pvh=True, note_size=2), {}, "4 or 8"),
    (lambda: linux_images.elf(at=0x8000), {}, "below 1 MiB"),
    (lambda: linux_images.elf(memory_size=1 << 40), {}, "outside"),
    (lambda: linux_images.elf(kind=3), {}, "ET_EXEC|not an executable"),
    (linux_images.bzimage, {"memory_size": 4 << 20}, "8 to 3072 MiB"),
    (linux_images.bzimage, {"memory_size": 4 << 30}, "8 to 3072 MiB"),
    (linux_images.bzimage, {"entry": "pvh"}, "entry 'pvh' is for vmlinux"),
])
def test_what_cannot_work_is_refused(tmp_path, build, options, words):
    with pytest.raises(GuestImageError, match=words):
        session.load(write(tmp_path, build()), "", **{"memory_size": 32 << 20, **options})


def test_every_truncation_is_refused_or_loads(tmp_path):
    whole = linux_images.elf(pvh=True)
    for image, step in ((linux_images.bzimage(), 37), (whole, 7)):
        for length in range(0, len(image), step):
            path = write(tmp_path, image[:length])
            try:
                session.load(path, "", memory_size=32 << 20)
            except GuestImageError as error:
                assert "\n" not in str(error)
            else:
                # only bytes of the code itself are missing
                assert image[:2] == b"\0\0" and length > 1024


def test_initrd_that_does_not_fit(tmp_path):
    path, initrd = write(tmp_path, linux_images.bzimage()), write(tmp_path, bytes(20 << 20), "initrd")
    with pytest.raises(GuestImageError, match="do not fit"):
        session.load(path, "", [(initrd, "")], 32 << 20)


def test_acpi_tables_sum_to_zero_and_lead_to_each_other():
    rsdp, parts = acpi.tables(2, ioapic.BASE)
    memory = bytearray(1 << 20)
    for at, data in parts:
        memory[at:at + len(data)] = data
    assert memory[rsdp:rsdp + 8] == b"RSD PTR " and sum(memory[rsdp:rsdp + 20]) & 0xFF == 0
    assert sum(memory[rsdp:rsdp + 36]) & 0xFF == 0

    def table(at):
        length = struct.unpack_from("<I", memory, at + 4)[0]
        assert sum(memory[at:at + length]) & 0xFF == 0
        return bytes(memory[at:at + length])

    xsdt = table(struct.unpack_from("<Q", memory, rsdp + 24)[0])
    tables = [table(at) for at in struct.unpack(f"<{(len(xsdt) - 36) // 8}Q", xsdt[36:])]
    fadt, madt = tables
    assert fadt[:4] == b"FACP" and len(fadt) == 276     # revision 6, ACPI 6.4 table 5.9
    assert struct.unpack_from("<I", fadt, 64)[0] == acpi_pm.CONTROL and fadt[89] == 2
    assert b"_S5_" in table(struct.unpack_from("<Q", fadt, 140)[0])
    assert madt[:4] == b"APIC" and struct.unpack_from("<I", madt, 36)[0] == lapic.BASE
    kinds, at = [], 44
    while at < len(madt):
        kinds.append(madt[at])
        at += madt[at + 1]
    assert kinds == [0, 0, 1, 2] and at == len(madt)


class TestIoApic:
    def make(self):
        sent = []
        chip = ioapic.IoApic(lambda *message: sent.append(message))
        return chip, sent

    def program(self, chip, line, low, high=0):
        for register, value in ((0x11 + 2 * line, high), (0x10 + 2 * line, low)):
            chip.write(0, register)
            chip.write(0x10, value)

    def test_an_edge_is_sent_once_and_not_while_masked(self):
        chip, sent = self.make()
        chip.set_irq(4, True)
        assert sent == []
        chip.set_irq(4, False)
        self.program(chip, 4, 0x31, 5 << 24)
        chip.set_irq(4, True)
        chip.set_irq(4, True)
        assert sent == [(0x31, 5, False, False, False)]

    def test_a_level_repeats_after_eoi_until_it_falls(self):
        chip, sent = self.make()
        self.program(chip, 9, 0x8041)
        chip.set_irq(9, True)
        chip.set_irq(9, True)
        assert len(sent) == 1
        chip.end_of_interrupt(0x41)
        assert len(sent) == 2
        chip.set_irq(9, False)
        chip.end_of_interrupt(0x41)
        assert len(sent) == 2

    def test_version_tells_24_inputs(self):
        chip, _ = self.make()
        chip.write(0, 1)
        assert chip.read(0x10) >> 16 & 0xFF == 23
