"""Fixtures of the models' tests."""

from tests.road_fixtures import _stop_servers, embedded, server, weights

__all__ = ["_stop_servers", "embedded", "server", "weights"]
