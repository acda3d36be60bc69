# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled storage: records are pointers into one buffer, functions are machine code (`native`).

    core(function)          a function of the core; called from Python it is compiled with all that it reaches
    entry_point(function)   the same, compiled together with the other entry points of its module
    callback(result, ...)   a function that C code calls, by its `address`

A record passes between functions as one pointer and reads like the kernel's C (`sp.unsync = 1`).  The `rules`
record is declared by its own room before the first compilation (`define_rules`).
"""

import ctypes
import sys

from . import cache, layout
from .mode import Array
from .native import kinds as k
from .native import unit
from .native.errors import CoreError
from .patch import PATCH, PatchError

_RECORDS = {name: k.record(name, fields) for name, fields in layout.RECORDS.items()}


class Builtin:
    """A function that the compiler knows: emit(translator, node, arguments) gives its value."""

    def __init__(self, emit):
        self.emit = emit

    def __call__(self, *arguments):
        raise TypeError("records exist in core functions only; state.interpreted looks at them from outside")


def _pointer(t, node, arguments, kind):
    vm, offset = arguments
    if not isinstance(vm.kind, k.Record):
        t.fail(node, f"the machine is needed here, not a {vm.kind.name}")
    return k.Value(kind, (t.offset(vm.parts[0], t.integer(node, offset)),))


def _record(t, node, vm, table, name, index=None):
    """Record number `index` of a table of the header."""
    kind, size = _RECORDS[name]
    at = t.header(node, vm, table)
    if index is not None:
        at = t.builder.add(at, t.builder.mul(t.integer(node, index), k.number(size)))
    return k.Value(kind, (t.offset(vm.parts[0], at),))


def _indexed(table, name):
    return Builtin(lambda t, node, a: _record(t, node, a[0], table, name, a[1]))


words = Builtin(lambda t, node, a: _pointer(t, node, a, k.WORDS))
words32 = Builtin(lambda t, node, a: _pointer(t, node, a, k.WORDS32))
octets = Builtin(lambda t, node, a: _pointer(t, node, a, k.OCTETS))
page, vcpu, context, slot, desc = (_indexed(*pair) for pair in (
    ("pages", "PAGE"), ("vcpus", "VCPU"), ("contexts", "CONTEXT"), ("slots", "SLOT"), ("descs", "DESC")))
meta, meta2, meta3, walker, fault = (_indexed(*pair) for pair in (
    ("meta", "META"), ("meta2", "META_LARGE"), ("meta3", "META_LARGE"), ("walkers", "WALKER"), ("faults", "FAULT")))
sync_vector = Builtin(lambda t, node, a: _record(t, node, a[0], "sync", "SYNC"))
tdp_iter = Builtin(lambda t, node, a: _record(t, node, a[0], "iter", "TDP_ITER"))
hw_walk = Builtin(lambda t, node, a: _record(t, node, a[0], "hw_walk", "HW_WALK"))
rules = Builtin(lambda t, node, a: _record(t, node, a[0], "rules", "RULES"))
#: First statement of an entry point: the `vm` behind the address that Python passed.
attach = Builtin(lambda t, node, a: k.Value(_RECORDS["HEADER"][0],
                                             (t.builder.inttoptr(t.integer(node, a[0]), k.POINTER),)))


def define_rules(fields):
    """Declare the rules record (its fields belong to the room `rules`)."""
    _RECORDS["RULES"] = k.record("RULES", fields)


# ---- functions

#: Module name -> its entry points, its callbacks.
_ENTRIES: dict = {}
_CALLBACKS: dict = {}
_SIMPLE = {"int": ctypes.c_int64, "bool": ctypes.c_int64, "void": None}


def _bits(argument):
    """Bits per element of something that can be a table, or None."""
    size = getattr(argument, "itemsize", None)
    if size is None and isinstance(argument, ctypes.Array):
        size = ctypes.sizeof(argument._type_)
    return {8: 64, 4: 32, 1: 8}.get(size)


def _is_number(argument):
    return isinstance(argument, int) or hasattr(argument, "__index__") and not hasattr(argument, "__len__")


def _kind_of(argument):
    """Kind of an argument that Python passes."""
    if _is_number(argument):
        return k.INT
    if isinstance(argument, tuple):
        return k.group([_kind_of(item) for item in argument], type(argument) if hasattr(argument, "_fields") else None)
    bits = _bits(argument)
    if bits is None:
        raise TypeError(f"a core function cannot take a {type(argument).__name__}")
    return k.ARRAYS[bits]


def _letters(kind):
    """A short name of a kind of argument."""
    if isinstance(kind, k.Group):
        return "(" + "".join(map(_letters, kind.items)) + ")"
    return "i" if kind is k.INT else {64: "q", 32: "d", 8: "b"}[kind.bits]


def _flat(argument, out):
    """Append the machine values of an argument."""
    if _is_number(argument):
        out.append(int(argument))
    elif isinstance(argument, tuple):
        for item in argument:
            _flat(item, out)
    else:
        interface = getattr(argument, "__array_interface__", None)
        address = interface["data"][0] if interface else ctypes.addressof(
            argument if isinstance(argument, ctypes.Array) else (ctypes.c_char * 0).from_buffer(argument))
        out += [address, len(argument)]


def _rebuild(signature, words_out, at):
    """(value, next place) of a result that came back in a table."""
    if isinstance(signature, list):
        items = []
        for inner in signature:
            item, at = _rebuild(inner, words_out, at)
            items.append(item)
        return tuple(items), at
    return bool(words_out[at]) if signature == "bool" else words_out[at], at + 1


def _count(signature):
    return sum(map(_count, signature)) if isinstance(signature, list) else 1


def _callable(address, signature, parts):
    """A Python function for machine code; `parts` machine values go in."""
    if not isinstance(signature, list):
        call = ctypes.CFUNCTYPE(_SIMPLE[signature], *[ctypes.c_int64] * parts)(address)
        return (lambda *a: bool(call(*a))) if signature == "bool" else call
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * parts, ctypes.c_void_p)(address)
    table = ctypes.c_int64 * _count(signature)

    def several(*arguments):
        out = table()
        call(*arguments, out)
        return _rebuild(signature, out, 0)[0]

    return several


def _load(name, path, exports):
    """Load a unit (from the cache if it has a path); a mistake in a patch is the user's, with the line."""
    cache.Progress.begin()
    try:
        return unit.load(name, path and cache.key(path, PATCH.text, unit.host()), exports)
    except CoreError as error:
        if PATCH.path and str(error).startswith(PATCH.path):
            raise PatchError(str(error)) from None
        raise


class CoreFunction:
    """A compiled function; `core` is the Python function."""

    def __init__(self, function, is_entry):
        self.core, self.is_entry = function, is_entry
        self.__doc__, self.__name__, self.__module__ = function.__doc__, function.__name__, function.__module__
        self.ready = {}

    def __call__(self, *arguments):
        if self.ready:
            plain = self.ready.get(len(arguments))
            if plain is not None:
                try:
                    return plain(*arguments)
                except ctypes.ArgumentError:
                    pass
        missing = self.core.__code__.co_argcount - len(arguments)
        if 0 < missing <= len(self.core.__defaults__ or ()):
            arguments += self.core.__defaults__[-missing:]
        kinds = tuple(_kind_of(a) for a in arguments)
        made = self.ready.get(kinds)
        if made is None:
            made = self._compile(kinds)
        flat = []
        for argument in arguments:
            _flat(argument, flat)
        return made(*flat)

    def kinds(self):
        """Kinds of an entry point's parameters, from their annotations."""
        code = self.core.__code__
        notes = self.core.__annotations__
        return tuple(k.ARRAYS[64] if notes.get(name) is Array else k.INT for name in code.co_varnames[:code.co_argcount])

    def _compile(self, kinds):
        path = self.core.__code__.co_filename
        if self.is_entry and kinds == self.kinds():
            group = _ENTRIES[self.__module__]
            made = _load(self.__module__, sys.modules[self.__module__].__file__,
                         lambda: [unit.Export(f"{f.__module__}.{f.__name__}", f.core, f.kinds()) for f in group])
            for function in group:
                function._take(function.kinds(), *made[f"{function.__module__}.{function.__name__}"])
        else:
            name = f"{self.__module__}.{self.__name__}-" + "".join(map(_letters, kinds))
            made = _load(name, path, lambda: [unit.Export(name, self.core, kinds)])
            self._take(kinds, *made[name])
        return self.ready[kinds]

    def _take(self, kinds, address, signature):
        made = _callable(address, signature, sum(len(kind.parts) for kind in kinds))
        self.ready[kinds] = made
        if all(kind is k.INT for kind in kinds):
            self.ready[len(kinds)] = made


def core(function):
    """Compile a function of the core with the first that needs it; the result is cached on disk."""
    return CoreFunction(PATCH.apply(function), False)


def entry_point(function):
    """A core function that Python calls.  Unannotated parameters are integers, `Array` ones tables of words."""
    made = CoreFunction(PATCH.apply(function), True)
    _ENTRIES.setdefault(function.__module__, []).append(made)
    return made


class Callback:
    """A core function that C code calls at `address`."""

    made = 0

    def __init__(self, function, result, arguments):
        self.core, self.foreign, self.__doc__ = function, (result, arguments), function.__doc__
        self.found = None
        # a local function may use what its surroundings hold: it is compiled alone and not kept
        self.is_local = "<locals>" in function.__qualname__
        Callback.made += self.is_local
        self.symbol = f"{function.__module__}.{function.__name__}." + (f"local-{Callback.made}" if self.is_local else "callback")

    @property
    def address(self):
        if self.found is None:
            module = self.core.__module__
            group = [self] if self.is_local else _CALLBACKS[module]
            made = _load(f"{module}.callbacks", None if self.is_local else sys.modules[module].__file__,
                         lambda: [unit.Export(c.symbol, c.core, (k.INT,) * len(c.foreign[1]), c.foreign) for c in group])
            for c in group:
                c.found = made[c.symbol][0]
        return self.found


def callback(result, *arguments):
    """Decorator: types by name ("i64", "i32", "u32", "u8", result also "void"); in the function all are integers."""
    def decorate(function):
        made = Callback(function, result, arguments)
        if not made.is_local:
            _CALLBACKS.setdefault(function.__module__, []).append(made)
        return made
    return decorate
