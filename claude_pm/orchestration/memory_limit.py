"""The memory limit of a worker: how it is set, and how its effects are told."""

from __future__ import annotations

_MIB = 1024 * 1024
_WORDS = (
    "bad_alloc", "cannot allocate", "out of memory", "memoryerror", "failed to map", "mmap",
    "thread creation failed", "can't start new thread", "failed to allocate",
)  # fmt: skip


def limit_memory(limit_mb: int) -> None:
    """Let this process have no more address space than that, from now on."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limit_mb * _MIB, limit_mb * _MIB))


def speaks_of_memory(text: str) -> bool:
    """Say whether what a library or the system complained of is a lack of memory."""
    lowered = text.lower()
    return any(word in lowered for word in _WORDS)


def limit_hint(limit_mb: int | None) -> str:
    """Return a sentence for an error that the memory limit may be the cause of, with a blank."""
    if limit_mb is None:
        return ""
    return (
        f" Its memory was limited to {limit_mb} MiB by CLAUDE_PM_MEMORY_LIMIT_MB: "
        "allow it more, if that was too little."
    )
