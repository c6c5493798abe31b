"""balletal finds ballet steps in video: which step, from when to when, how sure."""

__version__ = "0.1.0"
