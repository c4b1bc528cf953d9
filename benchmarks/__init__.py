"""The cost of a token, here and in comparable packages. `python -m benchmarks --help`."""
