"""The sections of a file: where they begin, which are the same, which an agent asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

BETWEEN = "\n\n"

# A heading, or the opening or closing of a code fence (CommonMark: up to 3 spaces before either).
_HEADING_OR_FENCE = re.compile(
    r"^ {0,3}(?:(?P<heading>#{1,6})(?=[ \t]|$)|(?P<fence>`{3,}|~{3,})(?P<rest>.*))", re.MULTILINE
)
_HEADING = re.compile(rb" {0,3}#{1,6}(?:[ \t]|$)")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and all up to the next one, or the text before the first heading (``preface``).

    ``identity`` is equal for sections that say the same: it is a hash of heading and body with
    every run of white space made one space. Case counts: in code and in names it has a meaning.
    """

    text: str
    preface: bool
    identity: bytes


def split_sections(text: str, *, markdown: bool) -> tuple[Section, ...]:
    """Split a text at its Markdown headings; what is no Markdown is one section.

    A ``#`` in a code fence begins no section. Sections that are blank are left out.
    """
    starts = [0, *(_heading_starts(text) if markdown else ())]
    sections = []
    for number, (start, end) in enumerate(pairwise([*starts, len(text)])):
        words = text[start:end].split()
        if words:
            identity = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
            sections.append(Section(text[start:end].strip(), number == 0, identity))
    return tuple(sections)


def _heading_starts(text: str) -> list[int]:
    starts = []
    fence = ""
    for found in _HEADING_OR_FENCE.finditer(text):
        marks, rest = found["fence"], found["rest"]
        if marks is None:
            if not fence:
                starts.append(found.start())
        elif not fence:
            # "```a```" on one line is code within a line, not a fence.
            if marks[0] == "~" or "`" not in rest:
                fence = marks
        elif marks.startswith(fence) and not rest.strip():
            fence = ""
    return starts


def speaks_of(keywords: tuple[str, ...]) -> Callable[[Section], bool]:
    """Return a test whether a section has one of the keywords, as a whole word in any case."""
    folded = [keyword.strip().casefold() for keyword in keywords if keyword.strip()]
    # (?<!\w) and not \b: a keyword may begin or end with a sign ("c++", ".env").
    words = {word: re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in folded}

    def test(section: Section) -> bool:
        text = section.text.casefold()
        # The plain search is much faster than the pattern, and mostly finds nothing.
        return any(word in text and pattern.search(text) for word, pattern in words.items())

    return test if words else lambda _section: True


def places_to_cut(data: bytes) -> list[int]:
    """Return where a text in UTF-8 may end, ascending: after a line that says something, or whole.

    It does not end in a blank line, or in a heading, which tells nothing without its text.
    """
    places = []
    end = -1
    for line in data.split(b"\n"):
        end += len(line) + 1
        if line.strip() and not _HEADING.match(line):
            places.append(end)
    if places[-1:] != [len(data)]:
        places.append(len(data))
    return places
