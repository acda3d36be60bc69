# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest in a file: MMU state and memory, CPU, devices, the virtual clock.

    line 1   SHADOWMMU-SNAPSHOT 2
    line 2   JSON: how the machine was made, a fingerprint of the state's layout, length and CRC of each part
    then     the parts, zlib-compressed: "state" (the store, without scratch and event ring), "cpu", "devices" (JSON)

Saving is a barrier: the engine's TLB, its translated code and the block counts are dropped, in the machine that goes on
as in the one that is restored.  A snapshot lies inside guest mode: what the last entry injected is delivered, and a
restored machine loads its registers without another entry.  So both continue alike to the last instruction.  Nothing in
the file is executed or unpickled; what does not fit is refused with one line.
"""

import ctypes
import dataclasses
import hashlib
import json
import zlib

from ...rules.fields import FIELDS
from ...state import layout
from . import fast_path, hooks, quick
from . import offsets as o
from .errors import EngineError

MAGIC, VERSION = "SHADOWMMU-SNAPSHOT", 2
PARTS = ("state", "cpu", "devices")
MAX_HEADER = 1 << 16
#: Cells that belong to the guest, or that a report adds up: of the control block, the fast path's and the quick block.
CELLS = (hooks.COUNT, hooks.EXITS, hooks.FAST_EXITS, hooks.NATIVE_EVENTS, hooks.HELD_REQUESTS, hooks.USER_KICK)
FAST_CELLS = (fast_path.EVENTS_SEEN, fast_path.EVENT_BEFORE, fast_path.EMULATED, fast_path.CR3_READS, fast_path.CR3_WRITES,
              fast_path.INVLPGS)
QUICK_CELLS = (quick.CLOCK_OFFSET, quick.TAKEN, quick.TAKEN_IO, quick.TSC_AUX)
MAX_PART = 80 << 30


def fingerprint():
    """What must be equal for a state's words to mean the same."""
    text = repr((sorted(layout.RECORDS.items(), key=lambda item: item[0]), list(FIELDS), o.SUPPORTED_VERSION, o.VM_VMCB))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def plain(value):
    """Device state as JSON can hold it: dataclasses and dicts as lists of pairs, bytes as hex."""
    if dataclasses.is_dataclass(value):
        return [[field.name, plain(getattr(value, field.name))] for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        return [[key, plain(item)] for key, item in value.items()]
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def rebuilt(template, value):
    """`plain`, backwards: a value of the same shape as `template`."""
    if dataclasses.is_dataclass(template):
        return dataclasses.replace(template, **{name: rebuilt(getattr(template, name), item) for name, item in value})
    if isinstance(template, dict):
        return {key: rebuilt(template[key], item) for key, item in value}
    if isinstance(template, (bytes, bytearray)):
        return bytes.fromhex(value)
    if isinstance(template, list) and template:
        return [rebuilt(template[0], item) for item in value]
    return value


def barrier(machine):
    """Forget everything that a restored machine would not have."""
    hardware = machine.hardware
    hardware.forget_code()
    hardware.flush_tlb()
    hardware.cells[hooks.PREFETCH_RIP] = -1
    hardware.rflags = hardware.rflags   # flags and mode bits as they are after a restore
    machine.quick_cells[quick.CPUID_COUNT] = 0


def cell_groups(machine):
    """(name, values, numbers) of the three groups above."""
    return (("cells", machine.hardware.cells, CELLS), ("fast", machine.block, FAST_CELLS),
            ("quick", machine.quick_cells, QUICK_CELLS))


def save(machine, path, made):
    """Write `machine` (a KvmRun between two runs of its hardware) to `path`.  made: JSON-able facts for `restore`."""
    machine.read_back()
    barrier(machine)
    store = machine.vm.store
    devices = {
        "platform": plain(machine.platform.snapshot()), "msrs": plain(machine.msrs),
        "exits": plain(dict(machine.exits)), "emulated": machine.emulated,
        "soft": [int(machine.soft_exception), machine.soft_length, machine.cr8],
        **{name: [values[number] for number in numbers] for name, values, numbers in cell_groups(machine)},
    }
    parts = {"state": bytes(store.used_bytes()), "cpu": machine.hardware.save_context(),
             "devices": json.dumps(devices).encode()}
    header = {"made": made, "fingerprint": fingerprint(), "config": dataclasses.asdict(store.config),
              "rules": machine.vm.rules_name, "parts": []}
    blobs = []
    for name in PARTS:
        blob = zlib.compress(parts[name], 1)
        blobs.append(blob)
        header["parts"].append([name, len(blob), len(parts[name]), zlib.crc32(parts[name])])
    try:
        with open(path, "wb") as file:
            file.write(f"{MAGIC} {VERSION}\n{json.dumps(header)}\n".encode())
            file.writelines(blobs)
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror}") from None


def is_snapshot(path):
    """Does the file begin like a snapshot?"""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC.encode()
    except OSError:
        return False


def read(path):
    """(header, parts by name).  EngineError for anything that is not a whole snapshot of this version."""
    try:
        with open(path, "rb") as file:
            first = file.readline(80).decode("latin-1").split()
            if len(first) != 2 or first[0] != MAGIC:
                raise EngineError(f"{path}: not a snapshot")
            if first[1] != str(VERSION):
                raise EngineError(f"{path}: snapshot format {first[1]}, this program reads format {VERSION}")
            try:
                header = json.loads(file.readline(MAX_HEADER))
                listed = [(str(name), int(packed), int(size), int(crc)) for name, packed, size, crc in header["parts"]]
                wanted = header["fingerprint"]
            except (ValueError, KeyError, TypeError):
                raise EngineError(f"{path}: line 2 is not a snapshot's header") from None
            if wanted != fingerprint():
                raise EngineError(f"{path}: written by a shadowmmu whose state is laid out differently ({wanted}, here "
                                  f"{fingerprint()})")
            if tuple(name for name, *_ in listed) != PARTS:
                raise EngineError(f"{path}: parts {[name for name, *_ in listed]}, expected {list(PARTS)}")
            return header, {name: _part(path, file, name, packed, size, crc) for name, packed, size, crc in listed}
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from None


def _part(path, file, name, packed, size, crc):
    if not 0 <= size <= MAX_PART or not 0 <= packed <= MAX_PART:
        raise EngineError(f"{path}: part {name} of {size} bytes")
    blob = file.read(packed)
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(blob, size + 1)
    except zlib.error:
        data = b""
    if len(blob) != packed or len(data) != size or zlib.crc32(data) != crc:
        raise EngineError(f"{path}: part {name} is damaged or cut off")
    return data


def apply(machine, path, parts):
    """Put the parts of a snapshot into a fresh machine of the same making."""
    store = machine.vm.store
    if len(parts["state"]) != store.used:
        raise EngineError(f"{path}: state of {len(parts['state'])} bytes, this machine has {store.used}")
    mask = machine.vm.view.event_mask
    store.used_bytes()[:] = parts["state"]
    machine.vm.view.event_mask = mask
    try:
        devices = json.loads(parts["devices"])
        machine.platform.restore(rebuilt(machine.platform.snapshot(), devices["platform"]))
        machine.msrs.update(devices["msrs"])
        for name, values, numbers in cell_groups(machine):
            for number, value in zip(numbers, devices[name], strict=True):
                values[number] = value
        machine.exits.update({int(code): int(count) for code, count in devices["exits"]})
        machine.emulated = int(devices["emulated"])
        soft, machine.soft_length, machine.cr8 = devices["soft"]
        machine.soft_exception = bool(soft)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: devices do not fit this machine ({type(error).__name__}: {error})") from None
    machine.hardware.restore_context(parts["cpu"])
    barrier(machine)


def private_state(machine):
    """What `save` would write, for tests that compare two machines."""
    return bytes(machine.vm.store.used_bytes()), bytes(ctypes.string_at(machine.hardware.env_address, o.ERROR_CODE))
