"""The version of all packages; it is written here and nowhere else."""

__version__ = "0.2.0"
