"""The oracles of the tests as other samplers see them: log L in the unit cube, in double precision, every evaluation counted."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import oracles  # noqa: E402

EDGE = 1e-15  # distance that points keep from the faces of the cube, where a normal prior has no finite value
MOST_ROWS = 1 << 16  # of one compiled batch
NAMES = {"eggbox2": "eggbox", "funnel10": "box_funnel10"}  # where an oracle is called otherwise


def oracle(name):
    """Look up the oracle of a benchmark problem: a family's name with the dimension behind it."""
    name = NAMES.get(name, name)
    if name == "eggbox":
        return oracles.eggbox()
    family = name.rstrip("0123456789")
    return getattr(oracles, family)(int(name.removeprefix(family)))


class Target:
    """A problem in the unit cube, where the prior is uniform.

    Attributes
    ----------
    dim : number of parameters.
    n_calls : likelihood evaluations so far through `rows` and `row`.
    """

    def __init__(self, name):
        problem = oracle(name).problem
        self.dim, self.n_calls = problem.prior.dim, 0
        self._problem = problem
        self._compiled = jax.jit(jax.vmap(self.traceable))

    def traceable(self, u):
        """Evaluate log L at one point u (d,) in a JAX program; not counted."""
        x = jax.scipy.special.ndtri(jnp.clip(u, EDGE, 1 - EDGE))
        return self._problem.call_one(self._problem.prior.theta(x))[0]

    def rows(self, u):
        """Evaluate log L at points u (n, d), in batches padded to powers of two so that few sizes are compiled; returns (n,)."""
        u = np.atleast_2d(np.asarray(u, float))
        self.n_calls += len(u)
        parts = []
        for i in range(0, len(u), MOST_ROWS):
            part = u[i : i + MOST_ROWS]
            padded = np.full((1 << (len(part) - 1).bit_length(), self.dim), 0.5)
            padded[: len(part)] = part
            parts.append(np.asarray(self._compiled(padded), float)[: len(part)])
        return np.concatenate(parts) if parts else np.empty(0)

    def row(self, u):
        """Evaluate log L at one point u (d,); returns a float."""
        return float(self.rows(u)[0])
