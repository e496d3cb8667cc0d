"""A profile as the views read it: what analysis says of it, each thing worked out once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from claude_pm.analysis.compare import Comparison, compare_conditions
from claude_pm.analysis.compare_modes import compare_requests
from claude_pm.analysis.phases import phases_of
from claude_pm.analysis.requests import Request, find_requests, owner_ids, requests_frame
from claude_pm.analysis.rows import Row, rows
from claude_pm.analysis.sampled_places import sampled_places
from claude_pm.errors import ComparisonError
from claude_pm.profiles.experiment import KEY, Experiment
from claude_pm.views.lanes import Bar, find_bars

if TYPE_CHECKING:
    import pandas as pd

    from claude_pm.profiles import Profile


class Reading:
    """Reads a profile for one summary or report; a profile of many spans takes its time."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.meta: dict[str, Any] = profile.meta

    @cached_property
    def spans(self) -> list[Row]:
        """All spans."""
        return rows(self.profile.spans)

    @cached_property
    def owners(self) -> list[str | None]:
        """For each span, the id of the request that it was done for."""
        return owner_ids(self.spans)

    @cached_property
    def found_requests(self) -> list[Request]:
        """The requests with their parts."""
        return find_requests(self.spans)

    @cached_property
    def bars(self) -> list[Bar]:
        """The bars of its timeline."""
        return find_bars(self)

    @cached_property
    def requests(self) -> list[Row]:
        """The rows of ``requests_table``."""
        return rows(self._requests_frame)

    @cached_property
    def phases(self) -> list[Row]:
        """The rows of ``phase_table``."""
        return rows(phases_of(self.found_requests))

    @cached_property
    def modes(self) -> list[Row]:
        """The rows of ``compare_modes``."""
        return rows(compare_requests(self._requests_frame))

    @cached_property
    def experiment(self) -> Experiment | None:
        """The experiment that it recorded, if it did."""
        return Experiment(self.profile) if KEY in self.meta else None

    @cached_property
    def comparison(self) -> Comparison | None:
        """The conditions of its experiment against the first; None without a second."""
        if self.experiment is None or len(self.experiment.conditions) == 1:
            return None
        try:
            return compare_conditions(self.experiment)
        except ComparisonError:  # no sample of two conditions was taken
            return None

    @cached_property
    def places(self) -> list[Row]:
        """The rows of ``sampled_places``."""
        return rows(sampled_places(self.profile))

    @cached_property
    def _requests_frame(self) -> pd.DataFrame:
        return requests_frame(self.found_requests)
