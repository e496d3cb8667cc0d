"""What an agent is told of the working folder: sections of CLAUDE.md files, README and others."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal, TypedDict, TypeVar

from claude_pm.agents import Agent
from claude_pm.services.agent_registry import CacheResult
from claude_pm.services.context_files import (
    Look,
    PassedOver,
    Rules,
    Source,
    Stamp,
    find_instructions,
    find_matching,
    find_readme,
    folder_and_home,
    unchanged,
)
from claude_pm.services.context_sections import (
    BETWEEN,
    Section,
    places_to_cut,
    speaks_of,
    split_sections,
)

TOKEN_BUDGET = 256
"""Largest context in tokens."""

MAX_FILE_BYTES = 256 * 1024
"""A larger file is passed over: it is data, or was written for nobody to read."""

CountTokens = Callable[[str], Awaitable[int | None]]
"""Counts a text's tokens as the model's own tokenizer does; None: it cannot say."""

_TITLE = "# The project in the working folder (excerpts)"
_CUT = "\n[...]"
_BYTES_PER_TOKEN_AT_LEAST = 3
_BYTES_PER_TOKEN_USUAL = 4
# No text of words has so many: what is longer need not be counted to be cut.
_BYTES_PER_TOKEN_AT_MOST = 16
_CALLS_THAT_GUESS = 4
# From here on, asking whether the files have changed takes milliseconds.
_MANY_FILES = 500
_CONTEXTS_HELD = 16
_FILES_HELD = 512

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Collected:
    """What there is to tell, before anyone counted its tokens.

    ``starts`` is where, in bytes, each of the ``files`` has its first section in the text.
    ``truncated`` says that there was more: more text than any tokenizer could fit into the
    budget, or more files than are looked at.
    """

    text: str
    files: tuple[str, ...]
    starts: tuple[int, ...]
    passed_over: PassedOver
    truncated: bool
    sha256: str

    def files_in(self, text: str) -> tuple[str, ...]:
        """Return the files of which something is left in the text as :func:`fit` cut it."""
        end = len(text.removesuffix(_CUT).encode())
        return tuple(
            name for name, start in zip(self.files, self.starts, strict=True) if start < end
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What the agent is told (empty where there is nothing), what it takes, and where it is from.

    ``tokens`` were ``counted_by`` the model's own tokenizer or, where nobody could, by
    :func:`estimate_tokens`. ``files`` are those of which the text has at least a part.
    """

    text: str
    tokens: int
    counted_by: Literal["model", "estimate"]
    truncated: bool
    files: tuple[str, ...] = ()
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def estimated_tokens(self) -> int:
        """The tokens by :func:`estimate_tokens`, whoever counted ``tokens``."""
        return estimate_tokens(self.text)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, on the safe side: one for each 3 bytes of UTF-8.

    English prose has 4 to 5 bytes a token in usual vocabularies, code about 3.
    """
    return -(-len(text.encode()) // _BYTES_PER_TOKEN_AT_LEAST)


async def fit(text: str, token_budget: int, count_tokens: CountTokens | None = None) -> Context:
    """Return the longest beginning of a text that has at most ``token_budget`` tokens.

    It is cut after a line, and marked as cut; both the title and the mark count. ``files`` and
    ``passed_over`` are left empty: a text does not know them. A counter that cannot say, even
    once, is not asked again: the whole is then estimated, as it is without a counter.
    """
    found = None
    if count_tokens is not None:
        found = await _longest(text, token_budget, count_tokens)
    if found is not None:
        kept, tokens = found
        return Context(kept, tokens, "model", _is_cut(kept, text))
    kept, tokens = await _longest(text, token_budget, _estimate) or ("", 0)
    return Context(kept, tokens, "estimate", _is_cut(kept, text))


def _is_cut(kept: str, text: str) -> bool:
    return kept != text or text.endswith(_CUT)


async def _estimate(text: str) -> int | None:
    return estimate_tokens(text)


async def _longest(text: str, budget: int, count_tokens: CountTokens) -> tuple[str, int] | None:
    """Search between the longest beginning known to fit and the shortest known not to.

    Where to look next is guessed from how many tokens a byte has between the two; a text whose
    parts are very unlike is halved instead after a few guesses.
    """
    data = text.encode()
    if not data or budget <= 0:
        return "", 0
    places = places_to_cut(data)
    fits, fitting, fitting_bytes = -1, ("", 0), 0
    too_long, tokens_there, bytes_there = len(places), 0, 0
    guess = budget * _BYTES_PER_TOKEN_USUAL
    calls = 0
    while too_long - fits > 1:
        index = min(max(bisect_right(places, guess) - 1, fits + 1), too_long - 1)
        if calls >= _CALLS_THAT_GUESS:
            index = (fits + too_long) // 2
        kept = text if index == len(places) - 1 else data[: places[index]].decode() + _CUT
        tokens = await count_tokens(kept)
        if tokens is None:
            return None
        calls += 1
        if tokens <= budget:
            fits, fitting, fitting_bytes = index, (kept, tokens), places[index]
        else:
            too_long, tokens_there, bytes_there = index, tokens, places[index]
        if tokens_there > fitting[1]:
            density = (bytes_there - fitting_bytes) / (tokens_there - fitting[1])
        else:
            density = fitting_bytes / max(fitting[1], 1)
        guess = int(fitting_bytes + (budget - fitting[1]) * density)
    return fitting


class _HeldFile(TypedDict):
    content: tuple[Section, ...]
    timestamp: float


_Key = tuple[str, str, tuple[str, ...], tuple[str, ...], int, int]
"""Folder, home, patterns, keywords, token budget, largest file."""


class ContextManager:
    """Tells an agent of the working folder, and looks at each request whether that has changed.

    What is told, in this order: the CLAUDE.md files (``CLAUDE.md``, ``.claude/CLAUDE.md``,
    ``CLAUDE.local.md``) of the folder and of each above it, nearest first; the user's
    ``~/.claude/CLAUDE.md``; the files below the folder that match the agent's
    ``context_patterns`` and that git does not ignore; the folder's README. A section (a heading
    and its text) that was told already is not told again; it is then the nearest that counts. Of
    an agent with ``context_keywords`` only those sections are told that have one of them, in the
    heading or in the text, as a whole word in any case; but the README, and what the folder's own
    ``CLAUDE.md`` says before its first heading, are told to everyone.

    Args:
        folder: the folder; None is the process's working folder at the time of each request.
        token_budget: largest context in tokens.
        home: the user's home; None is the process's, at the time of each request.
        max_file_bytes: larger files are passed over.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        token_budget: int = TOKEN_BUDGET,
        home: Path | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.folder = folder
        self.token_budget = token_budget
        self.home = home
        self.max_file_bytes = max_file_bytes
        self._held: dict[_Key, tuple[tuple[tuple[str, Stamp | None], ...], Collected]] = {}
        self._fitted: dict[tuple[str, int, Hashable], tuple[Collected, Context]] = {}
        self._claude_md_cache: dict[str, _HeldFile] = {}
        # By path: the key of the above, or why the file is passed over.
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._rules: Rules = {}
        # Files are read in threads, and two requests may come at once.
        self._reading = threading.Lock()

    async def build(
        self,
        agent: Agent | None = None,
        *,
        count_tokens: CountTokens | None = None,
        model: str | None = None,
        use_cache: bool = True,
    ) -> tuple[Context, CacheResult]:
        """Return the context, and ``hit`` if nothing had to be read or counted for it.

        Args:
            agent: who is told; None is told what every agent is.
            count_tokens: the model's tokenizer; None estimates. What it said, even that it cannot
                say, holds as long as the text does: the prompt then stays the same.
            model: the name under which a count holds; without it, it holds for that counter.
            use_cache: False reads and counts all anew.
        """
        collected, cache = await self.collect(agent, use_cache=use_cache)
        counter = None if count_tokens is None else model or count_tokens
        key = collected.sha256, self.token_budget, counter
        held = self._fitted.get(key) if use_cache else None
        if held is not None and held[0] is collected:
            _hold(self._fitted, key, held, _CONTEXTS_HELD)
            return held[1], cache
        if held is not None:
            fitted = held[1]
        else:
            fitted = await fit(collected.text, self.token_budget, count_tokens)
            cache = "miss"
        context = replace(
            fitted,
            truncated=collected.truncated or _is_cut(fitted.text, collected.text),
            files=collected.files_in(fitted.text),
            passed_over=collected.passed_over,
        )
        _hold(self._fitted, key, (collected, context), _CONTEXTS_HELD)
        return context, cache

    async def collect(
        self, agent: Agent | None = None, *, use_cache: bool = True
    ) -> tuple[Collected, CacheResult]:
        """Return what there is to tell, for any model, and ``hit`` if nothing had to be read."""
        try:
            folder, home = folder_and_home(self.folder, self.home)
        except FileNotFoundError:  # there is no working folder any more
            return _NOTHING, "miss"
        patterns = () if agent is None else agent.context_patterns
        keywords = () if agent is None else agent.context_keywords
        key = folder, home, patterns, keywords, self.token_budget, self.max_file_bytes
        held = self._held.get(key) if use_cache else None
        if held is not None:
            stamps, collected = held
            # In this thread: to ask another one takes longer than to ask for a few files.
            if len(stamps) < _MANY_FILES:
                same = unchanged(stamps)
            else:
                same = await asyncio.to_thread(unchanged, stamps)
            if same:
                _hold(self._held, key, held, _CONTEXTS_HELD)
                return collected, "hit"
        return await asyncio.to_thread(self._read, key, use_cache=use_cache)

    def _read(self, key: _Key, *, use_cache: bool) -> tuple[Collected, CacheResult]:
        folder, home, patterns, keywords, budget, _ = key
        with self._reading:
            if len(self._rules) > _FILES_HELD:
                self._rules.clear()
            look = Look(self._rules if use_cache else {})
            readme = list(find_readme(folder, look))
            sources = chain(
                find_instructions(folder, home, look),
                find_matching(folder, patterns, look) if patterns else (),
            )
            # The README is told in full at the end, whatever patterns it matches.
            sources = chain(_once(sources, but={each.path for each in readme}), readme)
            reading = ((source, self._sections(source, look, use_cache)) for source in sources)
            collected = _collect(reading, keywords, budget * _BYTES_PER_TOKEN_AT_MOST, look)
            _hold(self._held, key, (tuple(look.stamps.items()), collected), _CONTEXTS_HELD)
        return collected, "miss" if look.reads else "hit"

    def _sections(self, source: Source, look: Look, use_cache: bool) -> tuple[Section, ...]:
        """Return a file's sections; its text is read only if it changed, and parsed only if new."""
        status = look.file(source.path)
        if status is None:
            return ()
        stamp = look.stamps[source.path]
        known = self._known.get(source.path) if use_cache else None
        if known is not None and known[0] == stamp:
            if known[1] in PassedOver.__slots__:
                look.passed_over[source.path] = known[1]
                return ()
            held = self._claude_md_cache.get(known[1])
            if held is not None:
                return held["content"]
        data = look.read(source.path, status, self.max_file_bytes)
        outcome, sections = self._parse(data, source.markdown, use_cache)
        if outcome in PassedOver.__slots__:
            look.passed_over[source.path] = outcome
        if stamp is not None and outcome != "large":  # how large it may be can be changed
            _hold(self._known, source.path, (stamp, outcome), _FILES_HELD)
        return sections

    def _parse(
        self, data: bytes | str, markdown: bool, use_cache: bool
    ) -> tuple[str, tuple[Section, ...]]:
        """Return the key that a text's sections are held by, or why it has none, and these."""
        if isinstance(data, str):
            return data, ()
        # The same text in a file of another kind has other sections.
        key = hashlib.sha256(data).hexdigest() + ("" if markdown else ":text")
        held = self._claude_md_cache.get(key) if use_cache else None
        if held is None:
            try:
                text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
            except UnicodeDecodeError:
                return "not_utf8", ()
            sections = split_sections(text, markdown=markdown)
            held = {"content": sections, "timestamp": time.time()}
        _hold(self._claude_md_cache, key, held, _FILES_HELD)
        return key, held["content"]


def _once(sources: Iterable[Source], *, but: set[str]) -> Iterator[Source]:
    for source in sources:
        if source.path not in but:
            but.add(source.path)
            yield source


def _collect(
    reading: Iterator[tuple[Source, tuple[Section, ...]]],
    keywords: tuple[str, ...],
    max_bytes: int,
    look: Look,
) -> Collected:
    """Put together what is told; files beyond what could ever fit are not even read."""
    asked_for = speaks_of(keywords)
    told: set[bytes] = set()
    parts = [_TITLE]
    files, starts = [], []
    size = len(_TITLE)
    for source, sections in reading:
        texts = []
        for section in sections:
            always = source.kept == "all" or (source.kept == "preface" and section.preface)
            if section.identity not in told and (always or asked_for(section)):
                told.add(section.identity)
                texts.append(section.text)
        if not texts:
            continue
        heading = f"## {source.name}"
        parts += [heading, *texts]
        files.append(source.name)
        starts.append(size + len(heading.encode()) + 2 * len(BETWEEN))
        size = starts[-1] + len(BETWEEN.join(texts).encode())
        if size > max_bytes:
            break
    text = BETWEEN.join(parts) if files else ""
    text, truncated = _cut(text, max_bytes)
    passed_over = look.counts()
    collected = Collected(
        text,
        tuple(files),
        tuple(starts),
        passed_over,
        truncated or passed_over.not_walked > 0,
        hashlib.sha256(text.encode()).hexdigest(),
    )
    left = collected.files_in(text)
    return replace(collected, files=left, starts=collected.starts[: len(left)])


def _cut(text: str, max_bytes: int) -> tuple[str, bool]:
    data = text.encode()
    if len(data) <= max_bytes:
        return text, False
    places = places_to_cut(data)
    last = bisect_right(places, max_bytes - len(_CUT)) - 1
    return (data[: places[last]].decode() + _CUT if last >= 0 else ""), True


def _hold(held: dict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Keep a value as the newest, and let go of the one that was not asked for the longest."""
    held.pop(key, None)
    held[key] = value
    while len(held) > most:
        # In one step, and not with iter(): another thread may add one between two.
        held.pop(list(held)[0], None)  # noqa: RUF015


_NOTHING = Collected(
    "", (), (), PassedOver(), truncated=False, sha256=hashlib.sha256(b"").hexdigest()
)
