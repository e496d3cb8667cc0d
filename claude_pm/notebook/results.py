"""What the magics recorded last, and how a result is kept, shown and saved."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from claude_pm.errors import ClaudePMError, ProfileNotFoundError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from claude_pm.profiles import Experiment, Profile

_last: Profile | Experiment | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """What to do with a result: ``save`` it to disk, keep it ``as_name`` in the notebook too."""

    save: bool
    as_name: str | None


def last() -> Profile | Experiment:
    """Return the newest result of a magic.

    Raises:
        ProfileNotFoundError: no magic has recorded anything in this process yet.
    """
    if _last is None:
        raise ProfileNotFoundError(
            "No magic has recorded anything here yet: run a %%orchestrate or %%claude_pm_profile "
            "cell first, or load a saved profile with claude_pm.load(...)."
        )
    return _last


def keep(shell: InteractiveShell, result: Profile | Experiment, keeping: Keeping) -> None:
    """Keep a finished result for :func:`last` and under its name, and save it if asked."""
    global _last  # noqa: PLW0603 - the one newest result of this process
    _last = result
    if keeping.as_name is not None:
        shell.user_ns[keeping.as_name] = result
    if keeping.save:
        try:
            print(f"Saved as {result.save()}")
        except ClaudePMError as error:
            # The user's own result, or error, must not be replaced by this one.
            print(f"claude_pm: {error}", file=sys.stderr)
