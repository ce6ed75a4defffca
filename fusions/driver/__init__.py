"""The driver of a run: from arguments to a result."""
