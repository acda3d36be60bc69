# SPDX-License-Identifier: GPL-2.0-or-later
"""Expressions of the core."""

import ast
import builtins

from llvmlite import ir

from .kinds import BOOL, I64, INT, VOID, Field, Group, Static, Table, Value, group, number, plain, scalar, static, static_int
from .values import Values

_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
           ast.LShift: "shl", ast.RShift: "ashr"}
_FOLD = {ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__, ast.BitAnd: int.__and__,
         ast.BitOr: int.__or__, ast.BitXor: int.__xor__, ast.LShift: int.__lshift__, ast.RShift: int.__rshift__,
         ast.FloorDiv: int.__floordiv__, ast.Mod: int.__mod__}
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


class Expressions(Values):
    """One method per kind of node: _get_NODE gives its Value."""

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
