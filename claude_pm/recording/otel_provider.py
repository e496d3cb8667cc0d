"""The OpenTelemetry provider whose spans a profile sees.

OpenTelemetry cannot take a span processor away again, so there is one of ours a provider, for the
process's life.

A program that uses the API and has set no provider makes no spans at all: then a profile sets one,
if the SDK is installed. It stays until the program sets its own, which takes its place. Without
the SDK nothing is recorded.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from weakref import ref

_API = "opentelemetry.trace"

_heard: list[ref[Any]] = []
"""The providers that have our processor; not every one can be a key."""
_ours: list[Any] = []
"""The provider that we have set, if we have."""
_new_processor: list[Callable[[], Any]] = []
_lock = threading.Lock()


def listen(new_processor: Callable[[], Any]) -> None:
    """Let the program's provider have a processor, now or when OpenTelemetry is first imported."""
    _new_processor[:] = [new_processor]
    if _API in sys.modules:
        _attach()
    elif _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)


def stop_waiting() -> None:
    """Wait no more for OpenTelemetry to be imported."""
    if _watch in sys.meta_path:
        sys.meta_path.remove(_watch)


def _attach() -> None:
    """Listen to the program's provider; set one if it has none and the SDK is there."""
    with _lock:
        try:
            from opentelemetry import trace

            provider = trace.get_tracer_provider()
            if isinstance(provider, trace.ProxyTracerProvider):
                _follow(trace)
                _set_ours(trace)
            else:
                _listen_to(provider)
        except Exception:  # noqa: BLE001 - no SDK, one half loaded, or another one than we know
            return


def _listen_to(provider: Any) -> None:
    if hasattr(provider, "add_span_processor") and not any(known() is provider for known in _heard):
        provider.add_span_processor(_new_processor[-1]())
        _heard.append(ref(provider))


def _set_ours(trace: ModuleType) -> None:
    ours = _new_stand_in(trace)
    _listen_to(ours)
    _ours.append(ours)
    if hasattr(trace, "_TRACER_PROVIDER"):
        # Not by set_tracer_provider(), which takes one provider, once: that is the program's.
        trace.__dict__["_TRACER_PROVIDER"] = ours
    else:
        trace.set_tracer_provider(ours)


def _new_stand_in(trace: Any) -> Any:
    """Return a provider whose tracers go over to the program's own when it has set that."""
    from opentelemetry.sdk.trace import TracerProvider

    class StandInTracer(trace.Tracer):  # type: ignore[misc]
        """A tracer of ours, or the program's own as soon as there is one."""

        def __init__(self, provider: Any, ours: Any, asked: Any) -> None:
            self._provider, self._ours, self._asked, self._theirs = provider, ours, asked, None

        def _now(self) -> Any:
            if self._theirs is None:
                provider = trace.get_tracer_provider()
                if provider is self._provider:
                    return self._ours
                positional, named = self._asked
                self._theirs = provider.get_tracer(*positional, **named)
            return self._theirs

        def start_span(self, *positional: Any, **named: Any) -> Any:
            return self._now().start_span(*positional, **named)

        def start_as_current_span(self, *positional: Any, **named: Any) -> Any:
            return self._now().start_as_current_span(*positional, **named)

    class StandIn(TracerProvider):
        """Makes spans for a program that has set no provider."""

        def get_tracer(self, *positional: Any, **named: Any) -> Any:
            return StandInTracer(
                self, super().get_tracer(*positional, **named), (positional, named)
            )

    return StandIn(shutdown_on_exit=False)


def _follow(trace: ModuleType) -> None:
    """Listen to the provider that the program sets from now on, too.

    OpenTelemetry takes only the first one: ours makes way for the program's own, which would be
    left without its spans.
    """
    set_provider = trace.set_tracer_provider
    if getattr(set_provider, "_follows", False):
        return

    @functools.wraps(set_provider)
    def set_tracer_provider(tracer_provider: Any) -> None:
        set_provider(tracer_provider)
        try:
            if trace.get_tracer_provider() is tracer_provider:
                _listen_to(tracer_provider)
        except Exception:  # noqa: BLE001 - not in the program's own code
            return

    set_tracer_provider.__dict__["_follows"] = True
    trace.__dict__["set_tracer_provider"] = set_tracer_provider


class _ImportWatch:
    """A finder that finds nothing, and attaches us when OpenTelemetry's API has been loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the others find, with a loader that calls us in the end."""
        del path, target
        if name != _API or self not in sys.meta_path:
            return None
        stop_waiting()
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _attach()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_watch = _ImportWatch()
