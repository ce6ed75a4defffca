"""The problem: parameters, prior, likelihood and its data, and what the likelihood's numbers can tell apart."""
