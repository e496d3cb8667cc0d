"""Fixtures of the services' tests."""

from tests.road_fixtures import server

__all__ = ["server"]
