"""An Experiment: conditions measured in turns, and what can be said of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from claude_pm.errors import ProfileError
from claude_pm.profiles.profile import Profile

if TYPE_CHECKING:
    import pandas as pd
    from ipywidgets import VBox
    from matplotlib.axes import Axes

    from claude_pm.analysis.compare import Comparison

KEY = "experiment"
"""Under this key of a profile's ``meta`` stands what the experiment was."""

SAMPLE = "sample"
"""The name of the span around each sample."""

CACHE_TRIAL = "cache_trial"
"""The attribute of a request's span in which a cache trial says: cold, warm or off."""


class Experiment:
    """The samples of each condition, and the profile that recorded them.

    ``claude_pm.experiment`` and ``%%orchestrate --mode a,b --repeat N`` make one. A saved one comes
    back as ``Experiment(claude_pm.load(path_or_id))``.

    Raises:
        ProfileError: the profile was not recorded by an experiment.
    """

    def __init__(self, profile: Profile) -> None:
        if KEY not in profile.meta:
            raise ProfileError(
                f"The profile {profile.name!r} is not of an experiment: claude_pm.experiment and "
                "%%orchestrate with --repeat or several modes record one."
            )
        self.profile = profile
        self._samples: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """What it was called by its maker."""
        return self.profile.name

    @property
    def id(self) -> str:
        """The id of its profile."""
        return self.profile.id

    @property
    def meta(self) -> dict[str, Any]:
        """The meta record of its profile; ``meta["experiment"]`` has the plan."""
        return self.profile.meta

    @property
    def conditions(self) -> list[str]:
        """The names of what was compared, in the order given."""
        return list(self.meta[KEY]["conditions"])

    @property
    def samples(self) -> pd.DataFrame:
        """One row a sample, in the order taken: ``condition``, ``block``, ``order`` and metrics.

        ``claude_pm.analysis.samples.SAMPLES`` says what each column means.
        """
        if self._samples is None:
            from claude_pm.analysis.samples import experiment_samples

            self._samples = experiment_samples(self.profile)
        return self._samples

    @property
    def spans(self) -> pd.DataFrame:
        """The spans of all samples; a sample's ``span_id`` is the root of its own."""
        return self.profile.spans

    def compare(self, baseline: str | None = None, *, margin: float = 0.05) -> Comparison:
        """Compare every other condition with ``baseline`` (default: the first).

        Raises:
            ComparisonError: there is no such condition, or nothing to compare it with.
        """
        from claude_pm.analysis.compare import compare_conditions

        return compare_conditions(self, baseline, margin=margin)

    def plot(self, metric: str = "duration_s", *, ax: Axes | None = None) -> Axes:
        """Draw every sample of a metric, with each condition's median and its interval."""
        from claude_pm.views.charts import plot_conditions

        return plot_conditions(self, metric, ax=ax)

    def explore(self, other: Profile | Experiment | None = None) -> VBox:
        """Return a widget to look into the spans, as :meth:`Profile.explore` does."""
        return self.profile.explore(other)

    def save(self, dir: str | Path | None = None) -> Path:
        """Store its profile as ``<dir>/<id>/`` and return that folder."""
        return self.profile.save(dir)

    def to_html(self, path: str | Path, content: bool = True) -> Path:
        """Write a report with verdicts, as :meth:`Profile.to_html` does. Return its path."""
        return self.profile.to_html(path, content)

    def __repr__(self) -> str:
        return f"<Experiment {self.name!r}, {len(self.samples)} samples, {self.id}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show medians and verdicts (IPython's display protocol)."""
        return self.profile._repr_mimebundle_(include, exclude)
