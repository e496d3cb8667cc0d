"""What it means: requests, phases, modes and caches, read from the tables of a Profile.

Needs nothing but a profile: no model, no recording.
"""

from claude_pm.analysis.break_even import break_even_requests
from claude_pm.analysis.cache_effects import cache_effects, cache_savings
from claude_pm.analysis.compare import Comparison, compare
from claude_pm.analysis.compare_modes import compare_modes
from claude_pm.analysis.compare_samples import Verdict, compare_samples
from claude_pm.analysis.critical_path import CriticalPath, critical_path
from claude_pm.analysis.hit_rate import hit_rate
from claude_pm.analysis.memory_by_span import memory_by_span
from claude_pm.analysis.phases import phase_table, request_segments
from claude_pm.analysis.requests import requests_table
from claude_pm.analysis.sampled_places import sampled_places
from claude_pm.analysis.what_if import WhatIf, what_if

__all__ = [
    "Comparison",
    "CriticalPath",
    "Verdict",
    "WhatIf",
    "break_even_requests",
    "cache_effects",
    "cache_savings",
    "compare",
    "compare_modes",
    "compare_samples",
    "critical_path",
    "hit_rate",
    "memory_by_span",
    "phase_table",
    "request_segments",
    "requests_table",
    "sampled_places",
    "what_if",
]
