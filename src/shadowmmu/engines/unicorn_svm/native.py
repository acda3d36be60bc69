# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw memory and calls through addresses, for compiled callbacks.

The engine calls our hooks from C, sometimes with a `longjmp` still to come over them, so they may hold no
CPython frame. They are numba cfuncs, and everything they know arrives as integers: these intrinsics read
and write memory at an integer address and call a C function at an integer address.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _loader(bits):
    @intrinsic
    def load(typing_context, address):
        def generate(context, builder, signature, arguments):
            kind = ir.IntType(bits)
            pointer = builder.inttoptr(arguments[0], kind.as_pointer())
            value = builder.load(pointer, align=1)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))
        return types.int64(types.int64), generate
    return load


def _storer(bits):
    @intrinsic
    def store(typing_context, address, value):
        def generate(context, builder, signature, arguments):
            kind = ir.IntType(bits)
            pointer = builder.inttoptr(arguments[0], kind.as_pointer())
            value = arguments[1] if bits == 64 else builder.trunc(arguments[1], kind)
            builder.store(value, pointer, align=1)
            return context.get_dummy_value()
        return types.void(types.int64, types.int64), generate
    return store


load8, load16, load32, load64 = (_loader(bits) for bits in (8, 16, 32, 64))
store8, store16, store32, store64 = (_storer(bits) for bits in (8, 16, 32, 64))


def _call(builder, arguments):
    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word] * (len(arguments) - 1))
    return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])


@intrinsic
def call1(typing_context, function, a):
    """Call `int64 function(int64)`; a void function's result is garbage to ignore."""
    def generate(context, builder, signature, arguments):
        return _call(builder, arguments)
    return types.int64(types.int64, types.int64), generate


@intrinsic
def call2(typing_context, function, a, b):
    def generate(context, builder, signature, arguments):
        return _call(builder, arguments)
    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def call3(typing_context, function, a, b, c):
    def generate(context, builder, signature, arguments):
        return _call(builder, arguments)
    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def call4(typing_context, function, a, b, c, d):
    def generate(context, builder, signature, arguments):
        return _call(builder, arguments)
    return types.int64(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def call6(typing_context, function, a, b, c, d, e, f):
    def generate(context, builder, signature, arguments):
        return _call(builder, arguments)
    return types.int64(*[types.int64] * 7), generate
