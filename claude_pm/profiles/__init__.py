"""What was observed: tables, the Profile that holds them, and the folder they are kept in."""

from claude_pm.profiles.experiment import Experiment
from claude_pm.profiles.profile import Profile
from claude_pm.profiles.store import list_profiles, load

__all__ = ["Experiment", "Profile", "list_profiles", "load"]
