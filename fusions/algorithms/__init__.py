"""Algorithms on arrays and functions: nested sampling and the refine phase. They know no problem and no file."""
