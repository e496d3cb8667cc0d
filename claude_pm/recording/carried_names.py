"""The variables that a cell needs, written to a file from which another process takes them over.

Functions and classes of a notebook go over by value, with whatever they use in turn, and live in
the other process's ``__main__`` as they do here. What cannot go over is left out, and named.
"""

from __future__ import annotations

import ast
import dis
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, ClassVar

_LOADS = frozenset(
    {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME", "DELETE_GLOBAL"}
)
_BINDS = (
    ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Expr,
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef,
)  # fmt: skip


def names_needed(text: str) -> list[str]:
    """Return the names that a cell uses before it has surely bound them, in order.

    Names of built-ins are among them, a module's own (``__name__``) are not.

    Raises:
        SyntaxError: the text is not Python.
    """
    needed: dict[str, None] = {}
    _visit(ast.parse(text).body, set(), needed)
    return [name for name in needed if not (name.startswith("__") and name.endswith("__"))]


def write_names(
    names: list[str],
    namespace: Mapping[str, Any],
    path: str,
    file_of_code: Callable[[str], str] = str,
) -> dict[str, str]:
    """Write the values of those names that exist; return why names were left out, by name.

    Args:
        names: as :func:`names_needed` returns them.
        namespace: the notebook's variables.
        path: the file to write: one dict, for :func:`cloudpickle.load`.
        file_of_code: gives the source file that code has over there, for the one it has here.
    """
    values = {name: namespace[name] for name in names if name in namespace}
    with Path(path).open("wb") as file:
        if _dump(values, file, namespace, file_of_code) is None:
            return {}
        # One of them is to blame; which is only known by trying each.
        left_out: dict[str, str] = {}
        for name, value in values.items():
            error = _dump({name: value}, _Nowhere(), namespace, file_of_code)
            if error is not None:
                left_out[name] = _reason(value, error, namespace, file_of_code)
        file.seek(0)
        file.truncate()
        values = {name: value for name, value in values.items() if name not in left_out}
        error = _dump(values, file, namespace, file_of_code)
        if error is not None:  # each could alone, but not all together, as where the disk is full
            left_out |= dict.fromkeys(values, str(error))
            file.seek(0)
            file.truncate()
            pickle.dump({}, file)
    return left_out


def _reason(
    value: Any, error: Exception, namespace: Mapping[str, Any], file_of_code: Callable[[str], str]
) -> str:
    """Return why a value cannot go over; of a function, which of its variables is to blame."""
    if isinstance(value, FunctionType):
        for name in _loaded(value.__code__):
            used = value.__globals__.get(name)
            if used is value:
                continue
            cause = _dump({name: used}, _Nowhere(), namespace, file_of_code)
            if cause is not None:
                return f"it uses {name}: {cause}"
    return str(error) or type(error).__name__


def _visit(body: list[ast.stmt], bound: set[str], needed: dict[str, None]) -> None:
    """Go through statements in their order; what surely runs adds the names it binds."""
    for statement in body:
        match statement:
            case ast.For() | ast.AsyncFor():
                _use(ast.Expr(statement.iter), bound, needed)
                _visit(statement.body, bound | _targets(statement.target), needed)
                _visit(statement.orelse, set(bound), needed)
            case ast.With() | ast.AsyncWith():
                for item in statement.items:
                    _use(ast.Expr(item.context_expr), bound, needed)
                    if item.optional_vars is not None:
                        bound |= _targets(item.optional_vars)
                _visit(statement.body, bound, needed)
            case ast.If() | ast.While() | ast.Try() | ast.TryStar():
                _visit_branches(statement, bound, needed)
            case _:
                # Within its own body a function is bound already.
                own = {str(getattr(statement, "name", ""))}
                stored = _use(statement, bound | own, needed)
                if isinstance(statement, _BINDS):
                    bound |= stored


def _visit_branches(
    statement: ast.If | ast.While | ast.Try | ast.TryStar, bound: set[str], needed: dict[str, None]
) -> None:
    """Go through what may run and may not: it binds nothing for what comes behind."""
    inside = set(bound)
    if isinstance(statement, ast.If | ast.While):
        _use(ast.Expr(statement.test), bound, needed)
        _visit(statement.body, inside, needed)
        _visit(statement.orelse, set(bound), needed)
        return
    _visit([*statement.body, *statement.orelse], inside, needed)
    for handler in statement.handlers:
        if handler.type is not None:
            _use(ast.Expr(handler.type), bound, needed)
        _visit(handler.body, bound | {handler.name or ""}, needed)
    _visit(statement.finalbody, set(bound), needed)


def _use(statement: ast.stmt, bound: set[str], needed: dict[str, None]) -> set[str]:
    """Note the names that a statement uses; return those that it binds at the top."""
    if isinstance(statement, ast.Break | ast.Continue):
        return set()
    module = ast.fix_missing_locations(ast.Module([statement], type_ignores=[]))
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(module, "<cell>", "exec", flags, dont_inherit=True)
    needed.update(dict.fromkeys(name for name in _loaded(code) if name not in bound))
    return {str(step.argval) for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}


def _loaded(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in _LOADS:
            yield str(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _loaded(constant)


def _targets(target: ast.expr) -> set[str]:
    return {
        node.id
        for node in ast.walk(target)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


class _MainNamespace:
    """Becomes the other process's ``__main__`` namespace when it is read there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return vars, (sys.modules["__main__"],)


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def _dump(
    values: dict[str, Any],
    file: Any,
    namespace: Mapping[str, Any],
    file_of_code: Callable[[str], str],
) -> Exception | None:
    """Write the values; return the error if they cannot be written."""
    import cloudpickle

    reduce_code = cloudpickle.Pickler.dispatch_table[CodeType]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[ChainMap[Any, Any]] = ChainMap(
            {
                CodeType: lambda code: reduce_code(
                    code.replace(co_filename=file_of_code(code.co_filename))
                )
            },
            cloudpickle.Pickler.dispatch_table,
        )

    try:
        pickler = Pickler(file)
        # Functions of the notebook share its namespace with the cell: over there, too.
        pickler.globals_ref[id(namespace)] = _MainNamespace()
        pickler.dump(values)
    except Exception as error:  # noqa: BLE001 - values raise whatever they like
        return error
    return None
