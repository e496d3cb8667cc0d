"""Where sampled time went."""

from __future__ import annotations

import pandas as pd

from claude_pm.analysis import sampled_places
from tests.profiles.test_stacks import profile_of

LIBRARY = "sleep (/opt/lib/python3.12/asyncio/tasks.py:1)"
PACKAGE = "send (/x/site-packages/httpx2/client.py:1)"


def test_innermost_of_the_users_functions() -> None:
    """A library's time is its caller's; states, CPU time and agents stay apart."""
    table = sampled_places(
        profile_of(
            {"stack": f"main (In[1]:1);ask (In[2]:3);{PACKAGE};{LIBRARY}", "state": "waiting"},
            {"stack": "main (In[1]:1);ask (In[2]:3)", "weight_s": 0.5, "cpu_s": 0.5},
            {"stack": "main (In[1]:1);ask (In[2]:3)", "agent": "qa", "weight_s": 9.0},
            {"stack": LIBRARY},
        )
    )
    assert table["place"].tolist() == ["ask (In[2]:3)", "ask (In[2]:3)", LIBRARY]
    assert table["agent"].fillna("none").tolist() == ["qa", "none", "none"]
    assert table["running_s"].tolist() == [9.0, 0.5, 1.0]
    assert table["waiting_s"].tolist() == [0.0, 1.0, 0.0]
    assert table["cpu_s"].tolist() == [1.0, 1.5, 1.0]


def test_unknown_cpu_time() -> None:
    """CPU time of which a part is not known is not known."""
    table = sampled_places(profile_of({"stack": "a (b:1)"}, {"stack": "a (b:1)", "cpu_s": None}))
    assert table["cpu_s"].isna().all()
    assert sampled_places(profile_of()).empty
    assert isinstance(table, pd.DataFrame)
