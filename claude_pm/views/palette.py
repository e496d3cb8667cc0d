"""Colours that mean the same everywhere, and that colour-blind readers can tell apart.

After Okabe and Ito (2008), with two greys.
"""

from __future__ import annotations

from collections.abc import Mapping

ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
DARK_GREY = "#4D4D4D"
LIGHT_GREY = "#BDBDBD"

PHASES: Mapping[str, str] = {
    "queue": PURPLE,
    "start_worker": ORANGE,
    "start_model": YELLOW,
    "build_context": GREEN,
    "saved_prefix": VERMILLION,
    "prefill": BLUE,
    "decode": SKY,
    "no_text": DARK_GREY,
    "other": LIGHT_GREY,
}
MODES: Mapping[str, str] = {"local": BLUE, "subprocess": ORANGE, "hybrid": GREEN}
UNKNOWN_MODE = DARK_GREY
CACHE_STATES: Mapping[str, str] = {"cold": BLUE, "warm": VERMILLION, "off": DARK_GREY}
OWN_SPAN = "#EFEFEF"
"""Spans that users opened themselves, outlined in dark grey."""
ERROR = "#B2182B"
LINES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY)
"""For curves without a meaning of their own, in order."""
