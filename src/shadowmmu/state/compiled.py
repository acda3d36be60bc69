# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled storage: records are pointers into one buffer, functions are machine code (numba).

A record passes between functions as one pointer and reads like the kernel's C (`sp.unsync = 1`).  The `rules`
record is declared by its own room before the first compilation (`define_rules`).
"""

import numba
import numpy
from numba.core import types
from numba.extending import intrinsic

from . import layout
from .patch import PATCH

_njit = numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


def core(function):
    """Compile a function of the core on its first call; the result is cached on disk."""
    return _njit(PATCH.apply(function))


def _dtype(fields):
    return numpy.dtype([(name, "i8") if count == 1 else (name, "i8", count) for name, count in fields.items()])


_DTYPES = {name: _dtype(fields) for name, fields in layout.RECORDS.items()}
_TYPES = {name: numba.from_dtype(dtype) for name, dtype in _DTYPES.items()}


def _pointer_at(result):
    @intrinsic
    def at(typing, vm, offset):
        def generate(context, builder, signature, args):
            word = context.get_value_type(types.int64)
            address = builder.add(builder.ptrtoint(args[0], word), args[1])
            return builder.inttoptr(address, context.get_value_type(result))

        return result(vm, types.int64), generate

    return at


words = _pointer_at(types.CPointer(types.int64))
_words32 = _pointer_at(types.CPointer(types.uint32))
octets = _pointer_at(types.CPointer(types.uint8))
words32 = _words32

_HEADER = _TYPES["HEADER"]


@intrinsic
def attach(typing, address):
    """First statement of an entry point: the `vm` behind the address that Python passed."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(_HEADER))

    return _HEADER(types.int64), generate


_page, _vcpu, _context, _slot, _desc, _meta, _large, _walker, _fault, _sync, _iter, _hw_walk = (
    _pointer_at(_TYPES[name]) for name in
    ("PAGE", "VCPU", "CONTEXT", "SLOT", "DESC", "META", "META_LARGE", "WALKER", "FAULT", "SYNC", "TDP_ITER", "HW_WALK"))
PAGE, VCPU, CONTEXT, SLOT, DESC, META, LARGE, WALKER, FAULT = (
    _DTYPES[name].itemsize for name in
    ("PAGE", "VCPU", "CONTEXT", "SLOT", "DESC", "META", "META_LARGE", "WALKER", "FAULT"))


@_njit
def page(vm, i):
    return _page(vm, vm.pages + i * PAGE)


@_njit
def vcpu(vm, i):
    return _vcpu(vm, vm.vcpus + i * VCPU)


@_njit
def context(vm, i):
    return _context(vm, vm.contexts + i * CONTEXT)


@_njit
def slot(vm, i):
    return _slot(vm, vm.slots + i * SLOT)


@_njit
def desc(vm, i):
    return _desc(vm, vm.descs + i * DESC)


@_njit
def meta(vm, i):
    return _meta(vm, vm.meta + i * META)


@_njit
def meta2(vm, i):
    return _large(vm, vm.meta2 + i * LARGE)


@_njit
def meta3(vm, i):
    return _large(vm, vm.meta3 + i * LARGE)


@_njit
def walker(vm, i):
    return _walker(vm, vm.walkers + i * WALKER)


@_njit
def fault(vm, i):
    return _fault(vm, vm.faults + i * FAULT)


@_njit
def sync_vector(vm):
    return _sync(vm, vm.sync)


@_njit
def tdp_iter(vm):
    return _iter(vm, vm.iter)


@_njit
def hw_walk(vm):
    return _hw_walk(vm, vm.hw_walk)


def define_rules(fields):
    """Declare the rules record (its fields belong to the room `rules`)."""
    global _rules
    _rules = _pointer_at(numba.from_dtype(_dtype(fields)))


@_njit
def rules(vm):
    return _rules(vm, vm.rules)
