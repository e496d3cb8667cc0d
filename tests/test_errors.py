"""The errors: their tree, and how they are shown and found again."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from claude_pm import errors
from claude_pm.errors import ClaudePMError, ModelError, error_class

CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, ClaudePMError)
}
each_class = pytest.mark.parametrize("found", CLASSES.values(), ids=CLASSES)


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Read the module docstring's drawing: name -> (name of its parent, what is said of it)."""
    tree: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r" {4}([│ ]*)(?:[├└]── )?(\w+Error)\b *(.*)", line)
        if found is None:
            continue
        depth = line.index(found[2]) // 4 - 1
        del path[depth:]
        tree[found[2]] = (path[-1] if path else None, found[3])
        path.append(found[2])
    return tree


class TestTree:
    """The drawing in the module's docstring is what there is."""

    def test_names(self) -> None:
        """Every class is drawn, and nothing else."""
        assert set(drawn_tree()) == set(CLASSES)

    @each_class
    def test_parent(self, found: type[ClaudePMError]) -> None:
        """A class is drawn under the class it derives from first."""
        parent = None if found is ClaudePMError else found.__bases__[0].__name__
        assert drawn_tree()[found.__name__][0] == parent

    def test_retried(self) -> None:
        """The errors drawn as retried are the ones that say so to the code."""
        drawn = {name for name, (_, note) in drawn_tree().items() if "(retried)" in note}
        retryable = {name for name, found in CLASSES.items() if getattr(found, "retryable", False)}
        assert drawn == retryable == {"ModelConnectionError", "ModelOverloadedError"}

    def test_timeout_is_a_timeout_error(self) -> None:
        """Whoever catches Python's TimeoutError catches ours."""
        assert issubclass(errors.OrchestrationTimeoutError, TimeoutError)

    @each_class
    def test_docstring(self, found: type[ClaudePMError]) -> None:
        """Each says in its docstring what happened."""
        assert (inspect.getdoc(found) or "").split("\n")[0].endswith(".")


class TestErrorClass:
    """A worker reports an error by the name of its class."""

    @each_class
    def test_known(self, found: type[ClaudePMError]) -> None:
        """The name of a class finds the class."""
        assert error_class(found.__name__) is found

    @pytest.mark.parametrize(
        "name", ["ValueError", "Exception", "NoSuchError", "error_class", "annotations", ""]
    )
    def test_unknown(self, name: str) -> None:
        """Any other name finds the base, whatever else the module or Python calls so."""
        assert error_class(name) is ClaudePMError


class TestShowing:
    """What a person sees."""

    @each_class
    def test_in_a_notebook(self, found: type[ClaudePMError]) -> None:
        """IPython shows the class and the message in place of a traceback."""
        assert found("It broke.")._render_traceback_() == [f"{found.__name__}: It broke."]

    @each_class
    def test_pickled(self, found: type[ClaudePMError]) -> None:
        """An error survives the way through a process pool."""
        again = pickle.loads(pickle.dumps(found("It broke.")))
        assert type(again) is found
        assert str(again) == "It broke."

    def test_retry_after(self) -> None:
        """A model's error carries the wait that the server asked for, pickled or not."""
        assert ModelError("Busy.").retry_after_s is None
        error = ModelError("Busy.", retry_after_s=2.5)
        assert pickle.loads(pickle.dumps(error)).retry_after_s == 2.5
