"""Drawn videos with exact ground truth."""
