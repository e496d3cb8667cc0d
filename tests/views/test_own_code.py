"""Whose code it is, and how long it ran."""

from __future__ import annotations

import pytest

from claude_pm.views.own_code import is_own, own_python_s, running_s
from tests.profile_builder import ProfileBuilder
from tests.views.drawings import sampled
from tests.views.profiles import empty


@pytest.mark.parametrize(
    ("frame", "own"),
    [
        ("main (app.py:1)", True),
        ("<module> (In[3]:1)", True),
        ("get (/x/site-packages/httpx/client.py:3)", False),
        ("run (/usr/lib/python3.12/asyncio/runners.py:1)", False),
        ("_run (/home/me/claude_pm/orchestration/orchestrator.py:9)", False),
        ("step (/home/me/claude_pm/notebooks/mine.py:9)", True),
    ],
)
def test_tells_the_users_code_from_libraries(frame: str, own: bool) -> None:
    """By its path: a profile is read on other machines too."""
    assert is_own(frame) is own


def test_sampled_it_is_what_ran_with_the_user_on_the_stack() -> None:
    """What a user's function called counts; waiting, libraries alone and workers do not."""
    library = "loop (/usr/lib/python3.11/asyncio/base_events.py:1)"
    profile = sampled(
        [
            {"stack": "main (app.py:1)", "weight_s": 1.0},
            {"stack": f"main (app.py:1);{library}", "weight_s": 2.0},
            {"stack": library, "weight_s": 4.0},
            {"stack": "main (app.py:1)", "state": "waiting", "weight_s": 8.0},
            {"stack": "main (app.py:1)", "pid": 5000, "weight_s": 16.0},
        ]
    )
    assert own_python_s(profile) == 3.0
    assert running_s(profile) == 7.0


def test_counted_it_is_the_time_of_the_users_functions() -> None:
    """Built-ins and libraries have their own."""
    builder = ProfileBuilder()
    builder.function("f", 0.5)
    builder.function("sleep", 4.0, file="~", line=0)
    builder.function("get", 2.0, file="/x/site-packages/httpx/client.py")
    builder.function("work", 1.0, pid=5000)
    assert own_python_s(builder.build()) == 0.5
    assert running_s(builder.build()) is None


def test_unknown_where_nothing_saw_it() -> None:
    """No samples and no functions are not 0 s."""
    assert own_python_s(empty()) is None
