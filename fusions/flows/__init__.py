"""Flows: learned densities with tracked Jacobians."""
