# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest in a file: MMU state and memory, CPU, devices, the virtual clock.

    line 1   SHADOWMMU-SNAPSHOT 1
    line 2   JSON: how the machine was made, a fingerprint of the state's layout, length and CRC of each part
    then     the parts, zlib-compressed: "state" (the store, without scratch and event ring), "cpu", "devices" (JSON)

Saving is a barrier: the engine's TLB, its translated code and the block counts are dropped, in the machine that goes
on as in the one that is restored.  So both continue alike to the last instruction.  Nothing in the file is executed
or unpickled; what does not fit is refused with one line.
"""

import ctypes
import dataclasses
import hashlib
import json
import zlib

from ...rules.fields import FIELDS
from ...state import layout
from . import hooks, quick
from . import offsets as o
from .errors import EngineError

MAGIC, VERSION = "SHADOWMMU-SNAPSHOT", 1
PARTS = ("state", "cpu", "devices")
MAX_HEADER = 1 << 16
#: Cells of the control block that belong to the guest.
CELLS = (hooks.COUNT, hooks.EXITS, hooks.FAST_EXITS, hooks.NATIVE_EVENTS)
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


def save(machine, path, made):
    """Write `machine` (a KvmRun between two runs of its hardware) to `path`.  made: JSON-able facts for `restore`."""
    barrier(machine)
    store, cells = machine.vm.store, machine.hardware.cells
    devices = {
        "platform": plain(machine.platform.snapshot()), "msrs": plain(machine.msrs),
        "clock_offset": machine.quick_cells[quick.CLOCK_OFFSET], "cells": [cells[number] for number in CELLS],
        "soft": [int(machine.soft_exception), machine.soft_length],
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
        machine.quick_cells[quick.CLOCK_OFFSET] = devices["clock_offset"]
        machine.quick_cells[quick.TSC_AUX] = machine.msrs[0xC0000103]
        for number, value in zip(CELLS, devices["cells"], strict=True):
            machine.hardware.cells[number] = value
        machine.soft_exception, machine.soft_length = bool(devices["soft"][0]), devices["soft"][1]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: devices do not fit this machine ({type(error).__name__}: {error})") from None
    machine.hardware.restore_context(parts["cpu"])
    barrier(machine)


def private_state(machine):
    """What `save` would write, for tests that compare two machines."""
    return bytes(machine.vm.store.used_bytes()), bytes(ctypes.string_at(machine.hardware.env_address, o.ERROR_CODE))
