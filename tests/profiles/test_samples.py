"""The recorded samples in ``profiles/samples/``: every analysis can be read without a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import claude_pm
from claude_pm.analysis import cache_effects, phase_table, requests_table
from claude_pm.profiles import schema

SAMPLES = Path(__file__).parents[2] / "profiles" / "samples"
FOLDERS = {folder.name.split("-", 1)[1].rsplit("-", 1)[0]: folder for folder in SAMPLES.iterdir()}


def test_all_are_there() -> None:
    """One of modes, one of caches, one of a batch with a workflow; together they are small."""
    assert {"modes", "batch"} < set(FOLDERS)
    assert len(FOLDERS) == 3
    sizes = [file.stat().st_size for file in SAMPLES.rglob("*") if file.is_file()]
    assert sum(sizes) < 1_000_000


@pytest.mark.parametrize("name", FOLDERS)
def test_readable_and_clean(name: str) -> None:
    """Each loads, was recorded live, and names no folder of the machine that recorded it."""
    profile = claude_pm.load(FOLDERS[name])
    assert profile.meta["model_use"] == "live"
    texts = [repr(profile.meta), *(profile.table(table).to_csv() for table in schema.TABLES)]
    assert not re.search(r"/(home|root|work|tmp|Users)/", "\n".join(texts))
    assert len(requests_table(profile)) >= 9
    assert phase_table(profile)["share"].sum() == pytest.approx(1)


def test_modes() -> None:
    """The modes differ, and it is said."""
    experiment = claude_pm.Experiment(claude_pm.load(FOLDERS["modes"]))
    table = experiment.compare().table.set_index("metric")
    assert table.loc["duration_s", "verdict"] == "slower"
    assert len(cache_effects(experiment.profile)) >= 2


def test_batch() -> None:
    """Its critical path is found, and replays agree with what was recorded."""
    profile = claude_pm.load(FOLDERS["batch"])
    path = profile.critical_path()
    assert path.table["duration_s"].sum() == pytest.approx(path.wall_s)
    assert path.replayed_s == pytest.approx(path.wall_s, rel=0.05)
    assert {"decode", "queue"} <= set(path.by_kind["kind"])
    estimate = profile.what_if(cache="hot")
    assert estimate.wall_s <= estimate.recorded_s * 1.05
