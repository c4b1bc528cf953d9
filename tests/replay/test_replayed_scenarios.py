"""The scenarios, replayed from cassettes."""

from scenarios import *  # noqa: F403 -- the tests are there, the server behind them is chosen here
