"""Fixtures of the command line's tests."""

from tests.road_fixtures import server

__all__ = ["server"]
