"""The version of all three packages; it is written here and nowhere else."""

__version__ = "0.1.0"
