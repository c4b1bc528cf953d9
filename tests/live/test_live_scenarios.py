"""The scenarios, against a real server."""

from scenarios import *  # noqa: F403 -- the tests are there, the server behind them is chosen here
