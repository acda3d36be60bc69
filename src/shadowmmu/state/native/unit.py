# SPDX-License-Identifier: GPL-2.0-or-later
"""From LLVM's representation to machine code in this process, by way of the cache folder.

    exports (name, function, kinds of the arguments, foreign types)
        --Program--> module --wrappers with the C calling convention--> optimise --> object file --> process
                                                                             ^
                                                  cache folder: <unit>-<key>.o and .json (signatures)

A unit is what is compiled at once: the entry points of one module with everything they reach.  Its key is a hash of
the sources that it may reach, so an edit in the checker leaves the machine code of the MMU's own entry points alone.
"""

import json
import os
import tempfile
import threading

from llvmlite import binding, ir

from .. import cache
from .kinds import BOOL, I8, I64, INT, POINTER, VOID, Group
from .translate import Program

#: Inlining threshold of LLVM's module inliner (its -O2 uses 225).
INLINE = 120
LOCK = threading.RLock()
#: C types of a callback: name -> (LLVM type, signed).
FOREIGN = {"i64": (I64, True), "i32": (ir.IntType(32), True), "u32": (ir.IntType(32), False), "u8": (I8, False)}

_engine = None
_machine = None


def _start():
    """The process's execution engine and target machine."""
    global _engine, _machine
    if _engine is None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        target = binding.Target.from_default_triple()
        _machine = target.create_target_machine(cpu=binding.get_host_cpu_name(),
                                                features=binding.get_host_cpu_features().flatten(), opt=2,
                                                reloc="static", codemodel="jitdefault", jit=True)
        _engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine)
    return _engine, _machine


def host():
    """What besides the sources decides the machine code: LLVM's version, CPU and its features."""
    import llvmlite
    return f"{llvmlite.__version__} {binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"


class Export:
    """A function with the C calling convention.

    kinds: of the core function's arguments.  A result of several values goes to the table that the last argument
    points to.  callback: (result, arguments) as names of FOREIGN and "void"; else every integer is an i64.
    """

    def __init__(self, name, function, kinds, callback=None):
        self.name, self.function, self.kinds, self.callback = name, function, kinds, callback


def _wrap(program, export):
    """Define the C function of an export; its signature for the loader: (kind of the result, words of it)."""
    instance = program.instance(export.function, tuple(export.kinds))
    result = instance.result
    returned = ir.VoidType()
    if export.callback:
        returned = ir.VoidType() if export.callback[0] == "void" else FOREIGN[export.callback[0]][0]
        arguments = [FOREIGN[name][0] for name in export.callback[1]]
    else:
        arguments = [part for kind in export.kinds for part in kind.parts]
        if result is INT or result is BOOL:
            returned = I64
        elif result is not VOID:
            arguments = arguments + [POINTER]
    made = ir.Function(program.module, ir.FunctionType(returned, arguments), export.name)
    made.attributes.add("nounwind")
    builder = ir.IRBuilder(made.append_basic_block("entry"))
    given = list(made.args)
    if export.callback:
        given = [value if value.type == I64 else (builder.sext if FOREIGN[name][1] else builder.zext)(value, I64)
                 for value, name in zip(given, export.callback[1])]
    elif result is not VOID and result is not INT and result is not BOOL:
        given.pop()
    value = builder.call(instance.llvm, given)
    if isinstance(returned, ir.VoidType) and (export.callback or result is VOID):
        builder.ret_void()
    elif isinstance(returned, ir.VoidType):
        parts = [builder.extract_value(value, i) for i in range(len(result.parts))] if len(result.parts) > 1 else [value]
        for i, part in enumerate(parts):
            part = builder.zext(part, I64) if part.type != I64 else part
            builder.store(part, builder.gep(made.args[-1], [ir.Constant(ir.IntType(64), i)], source_etype=I64))
        builder.ret_void()
    else:
        if value.type.width < returned.width:
            value = builder.zext(value, returned)
        elif value.type.width > returned.width:
            value = builder.trunc(value, returned)
        builder.ret(value)
    return _signature(result)


def _signature(result):
    """A result as plain data: "void", "int", "bool", or a list of them."""
    return [_signature(item) for item in result.items] if isinstance(result, Group) else result.name


def _optimise(module):
    _, machine = _start()
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    tuning.inlining_threshold = INLINE
    tuning.loop_vectorization = True
    tuning.slp_vectorization = False
    tuning.loop_unrolling = True
    builder = binding.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)


def compile_unit(name, exports):
    """(object file, signatures) of a unit."""
    _, machine = _start()
    program = Program(name, cache.Progress.compiling)
    program.module.triple = machine.triple
    program.module.data_layout = str(machine.target_data)
    signatures = {export.name: _wrap(program, export) for export in exports}
    cache.Progress.optimising()
    module = binding.parse_assembly(str(program.module))
    module.verify()
    _optimise(module)
    code = machine.emit_object(module)
    cache.Progress.done()
    return code, signatures


def _keep(path, data):
    """Write a file that another process may be writing, too."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _cached(name, key, make_exports):
    """(object file, signatures) from the cache folder, or compiled into it."""
    folder = cache.folder()
    code_path, facts_path = folder / f"{name}-{key}.o", folder / f"{name}-{key}.json"
    try:
        return code_path.read_bytes(), json.loads(facts_path.read_text())
    except (OSError, ValueError):
        pass
    code, signatures = compile_unit(name, make_exports())
    _keep(code_path, code)
    _keep(facts_path, json.dumps(signatures).encode())
    return code, signatures


def load(name, key, make_exports):
    """The unit's functions: export name -> (address, signature).  Without a key nothing is read from the cache folder."""
    with LOCK:
        code, signatures = _cached(name, key, make_exports) if key else compile_unit(name, make_exports())
        engine, _ = _start()
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return {export: (engine.get_function_address(export), signature) for export, signature in signatures.items()}
