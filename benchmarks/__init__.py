"""What a token costs, here and in the packages that people use instead. `python -m benchmarks --help`."""
