"""Algorithms: how a population moves towards the posterior."""
