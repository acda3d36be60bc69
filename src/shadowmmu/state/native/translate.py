# SPDX-License-Identifier: GPL-2.0-or-later
"""From the syntax tree of a core function to LLVM's intermediate representation.

    Program     one LLVM module: the functions that its entry points reach, each once per combination of kinds
    Translator  one function, in two passes: the first finds the kind of the result, the second writes the function

The core is a small language: integers of 64 bits, records, tables, tuples; if, while, for over range; calls.  Whatever
else a function uses is a CoreError with its line.  Integers wrap, `//` and `%` round down, `>>` keeps the sign.

Records and tables are pointers, so LLVM sees which field is read and written; the tags of type-based alias analysis
say that a field of one record is never another field (a table may be anything).
"""

import ast
import builtins

from llvmlite import ir

from . import source
from .errors import CoreError
from .kinds import ARRAYS, BOOL, I8, I32, I64, INT, VOID, Field, Group, Record, Static, Table, Value, group, static

#: Functions of at most so many syntax nodes are always inlined.
SMALL = 110

_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
           ast.LShift: "shl", ast.RShift: "ashr"}
_FOLD = {ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__, ast.BitAnd: int.__and__,
         ast.BitOr: int.__or__, ast.BitXor: int.__xor__, ast.LShift: int.__lshift__, ast.RShift: int.__rshift__,
         ast.FloorDiv: int.__floordiv__, ast.Mod: int.__mod__}
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


def number(value):
    """An LLVM constant, wrapped to 64 bits."""
    value &= (1 << 64) - 1
    return ir.Constant(I64, value - (1 << 64) if value >> 63 else value)


def plain(kind):
    """The kind that a variable, argument or result of this kind is kept in."""
    if kind is BOOL:
        return INT
    if isinstance(kind, Static):
        if isinstance(kind.value, int):
            return INT
        if isinstance(kind.value, tuple):
            return group([plain(static(v)) for v in kind.value])
        return kind
    if isinstance(kind, Field):
        return Table("table64", kind.parts, 64)
    if isinstance(kind, Group):
        return group([plain(item) for item in kind.items], kind.shape)
    return kind


def scalar(kind):
    return kind is INT or kind is BOOL or isinstance(kind, Static) and isinstance(kind.value, int)


class Instance:
    """A function of the core for arguments of certain kinds: LLVM function and kind of the result."""

    def __init__(self, kinds):
        self.kinds, self.result, self.llvm = kinds, None, None
        self.seen = []          # kinds of the results that the first pass has met


class Program:
    """An LLVM module in the making.  called: told the name of every function that is translated."""

    def __init__(self, name, called=lambda name: None):
        self.module, self.called = ir.Module(name), called
        self.instances, self.constants, self.tags = {}, {}, {}

    def instance(self, function, kinds):
        """The instance of a Python function for these kinds, translated if it is new."""
        key = function, tuple(kind.name for kind in kinds)
        made = self.instances.get(key)
        if made is None:
            made = self.instances[key] = Instance(kinds)
            made.name = f"{function.__module__}.{function.__name__}.{len(self.instances)}"
            self.called(made.name)
            Translator(self, function, made).run()
        return made

    def table(self, values):
        """A constant table of integers in the module."""
        if values not in self.constants:
            kind = ir.ArrayType(I64, len(values))
            made = ir.GlobalVariable(self.module, kind, f"table.{len(self.constants)}")
            made.initializer = ir.Constant(kind, [number(v) for v in values])
            made.global_constant, made.linkage = True, "internal"
            self.constants[values] = made
        return self.constants[values]

    def tag(self, name):
        """Alias tag of a field "RECORD.field", or of memory in general (None)."""
        if name not in self.tags:
            add = self.module.add_metadata
            if None not in self.tags:
                self.memory = add(["memory", add(["shadowmmu"]), ir.Constant(I64, 0)])
                self.tags[None] = add([self.memory, self.memory, ir.Constant(I64, 0)])
            if name is not None:
                field = add([name, self.memory, ir.Constant(I64, 0)])
                self.tags[name] = add([field, field, ir.Constant(I64, 0)])
        return self.tags[name]


class Translator:
    """Translates one instance."""

    def __init__(self, program, function, instance):
        self.program, self.function, self.instance = program, function, instance
        self.node, self.path = source.node_of(function)
        self.locals = source.assigned(self.node)
        self.names = [a.arg for a in self.node.args.args]

    def fail(self, node, text):
        raise CoreError(f"{self.path}:{node.lineno}: {text}")

    def run(self):
        if len(self.names) != len(self.instance.kinds):
            self.fail(self.node, f"{self.node.name} takes {len(self.names)} arguments, not {len(self.instance.kinds)}")
        arguments = [part for kind in self.instance.kinds for part in kind.parts]
        self.result = None
        self._body(ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), arguments), "first"))
        result = VOID
        for kind in self.instance.seen:
            result = kind if result is VOID else self._merge(self.node, result, kind)
        self.instance.result = self.result = result
        parts = result.parts
        returns = ir.VoidType() if not parts else parts[0] if len(parts) == 1 else ir.LiteralStructType(parts)
        made = ir.Function(self.program.module, ir.FunctionType(returns, arguments), self.instance.name)
        made.linkage = "internal"
        made.attributes.add("nounwind")
        if sum(1 for _ in ast.walk(self.node)) <= SMALL:
            made.attributes.add("alwaysinline")
        self.instance.llvm = made
        self._body(made)

    def _merge(self, node, a, b):
        if a == b:
            return a
        if scalar(a) and scalar(b):
            return INT
        if isinstance(a, Group) and isinstance(b, Group) and len(a.items) == len(b.items):
            return group([self._merge(node, x, y) for x, y in zip(a.items, b.items)], a.shape)
        if isinstance(a, Table) and isinstance(b, Table) and a.bits == b.bits:
            return plain(a) if len(a.parts) == 1 else plain(b)
        self.fail(node, f"{self.node.name} returns a {a.name} and a {b.name}")

    def _body(self, function):
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.variables, self.loops = {}, []
        at = 0
        for name, kind in zip(self.names, self.instance.kinds):
            n = len(kind.parts)
            self._store(self.node, name, Value(kind, tuple(function.args[at:at + n])))
            at += n
        self._block(self.node.body)
        if not self.builder.block.is_terminated:
            self._return(self.node, Value(VOID))

    # ---- statements

    def _block(self, statements):
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            handler = getattr(self, "_do_" + type(statement).__name__, None)
            if handler is None:
                self.fail(statement, f"the core has no {type(statement).__name__.lower()} statement")
            handler(statement)

    def _do_Pass(self, node):
        pass

    def _do_Expr(self, node):
        if not isinstance(node.value, ast.Constant):
            self.value(node.value)

    def _do_Assign(self, node):
        value = self.value(node.value)
        for target in node.targets:
            self._assign(target, value)

    def _do_AugAssign(self, node):
        load = ast.copy_location(ast.BinOp(_loaded(node.target), node.op, node.value), node)
        self._assign(node.target, self.value(load))

    def _assign(self, target, value):
        if isinstance(target, ast.Name):
            self._store(target, target.id, value)
        elif isinstance(target, ast.Tuple):
            items = self._items(target, value)
            if len(items) != len(target.elts):
                self.fail(target, f"{len(items)} values for {len(target.elts)} names")
            for inner, item in zip(target.elts, items):
                self._assign(inner, item)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value)
            pointer, name = self._field(target, owner)
            self.builder.store(self.integer(target, value), pointer, align=8).set_metadata("tbaa", self.program.tag(name))
        elif isinstance(target, ast.Subscript):
            table = self.value(target.value)
            if not isinstance(table.kind, Table):
                self.fail(target, f"an element of a {table.kind.name} cannot be set")
            self._set_element(target, table, self.integer(target, self.value(target.slice)), self.integer(target, value))
        else:
            self.fail(target, "this cannot be assigned to")

    def _store(self, node, name, value):
        kind = plain(value.kind)
        if name not in self.variables:
            with self.builder.goto_entry_block():
                self.variables[name] = kind, [self.builder.alloca(part, name=name) for part in kind.parts]
        known, places = self.variables[name]
        for part, place in zip(self.coerce(node, value, known).parts, places):
            self.builder.store(part, place)

    def _do_Return(self, node):
        self._return(node, self.value(node.value) if node.value else Value(VOID))

    def _return(self, node, value):
        if self.result is None:
            if value.kind is not VOID:
                kind = value.kind if value.kind is BOOL else plain(value.kind)
                self.instance.seen.append(BOOL if isinstance(value.kind, Static) and value.kind.value in (True, False)
                                          and isinstance(value.kind.value, bool) else kind)
            self.builder.unreachable()
        elif self.result is VOID:
            self.builder.ret_void()
        else:
            if value.kind is VOID:
                parts = [ir.Constant(part, ir.Undefined) for part in self.result.parts]
            else:
                parts = self.coerce(node, value, self.result).parts
            if len(parts) == 1:
                self.builder.ret(parts[0])
            else:
                made = ir.Constant(ir.LiteralStructType(self.result.parts), ir.Undefined)
                for i, part in enumerate(parts):
                    made = self.builder.insert_value(made, part, i)
                self.builder.ret(made)

    def _do_If(self, node):
        yes, no, end = self._new("then"), self._new("else"), None
        self.branch(node.test, yes, no)
        for block, statements in ((yes, node.body), (no, node.orelse)):
            self.builder.position_at_end(block)
            self._block(statements)
            if not self.builder.block.is_terminated:
                end = end or self._new("endif")
                self.builder.branch(end)
        if end:
            self.builder.position_at_end(end)

    def _do_While(self, node):
        test, body, end = self._new("while"), self._new("do"), self._new("done")
        self.builder.branch(test)
        self.builder.position_at_end(test)
        self.branch(node.test, body, end)
        self._loop(node, body, test, end)
        self.builder.position_at_end(end)
        if isinstance(node.test, ast.Constant) and not any(p for p in self._jumps(node)):
            self.builder.unreachable()

    def _jumps(self, node):
        """Break statements that end this loop."""
        for statement in node.body:
            yield from _breaks(statement)

    def _loop(self, node, body, again, end):
        if node.orelse:
            self.fail(node, "the core has no else of a loop")
        self.builder.position_at_end(body)
        self.loops.append((again, end))
        self._block(node.body)
        self.loops.pop()
        if not self.builder.block.is_terminated:
            self.builder.branch(again)

    def _do_For(self, node):
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            self.fail(node, "a loop goes over range(...)")
        values = [self.value(a) for a in call.args]
        first, last, step = (static_int(0), values[0], static_int(1)) if len(values) == 1 else (*values, static_int(1))[:3]
        if not isinstance(step.kind, Static):
            self.fail(node, "the step of a range is a constant")
        down = step.kind.value < 0
        stop = self.integer(node, last)
        with self.builder.goto_entry_block():
            counter = self.builder.alloca(I64)
        self.builder.store(self.integer(node, first), counter)
        test, body, more, end = self._new("for"), self._new("do"), self._new("next"), self._new("done")
        self.builder.branch(test)
        self.builder.position_at_end(test)
        now = self.builder.load(counter, typ=I64)
        self.builder.cbranch(self.builder.icmp_signed(">" if down else "<", now, stop), body, end)
        self.builder.position_at_end(body)
        self._assign(node.target, Value(INT, (now,)))
        self._loop(node, self.builder.block, more, end)
        self.builder.position_at_end(more)
        self.builder.store(self.builder.add(self.builder.load(counter, typ=I64), number(step.kind.value)), counter)
        self.builder.branch(test)
        self.builder.position_at_end(end)

    def _do_Break(self, node):
        self.builder.branch(self.loops[-1][1])

    def _do_Continue(self, node):
        self.builder.branch(self.loops[-1][0])

    def _new(self, name):
        return self.builder.function.append_basic_block(name)

    # ---- conversions

    def integer(self, node, value):
        """The i64 of a number or a truth value."""
        kind = value.kind
        if kind is INT:
            return value.parts[0]
        if kind is BOOL:
            return self.builder.zext(value.parts[0], I64)
        if isinstance(kind, Static) and isinstance(kind.value, int):
            return number(int(kind.value))
        self.fail(node, f"a number is needed here, not a {kind.name}")

    def truth(self, node, value):
        """The i1 of a number or a truth value."""
        if value.kind is BOOL:
            return value.parts[0]
        return self.builder.icmp_signed("!=", self.integer(node, value), number(0))

    def coerce(self, node, value, kind):
        """The value in another kind of the same meaning."""
        if value.kind == kind:
            return value
        if kind is INT:
            return Value(INT, (self.integer(node, value),))
        if kind is BOOL:
            return Value(BOOL, (self.truth(node, value),))
        if isinstance(kind, Group):
            items = self._items(node, value)
            if len(items) == len(kind.items):
                made = [self.coerce(node, item, inner) for item, inner in zip(items, kind.items)]
                return Value(kind, tuple(p for item in made for p in item.parts))
        if isinstance(kind, Table) and isinstance(value.kind, Table) and kind.bits == value.kind.bits:
            if len(kind.parts) <= len(value.parts):
                return Value(kind, value.parts[:len(kind.parts)])
        self.fail(node, f"a {value.kind.name} where a {kind.name} was before")

    def _items(self, node, value):
        """The items of a tuple as values."""
        kind = value.kind
        if isinstance(kind, Static) and isinstance(kind.value, tuple):
            return [Value(static(item)) for item in kind.value]
        if not isinstance(kind, Group):
            self.fail(node, f"a {kind.name} has no items")
        out, at = [], 0
        for item in kind.items:
            out.append(Value(item, value.parts[at:at + len(item.parts)]))
            at += len(item.parts)
        return out

    # ---- conditions

    def branch(self, node, yes, no):
        """Jump by a condition."""
        if isinstance(node, ast.BoolOp):
            both = isinstance(node.op, ast.And)
            for inner in node.values[:-1]:
                more = self._new("and" if both else "or")
                self.branch(inner, more if both else yes, no if both else more)
                self.builder.position_at_end(more)
            self.branch(node.values[-1], yes, no)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.branch(node.operand, no, yes)
        else:
            value = self.value(node)
            if isinstance(value.kind, Static):
                self.builder.branch(yes if value.kind.value else no)
            else:
                self.builder.cbranch(self.truth(node, value), yes, no)

    def _join(self, node, ends, end):
        """Values from several blocks become one: ends is a list of (block, value, its i64 or None)."""
        self.builder.position_at_end(end)
        kinds = [value.kind for _, value, _ in ends]
        if all(kind is BOOL for kind in kinds):
            parts = [(I1_OF, [(value.parts[0], block) for block, value, _ in ends])]
            kind = BOOL
        elif all(scalar(kind) for kind in kinds):
            parts, kind = [(I64, [(word, block) for block, _, word in ends])], INT
        elif all(kind == kinds[0] for kind in kinds):
            kind = kinds[0]
            parts = [(part, [(value.parts[i], block) for block, value, _ in ends]) for i, part in enumerate(kind.parts)]
        else:
            self.fail(node, "both sides of this must be of one kind: " + ", ".join(k.name for k in kinds))
        made = []
        for part, incoming in parts:
            phi = self.builder.phi(part)
            for machine_value, block in incoming:
                phi.add_incoming(machine_value, block)
            made.append(phi)
        return Value(kind, tuple(made))

    def _arrive(self, node, value, ends, end):
        """Leave the current block for `end` with this value."""
        if not scalar(value.kind):
            value = self.coerce(node, value, plain(value.kind))
        word = self.integer(node, value) if scalar(value.kind) else None
        ends.append((self.builder.block, value, word))
        return value

    # ---- expressions

    def value(self, node):
        """The value of an expression."""
        handler = getattr(self, "_get_" + type(node).__name__, None)
        if handler is None:
            self.fail(node, f"the core has no {type(node).__name__.lower()} expression")
        return handler(node)

    def _get_Constant(self, node):
        if not isinstance(node.value, int):
            self.fail(node, f"the core has no {type(node.value).__name__} constants")
        return Value(static(node.value))

    def _get_Name(self, node):
        if node.id in self.locals:
            if node.id not in self.variables:
                self.fail(node, f"{node.id} has no value yet")
            kind, places = self.variables[node.id]
            return Value(kind, tuple(self.builder.load(p, typ=part) for p, part in zip(places, kind.parts)))
        if node.id in self.function.__code__.co_freevars:
            cell = self.function.__closure__[self.function.__code__.co_freevars.index(node.id)]
            return Value(static(cell.cell_contents))
        if node.id in self.function.__globals__:
            return Value(static(self.function.__globals__[node.id]))
        if hasattr(builtins, node.id):
            return Value(static(getattr(builtins, node.id)))
        self.fail(node, f"there is no {node.id}")

    def _get_Attribute(self, node):
        owner = self.value(node.value)
        kind = owner.kind
        if isinstance(kind, Static):
            try:
                return Value(static(getattr(kind.value, node.attr)))
            except AttributeError as error:
                self.fail(node, str(error))
        if isinstance(kind, Group) and kind.shape is not None and node.attr in kind.shape._fields:
            return self._items(node, owner)[kind.shape._fields.index(node.attr)]
        pointer, name = self._field(node, owner)
        length = kind.fields[node.attr][1]
        if length > 1:
            return Value(Field(f"field{length}:{name}", (pointer.type,), 64, length), (pointer,))
        return Value(INT, (self._load(pointer, name),))

    def _load(self, pointer, name):
        made = self.builder.load(pointer, align=8, typ=I64)
        made.set_metadata("tbaa", self.program.tag(name))
        return made

    def _field(self, node, owner):
        """(pointer, tag) of a record's field."""
        if not isinstance(owner.kind, Record):
            self.fail(node, f"a {owner.kind.name} has no {node.attr}")
        fields = owner.kind.fields
        if node.attr not in fields:
            self.fail(node, f"{owner.kind.name} has no field {node.attr}")
        return self.offset(owner.parts[0], number(fields[node.attr][0])), f"{owner.kind.name}.{node.attr}"

    def header(self, node, vm, name):
        """A number of the machine's header."""
        if not isinstance(vm.kind, Record):
            self.fail(node, f"the machine is needed here, not a {vm.kind.name}")
        at = self.offset(vm.parts[0], number(vm.kind.fields[name][0]))
        return self._load(at, f"{vm.kind.name}.{name}")

    def offset(self, pointer, amount):
        """A pointer so many bytes further."""
        return self.builder.gep(pointer, [amount], source_etype=I8)

    def _get_Subscript(self, node):
        owner, index = self.value(node.value), self.value(node.slice)
        kind = owner.kind
        if isinstance(kind, Table):
            return Value(INT, (self._element(node, owner, self.integer(node, index)),))
        if isinstance(index.kind, Static):
            return self._items(node, owner)[index.kind.value]
        if isinstance(kind, Static) and isinstance(kind.value, tuple):
            return self._constant_element(node, kind.value, self.integer(node, index))
        if isinstance(kind, Group) and all(scalar(item) for item in kind.items):
            words = [self.integer(node, item) for item in self._items(node, owner)]
            at, chosen = self.integer(node, index), words[-1]
            for i, word in enumerate(words[:-1]):
                chosen = self.builder.select(self.builder.icmp_signed("==", at, number(i)), word, chosen)
            return Value(INT, (chosen,))
        self.fail(node, f"a {kind.name} cannot be indexed with a variable")

    def _constant_element(self, node, values, index):
        """Element of a constant tuple of integers, or of tuples of integers of one length."""
        width = len(values[0]) if isinstance(values[0], tuple) else 0
        flat = tuple(int(x) for row in values for x in row) if width else tuple(int(x) for x in values)
        if width and any(len(row) != width for row in values):
            self.fail(node, "the rows of this table differ in length")
        table, out = self.program.table(flat), []
        for i in range(max(width, 1)):
            at = self.builder.add(self.builder.mul(index, number(max(width, 1))), number(i))
            out.append(self.builder.load(self.builder.gep(table, [at], source_etype=I64), align=8, typ=I64))
        return Value(group([INT] * width), tuple(out)) if width else Value(INT, tuple(out))

    def _place(self, table, index):
        kind = table.kind
        width = ir.IntType(kind.bits)
        tag = kind.name.partition(":")[2] if isinstance(kind, Field) else None
        return self.builder.gep(table.parts[0], [index], source_etype=width), width, tag

    def _element(self, node, table, index):
        pointer, width, tag = self._place(table, index)
        made = self.builder.load(pointer, align=width.width // 8, typ=width)
        made.set_metadata("tbaa", self.program.tag(tag))
        return made if width.width == 64 else self.builder.zext(made, I64)

    def _set_element(self, node, table, index, value):
        pointer, width, tag = self._place(table, index)
        if width.width < 64:
            value = self.builder.trunc(value, width)
        self.builder.store(value, pointer, align=width.width // 8).set_metadata("tbaa", self.program.tag(tag))

    def _get_Tuple(self, node):
        items = [self.value(item) for item in node.elts]
        if all(isinstance(item.kind, Static) for item in items):
            return Value(static(tuple(item.kind.value for item in items)))
        items = [self.coerce(node, item, INT) if scalar(item.kind) and item.kind is not BOOL else item for item in items]
        return Value(group([item.kind for item in items]), tuple(p for item in items for p in item.parts))

    def _get_BinOp(self, node):
        left, right = self.value(node.left), self.value(node.right)
        operator = type(node.op)
        if isinstance(left.kind, Static) and isinstance(right.kind, Static) and operator in _FOLD:
            a, b = left.kind.value, right.kind.value
            if isinstance(a, int) and isinstance(b, int) and (b or operator not in (ast.FloorDiv, ast.Mod)):
                return Value(static(_FOLD[operator](int(a), int(b))))
        a, b = self.integer(node, left), self.integer(node, right)
        if operator in _BINARY:
            return Value(INT, (getattr(self.builder, _BINARY[operator])(a, b),))
        if operator not in (ast.FloorDiv, ast.Mod):
            self.fail(node, f"the core has no operator {operator.__name__}")
        rest = self.builder.srem(a, b)
        wrong = self.builder.and_(self.builder.icmp_signed("!=", rest, number(0)),
                                  self.builder.icmp_signed("<", self.builder.xor(rest, b), number(0)))
        if operator is ast.Mod:
            return Value(INT, (self.builder.select(wrong, self.builder.add(rest, b), rest),))
        return Value(INT, (self.builder.sub(self.builder.sdiv(a, b), self.builder.zext(wrong, I64)),))

    def _get_UnaryOp(self, node):
        if isinstance(node.op, ast.Not):
            value = self.value(node.operand)
            if isinstance(value.kind, Static):
                return Value(static(not value.kind.value))
            return Value(BOOL, (self.builder.not_(self.truth(node, value)),))
        value = self.value(node.operand)
        if isinstance(value.kind, Static) and isinstance(value.kind.value, int):
            n = int(value.kind.value)
            return Value(static({ast.USub: -n, ast.Invert: ~n, ast.UAdd: n}[type(node.op)]))
        n = self.integer(node, value)
        if isinstance(node.op, ast.UAdd):
            return Value(INT, (n,))
        return Value(INT, (self.builder.sub(number(0), n) if isinstance(node.op, ast.USub) else self.builder.not_(n),))

    def _get_Compare(self, node):
        left, ends, end = self.value(node.left), [], None
        for i, (operator, right_node) in enumerate(zip(node.ops, node.comparators)):
            result, left = self._compare(node, operator, left, right_node)
            if len(node.ops) == 1:
                return result
            end = end or self._new("compared")
            self._arrive(node, result, ends, end)
            if i == len(node.ops) - 1:
                self.builder.branch(end)
            else:
                more = self._new("compare")
                self.builder.cbranch(self.truth(node, result), more, end)
                self.builder.position_at_end(more)
        return self._join(node, ends, end)

    def _compare(self, node, operator, left, right_node):
        """(result, right operand)"""
        right = self.value(right_node)
        if isinstance(operator, (ast.In, ast.NotIn)):
            a, found = self.integer(node, left), ir.Constant(ir.IntType(1), 0)
            for item in self._items(node, right):
                found = self.builder.or_(found, self.builder.icmp_signed("==", a, self.integer(node, item)))
            return Value(BOOL, (found if isinstance(operator, ast.In) else self.builder.not_(found),)), right
        if type(operator) not in _COMPARE:
            self.fail(node, f"the core has no operator {type(operator).__name__}")
        if isinstance(left.kind, Static) and isinstance(right.kind, Static):
            test = {"==": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}
            known = getattr(left.kind.value, test[_COMPARE[type(operator)]])(right.kind.value)
            return Value(BOOL, (ir.Constant(ir.IntType(1), int(known)),)), right
        a, b = self.integer(node, left), self.integer(node, right)
        return Value(BOOL, (self.builder.icmp_signed(_COMPARE[type(operator)], a, b),)), Value(INT, (b,))

    def _get_BoolOp(self, node):
        ends, end, both = [], self._new("decided"), isinstance(node.op, ast.And)
        for i, inner in enumerate(node.values):
            value = self._arrive(node, self.value(inner), ends, end)
            if i == len(node.values) - 1:
                self.builder.branch(end)
            else:
                more = self._new("and" if both else "or")
                self.builder.cbranch(self.truth(node, value), more if both else end, end if both else more)
                self.builder.position_at_end(more)
        return self._join(node, ends, end)

    def _get_IfExp(self, node):
        yes, no, end, ends = self._new("then"), self._new("else"), self._new("chosen"), []
        self.branch(node.test, yes, no)
        for block, inner in ((yes, node.body), (no, node.orelse)):
            self.builder.position_at_end(block)
            self._arrive(node, self.value(inner), ends, end)
            self.builder.branch(end)
        return self._join(node, ends, end)

    # ---- calls

    def _get_Call(self, node):
        target = self.value(node.func)
        if not isinstance(target.kind, Static) or not callable(target.kind.value):
            self.fail(node, "this is not a function of the core")
        if node.keywords:
            self.fail(node, "calls of the core have no keyword arguments")
        callee = target.kind.value
        arguments = [self.value(a) for a in node.args]
        if hasattr(callee, "emit"):
            return callee.emit(self, node, arguments)
        if hasattr(callee, "core"):
            return self.call(node, callee.core, arguments)
        if isinstance(callee, type) and issubclass(callee, tuple) and hasattr(callee, "_fields"):
            arguments = [self.coerce(node, a, plain(a.kind)) for a in arguments]
            return Value(group([a.kind for a in arguments], callee), tuple(p for a in arguments for p in a.parts))
        if callee in _BUILTINS:
            return _BUILTINS[callee](self, node, arguments)
        self.fail(node, f"{ast.unparse(node.func)} is not a function of the core (is @core missing?)")

    def call(self, node, function, arguments):
        """Call the instance of a core function for these arguments."""
        missing = function.__code__.co_argcount - len(arguments)
        if missing > 0 and function.__defaults__ and missing <= len(function.__defaults__):
            arguments = arguments + [Value(static(d)) for d in function.__defaults__[-missing:]]
        if len(arguments) != function.__code__.co_argcount:
            self.fail(node, f"{function.__name__} takes {function.__code__.co_argcount} arguments, not {len(arguments)}")
        arguments = [self.coerce(node, a, plain(a.kind)) for a in arguments]
        callee = self.program.instance(function, tuple(a.kind for a in arguments))
        if callee.llvm is None:         # recursion, in the first pass
            kind = VOID
            for seen in callee.seen:
                kind = seen if kind is VOID else self._merge(node, kind, seen)
            return Value(kind, tuple(ir.Constant(part, ir.Undefined) for part in kind.parts))
        made = self.builder.call(callee.llvm, [p for a in arguments for p in a.parts])
        parts = callee.result.parts
        if len(parts) < 2:
            return Value(callee.result, (made,) if parts else ())
        return Value(callee.result, tuple(self.builder.extract_value(made, i) for i in range(len(parts))))


I1_OF = BOOL.parts[0]


def static_int(value):
    return Value(static(value))


def _loaded(target):
    """The same place as an expression that is read."""
    return ast.copy_location(type(target)(**{**{f: getattr(target, f) for f in target._fields}, "ctx": ast.Load()}), target)


def _breaks(statement):
    if isinstance(statement, ast.Break):
        yield statement
    elif isinstance(statement, ast.If):
        for inner in statement.body + statement.orelse:
            yield from _breaks(inner)


def _smaller(translator, node, arguments, sign):
    words = [translator.integer(node, a) for a in arguments]
    best = words[0]
    for word in words[1:]:
        best = translator.builder.select(translator.builder.icmp_signed(sign, word, best), word, best)
    return Value(INT, (best,))


def _length(translator, node, arguments):
    kind = arguments[0].kind
    if isinstance(kind, Field):
        return static_int(kind.length)
    if isinstance(kind, Table) and len(kind.parts) == 2:
        return Value(INT, (arguments[0].parts[1],))
    if isinstance(kind, (Group, Static)):
        return static_int(len(translator._items(node, arguments[0])))
    translator.fail(node, f"a {kind.name} has no length")


_BUILTINS = {
    min: lambda t, node, a: _smaller(t, node, a, "<"), max: lambda t, node, a: _smaller(t, node, a, ">"), len: _length,
    abs: lambda t, node, a: _smaller(t, node, [a[0], Value(INT, (t.builder.sub(number(0), t.integer(node, a[0])),))], ">"),
    int: lambda t, node, a: Value(INT, (t.integer(node, a[0]),)),
    bool: lambda t, node, a: Value(BOOL, (t.truth(node, a[0]),)),
}

__all__ = ["ARRAYS", "I32", "Program", "number", "plain"]
