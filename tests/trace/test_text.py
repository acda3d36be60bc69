# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows printed as the kernel prints them: every recorded line, taken apart and printed again; tables of names."""

import io
import re

import pytest
from recorded import DATA, RUNS, run_id, unpacked

from shadowmmu.mmu import events
from shadowmmu.trace import dat_file, layouts, names, normalise, runs
from shadowmmu.trace.text import HASHED_POINTER, MARKS, Formatter, format_event
from shadowmmu.trace.text_reader import TextReader

KIND = {name: kind for kind, (name, _fields) in events.EVENTS.items()}
SYMBOLS = {"direction": lambda v: v == "write", "type": lambda v: {v2: k for k, v2 in names.MMIO_TYPES.items()}[v]}


def flag_value(text):
    table = {name: bit for bit, name in names.PFERR_7_2}
    return sum(table[part] if part in table else int(part, 16) for part in text.split("|") if part)


def row_of(record, layout, frames):
    """The row that our MMU would emit for a recorded event, or None where the text does not tell enough."""
    f, name = record.fields, record.event
    if name in ("kvm_mmu_get_page", "kvm_mmu_sync_page", "kvm_mmu_unsync_page", "kvm_mmu_prepare_zap_page"):
        word = layout.pack({"level": f["level"], "has_4_byte_gpte": f["gpte_bytes"] == 4, "quadrant": f["quadrant"],
                            "direct": f["direct"], "access": layout.access.index(f["access"]),
                            "invalid": f["invalid"], "efer_nx": f["nx"], "ad_disabled": 1 - f["ad"]})
        values = [f["gen"], f["gfn"], layouts.role_from_kernel(word, layout), f["root_count"], f["unsync"],
                  f.get("created", 0)]
    elif name == "kvm_exit":
        code = {v: k for k, v in names.SVM_EXITS.items()}[f["reason"]]
        values = [f["vcpu"], code, f["rip"], f["info1"], f["info2"]]
    elif name == "kvm_nested_vmexit":
        code = {v: k for k, v in names.SVM_EXITS.items()}[f["reason"]]
        values = [f["vcpu"], code, f["rip"], f["info1"], f["info2"]]
    elif name == "kvm_nested_vmexit_inject":
        code = {v: k for k, v in names.SVM_EXITS.items()}[f["reason"]]
        values = [code, f["info1"], f["info2"], f["int_info"], f["int_error"]]
    elif name == "kvm_nested_vmenter_failed":
        values = [names.NESTED_CHECKS.index(f["check"])]
    elif name == "kvm_emulate_insn":
        code = bytes.fromhex(f["bytes"])
        low, high = code[:8], code[8:]
        values = [f["csbase"], f["rip"], len(code), int.from_bytes(low, "little"), int.from_bytes(high, "little"),
                  names.EMULATOR_MODES.index(f["mode"]), f["failed"]]
    elif name == "kvm_inj_exception":
        vector = {v: k for k, v in names.VECTORS.items()}[f["vector"]]
        values = [vector, "error_code" in f, f.get("error_code", 0), f["reinjected"]]
    elif name == "kvm_mmu_spte_requested":
        access = f.get("access", 0)
        values = [f["gfn"], f["pfn"], f["level"], layouts.access_from_kernel(access, layout) if access else 0]
    elif name == "kvm_mmu_set_spte":
        values = [f["gfn"], f["spte"], f["level"], f["at"] // 8]
    elif name == "kvm_userspace_exit":
        values = [f["number"]]
    elif name == "fast_page_fault":
        values = [f["vcpu"], f["gva"], flag_value(f["error_code"]), 0, f["old_spte"], f["new_spte"], f["spurious"],
                  f["fixed"]]
    elif name == "kvm_entry":
        return None if "immediate" in record.body else [KIND[name], f["vcpu"], f["rip"], 0, 0, 0]
    elif name == "kvm_mmio":
        values = [SYMBOLS["type"](f["type"]), f["length"], f["gpa"], f["value"]]
    elif name in ("kvm_pio", "kvm_msr"):
        values = [SYMBOLS["direction"](v) if k == "direction" else v for k, v in f.items()]
    elif name == "mark_mmio_spte":
        values = [0, f["gfn"], f["access"], f["gen"]]
    elif name in ("kvm_mmu_pagetable_walk", "kvm_mmu_walker_error"):
        values = [v for k, v in f.items() if k != "flags"]
    elif name == "tracing_mark_write":
        return None
    else:
        values = list(f.values())
    return [KIND[name], *(v - (1 << 64) if int(v) >> 63 else int(v) for v in values)]


@pytest.mark.parametrize("run", RUNS, ids=run_id)
def test_every_recorded_line_is_printed_again(run):
    recording = runs.RecordedRun(run)
    layout = layouts.layout_of(recording.kernel)
    formatter = Formatter(recording.kernel, recording.guest_frames)
    normaliser = normalise.Normaliser(recording.guest_frames)
    seen = set()
    for record in TextReader(io.BytesIO(unpacked(run / "trace.txt.gz"))):
        if record.event not in KIND or record.body.endswith("error_code 0x00000000[immediate exit]"):
            continue
        row = row_of(record, layout, recording.guest_frames)
        if row is None or (recording.mode and record.event in ("kvm_mmu_set_spte", "fast_page_fault")):
            continue                                  # two-dimensional paging prints letters of its own
        seen.add(record.event)
        raw = re.sub(r"(intr_info|error_code) 0x[0-9a-f]{8}", r"\1 0x00000000", formatter.raw(row))
        want = re.sub(r"(intr_info|error_code) 0x[0-9a-f]{8}", r"\1 0x00000000", f"{record.event}: {record.body}")
        want = re.sub(r"sptep(:? ?)[0-9a-f]{16}", rf"sptep\1{HASHED_POINTER}", want)
        assert raw == re.sub(r"requests 0x[0-9a-f]+", "requests 0x0000000000000000", want)
        normal = normaliser.event(f"{record.event}: {record.body}")
        if normal is not None:
            assert formatter.normal(row) == normal
    assert len(seen) > 12


@pytest.mark.parametrize("kernel", ["6.12", "7.2"])
def test_names_are_those_of_the_print_formats(kernel):
    dat = dat_file.read_dat(io.BytesIO(unpacked(DATA / f"logs/{kernel}/g3/trace.dat.gz")))
    by_name = {event.name: event.text for event in dat.formats.values()}
    style = Formatter(kernel).style

    def table(text):
        out = {}
        for left, name in re.findall(r'\{ ([^{}]*?), "([^"]*)" \}', text):
            left = re.sub(r"(?<=[0-9a-f])(ull|ul|u)\b", "", left, flags=re.IGNORECASE)
            out[eval(left, {}) & 0xFFFFFFFF] = name
        return out

    vmx, svm = by_name["kvm_exit"].split(") : __print_symbolic", 1)
    assert table(svm.split('"FAILED_VMENTRY"')[0].rsplit(",", 1)[0]) == style.exits
    assert table(vmx) == style.vmx_exits
    vectors = table(by_name["kvm_inj_exception"].replace('"#" "', '"#'))
    assert vectors == style.vectors
    assert table(by_name["kvm_userspace_exit"].replace('"KVM_EXIT_" "', '"KVM_EXIT_')) == names.USERSPACE_EXITS
    flags = re.findall(r'\(([0-9]+)\)+, "(\w+)"|<< ([0-9]+)\), "(\w+)"', by_name["kvm_mmu_walker_error"])
    assert [(1 << int(a or c), b or d) for a, b, c, d in flags] == list(style.pferr)


def test_markers():
    rows = {0: "MARK 7", 1: "VAL 00000007", 7: "HOSTOP 7 end rc -1", 8: "VMM run", 10: "MMIO R 7 len 4 val 1f"}
    for mark, text in rows.items():
        row = [events.MARK, mark, 7, -1 if mark == 7 else 4, 0x1F]
        assert format_event(row, "6.12") == f"tracing_mark_write: {text}"
    assert format_event([events.MARK, 9, -1], "6.12") == "tracing_mark_write: VMM done code -1"
    assert format_event([events.MARK, 102], "6.12", marks={2: "DIRTY 0:"}) == "tracing_mark_write: DIRTY 0:"
    assert len(MARKS) < 100
    with pytest.raises(ValueError, match="no text"):
        format_event([events.MARK, 100], "6.12")
    with pytest.raises(ValueError, match="unknown event kind"):
        format_event([99, 0], "6.12")


def test_unknown_numbers_print_as_the_kernel_does():
    assert "reason 0x3ff rip" in format_event([events.EXIT, 0, 0x3FF, 0, 0, 0], "6.12")
    assert format_event([events.WALKER_ERROR, 1 | 1 << 15], "6.12") == "kvm_mmu_walker_error: pferr 8001 P|0x8000"
    assert format_event([events.WALKER_ERROR, 1 | 1 << 15], "7.2") == "kvm_mmu_walker_error: pferr 8001 P|SGX"
    assert format_event([events.INJ_EXCEPTION, 9, 0, 0, 0], "6.12") == "kvm_inj_exception: 0x9"
