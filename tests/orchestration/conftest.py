"""Fixtures of the orchestration's tests."""

from tests.road_fixtures import _stop_servers, server, weights

__all__ = ["_stop_servers", "server", "weights"]
