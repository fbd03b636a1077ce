"""The version, beside nothing else, for every layer to read."""

__version__ = "0.1.0"
