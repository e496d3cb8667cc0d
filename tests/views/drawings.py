"""Reads the drawings of a page as trees, and makes profiles for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as ET

from claude_pm.profiles import Profile, schema
from tests.profile_builder import KERNEL_PID, ProfileBuilder


def tree(markup: str | None) -> ET.Element:
    """Parse a drawing; that it is well-formed is the first thing to be relied on."""
    assert markup is not None
    return ET.fromstring(markup)


def with_class(drawing: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of a class, in order."""
    return [found for found in drawing.iter() if found.get("class") == name]


def text_of(element: ET.Element) -> str:
    """Return all the text in an element."""
    return " ".join(element.itertext())


def titles(drawing: ET.Element) -> list[str]:
    """Return what is said of each part when the pointer is on it."""
    return [found.text or "" for found in drawing.iter("title")]


def number(element: ET.Element, name: str) -> float:
    """Return an attribute that is a number, or a percentage."""
    return float(str(element.get(name)).removesuffix("%"))


def dangling_ids(markup: str) -> set[str]:
    """Return the ids that are used in a drawing and not defined in it."""
    return set(re.findall(r"url\(#([^)]+)\)", markup)) - set(re.findall(r' id="([^"]+)"', markup))


def sampled(samples: Iterable[dict[str, Any]], **meta: Any) -> Profile:
    """Return a profile with these samples; each stands for a second of running, unless it says."""
    rows = [
        {"pid": KERNEL_PID, "thread": "MainThread", "state": "running", "weight_s": 1.0} | sample
        for sample in samples
    ]
    return Profile(
        ProfileBuilder(**meta).meta, {"samples": schema.frame_from_rows(schema.SAMPLES, rows)}
    )
