"""Fixtures of the agents' tests."""

from tests.road_fixtures import _stop_servers, embedded, weights

__all__ = ["_stop_servers", "embedded", "weights"]
