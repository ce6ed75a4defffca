"""Nested sampling: live points from the prior, its levels, and the schedule."""
