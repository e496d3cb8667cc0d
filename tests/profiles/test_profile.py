"""Profile: tables by name, and the summary by numbers known beforehand."""

from __future__ import annotations

import pandas as pd
import pytest

import claude_pm
from claude_pm.errors import ProfileError
from claude_pm.profiles import Profile, schema
from tests.profile_builder import ProfileBuilder

COLUMNS = ["phase", "n", "total_s", "median_s", "p95_s", "max_s"]


def phases(recorded: Profile) -> dict[str, tuple[float, ...]]:
    """The summary as phase -> (n, total, median, p95, max)."""
    table = recorded.summary()
    assert list(table.columns) == COLUMNS
    return {row.phase: (row.n, *row[3:]) for row in table.itertuples()}


class TestTables:
    """Tables are DataFrames, made when they are asked for."""

    @pytest.mark.parametrize("name", schema.TABLES)
    def test_attribute(self, name: str) -> None:
        """Each table is an attribute of its name; one that was not recorded is empty."""
        recorded = Profile(ProfileBuilder().meta, {})
        data = getattr(recorded, name)
        schema.check(schema.TABLES[name], data, where="the profile")
        assert data.empty
        assert recorded.table(name) is data

    def test_unknown(self) -> None:
        """An unknown table is named, with those that there are."""
        with pytest.raises(ProfileError) as caught:
            Profile(ProfileBuilder().meta, {}).table("span")
        names = ", ".join(schema.TABLES)
        assert str(caught.value) == f"A profile has no table 'span'; it has {names}."

    def test_made_once_when_asked(self) -> None:
        """A table's source is called when it is first asked for, and once."""
        made: list[pd.DataFrame] = []

        def source() -> pd.DataFrame:
            made.append(schema.frame(schema.MEMORY))
            return made[-1]

        recorded = Profile(ProfileBuilder().meta, {"memory": source})
        assert recorded.spans.empty
        assert made == []
        assert recorded.memory is made[0]
        assert recorded.memory is made[0]
        assert len(made) == 1

    def test_names(self) -> None:
        """The id and the name are those of the meta record; the class is public."""
        builder = ProfileBuilder("load documents", id="20260131T090000123-load-1a2b")
        recorded = builder.build()
        assert (recorded.name, recorded.id) == ("load documents", "20260131T090000123-load-1a2b")
        assert repr(recorded) == (
            "<Profile 'load documents', 10.000 s, 20260131T090000123-load-1a2b>"
        )
        assert claude_pm.Profile is Profile


class TestSummary:
    """One row a phase, with the statistics of its durations."""

    def test_empty(self) -> None:
        """Without spans the summary has its columns and no rows."""
        summary = ProfileBuilder().build().summary()
        assert list(summary.columns) == COLUMNS
        assert len(summary) == 0

    def test_statistics(self) -> None:
        """Number, total, median, 95th percentile (interpolated) and maximum of a phase."""
        builder = ProfileBuilder()
        for start, duration in enumerate([0.4, 0.1, 0.3, 0.2, 1.0]):
            builder.span("queue", float(start), duration)
        # Sorted 0.1 0.2 0.3 0.4 1.0: p95 lies 0.8 of the way from the 4th to the 5th.
        assert phases(builder.build()) == {
            "queue": pytest.approx((5, 2.0, 0.3, 0.4 + 0.8 * 0.6, 1.0))
        }

    def test_even_number(self) -> None:
        """The median of an even number lies between the middle two."""
        builder = ProfileBuilder()
        for start, duration in enumerate([0.1, 0.2, 0.4, 0.8]):
            builder.span("queue", float(start), duration)
        assert phases(builder.build())["queue"][2] == pytest.approx(0.3)

    def test_single(self) -> None:
        """Of one span all the durations are its own."""
        builder = ProfileBuilder()
        builder.span("load_agent", 1.0, 0.25)
        assert phases(builder.build()) == {"load_agent": (1, 0.25, 0.25, 0.25, 0.25)}

    def test_chat_is_prefill_and_decode(self) -> None:
        """A chat is told apart at its first content: before it prefill, after it decode."""
        builder = ProfileBuilder()
        builder.span("chat", 0.0, 2.0, ttft_s=0.5)
        builder.span("chat", 2.0, 1.0, ttft_s=0.75)
        assert phases(builder.build()) == {
            "decode": pytest.approx((2, 1.75, 0.875, 0.25 + 0.95 * 1.25, 1.5)),
            "prefill": pytest.approx((2, 1.25, 0.625, 0.5 + 0.95 * 0.25, 0.75)),
        }

    def test_chat_without_content(self) -> None:
        """A chat that never gave a content is a phase of its own: nobody knows its parts."""
        builder = ProfileBuilder()
        builder.span("chat", 0.0, 2.0, status="error")
        assert phases(builder.build()) == {"chat": (1, 2.0, 2.0, 2.0, 2.0)}

    def test_request_is_its_parts_and_other(self) -> None:
        """Of an orchestrate only what none of its parts took remains, as other."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 4.0)
        builder.span("build_context", 0.0, 0.5, parent=request)
        builder.span("chat", 1.0, 2.5, parent=request, ttft_s=1.0)
        found = phases(builder.build())
        assert {phase: values[1] for phase, values in found.items()} == pytest.approx(
            {"build_context": 0.5, "prefill": 1.0, "decode": 1.5, "other": 1.0}
        )
        assert sum(values[1] for values in found.values()) == pytest.approx(4.0)

    def test_overlapping_parts(self) -> None:
        """Parts at the same time are each counted whole; other is what neither covers."""
        builder = ProfileBuilder()
        request = builder.request("qa", "local", 0.0, 4.0)
        builder.span("mine", 0.0, 2.0, parent=request)
        builder.span("mine", 1.0, 2.0, parent=request)
        found = phases(builder.build())
        assert found["mine"][1] == pytest.approx(4.0)
        assert found["other"][1] == pytest.approx(1.0)

    def test_longest_first(self) -> None:
        """Phases come by their total, longest first."""
        builder = ProfileBuilder()
        for name, duration in (("a", 0.1), ("b", 0.3), ("c", 0.2), ("a", 0.5)):
            builder.span(name, 0.0, duration)
        assert builder.build().summary()["phase"].tolist() == ["a", "b", "c"]

    def test_own_spans(self) -> None:
        """Spans of the user's own are phases by their names."""
        with claude_pm.profile(cpu=None, memory=None) as recorded:
            for _ in range(3):
                with claude_pm.span("load documents"):
                    pass
        assert phases(recorded)["load documents"][0] == 3
