"""Stacks as the nodes of one tree of code objects, and their text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import CodeType

from claude_pm.recording.instrument import RenameFile
from claude_pm.recording.machinery import command_folder, is_standard_library

# A thread that shares the interpreter's lock with others may run for a small part of the time.
_RUNS = 0.05


class Stack:
    """One stack: a frame under those that called it, or that await it."""

    __slots__ = ("_inner", "code", "outer", "ran_ns", "stayed_ns")

    def __init__(self, code: CodeType | None = None, outer: Stack | None = None) -> None:
        self.code = code
        self.outer = outer
        # For how long threads stayed here from one look to the next, and ran meanwhile.
        self.stayed_ns = self.ran_ns = 0
        # By identity: the hash of a code object looks at all of its constants.
        self._inner: dict[int, Stack] = {}

    @property
    def runs(self) -> bool | None:
        """Whether threads run here or wait; None while no thread was seen to stay."""
        return self.ran_ns > _RUNS * self.stayed_ns if self.stayed_ns else None

    def held_up_ns(self, ran_ns: int) -> int:
        """Return how long a thread that ran so long here waited for its turn, as most did."""
        return ran_ns * (self.stayed_ns - self.ran_ns) // self.ran_ns if self.ran_ns else 0

    def of(self, codes: Iterable[CodeType]) -> Stack:
        """Return the stack with these frames (root first) on top of this one."""
        stack = self
        for code in codes:
            inner = stack._inner.get(id(code))
            if inner is None:
                inner = stack._inner[id(code)] = Stack(code, stack)
            stack = inner
        return stack

    def shared_with(self, other: Stack) -> Stack:
        """Return what two stacks of one tree have in common, from the root on."""
        outers = set()
        stack: Stack | None = self
        while stack is not None:
            outers.add(stack)
            stack = stack.outer
        while other not in outers and other.outer is not None:
            other = other.outer
        return other

    def codes(self) -> list[CodeType]:
        """Return its frames, root first."""
        found: list[CodeType] = []
        stack: Stack | None = self
        while stack is not None and stack.code is not None:
            found.append(stack.code)
            stack = stack.outer
        return found[::-1]


def stack_text(codes: Sequence[CodeType], rename_file: RenameFile) -> str:
    """Return the stack as the ``samples`` table holds it: ``qualname (file:first line)``."""
    return ";".join(
        # A ';' would part the frame in two; a file may have one in its name.
        f"{code.co_qualname} ({rename_file(code.co_filename)}:{code.co_firstlineno})".replace(
            ";", ","
        )
        for code in codes
    )


def without(codes: Sequence[CodeType], hidden: tuple[str, ...]) -> Sequence[CodeType]:
    """Leave out the frames of files in ``hidden`` folders, and all that lead to our command.

    Nothing is left where the rest is only what those called in the standard library.
    """
    command = command_folder()
    outermost = max(
        (i for i, code in enumerate(codes) if code.co_filename.startswith(command)), default=-1
    )
    shown = [code for code in codes[outermost + 1 :] if not code.co_filename.startswith(hidden)]
    if len(shown) < len(codes) and all(is_standard_library(code.co_filename) for code in shown):
        return []
    return shown
