"""Measured serving points, what simserve predicts for them, and how far off it is; `simserve validate`."""
