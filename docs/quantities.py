"""Posterior probabilities and means with exact values, by problem: {label: (function of theta (n, d) -> (n,), exact value)}."""

import math

import numpy as np
import oracles

# P(x1 < 0) and mean of the last parameter, by a transfer matrix
ROSENBROCK = {2: (0.08195, 1.2935), 4: (0.06264, 0.8180), 10: (0.02523, 0.5576), 20: (0.01893, 0.5206)}
TAIL10 = 0.03071  # P(x10 > 3) at 10 dimensions, the same way
PERIODS = {
    (3, 3.5): 0.01628, (3.5, 4): 0.05974, (5.5, 6): 0.04818, (6, 7): 0.12521, (11, 12): 0.05463, (12, 13): 0.69122,
    (10, 11): 0.00184, (20, 25): 0.00130, (25, 30): 0.00114,
}  # days: masses of the period modes of rv_a6, by quadrature  # fmt: skip


def near(centres, masses, what):
    """Make the masses of modes; a point belongs to the closest of the centres (k, d)."""

    def one(i):
        return lambda theta: np.argmin(np.sum((theta[:, None, : centres.shape[1]] - centres) ** 2, axis=2), axis=1) == i

    return {f"{what} {i + 1}": (one(i), mass) for i, mass in enumerate(masses)}


def quantities(name):
    """Return the quantities of a problem, empty if none is known."""
    family = name.rstrip("0123456789")
    if family == "rosenbrock":
        dim = int(name.removeprefix(family))
        below, mean = ROSENBROCK[dim]
        known = {"P(x1<0)": (lambda theta: theta[:, 0] < 0, below), f"E[x{dim}]": (lambda theta: theta[:, dim - 1], mean)}
        return known | ({"P(x10>3)": (lambda theta: theta[:, 9] > 3, TAIL10)} if dim == 10 else {})
    if family == "shells":
        return {"P(x1>0)": (lambda theta: theta[:, 0] > 0, 0.5)}
    if family == "loggamma":
        return near(np.array([[a, b] for a in (1 / 3, 2 / 3) for b in (1 / 3, 2 / 3)]), [0.25] * 4, "mode")
    if family == "mixture":
        weights, _, centres = oracles.mixture_modes(int(name.removeprefix(family)))
        return near(centres, weights, "mode")
    if name == "eggbox":
        places = [(i, j) for i in range(6) for j in range(6) if (i + j) % 2 == 0]
        inside = [0.5 ** sum(k in (0, 5) for k in place) for place in places]  # a mode on an edge is cut in half
        return near(2 * math.pi * np.array(places), [share / sum(inside) for share in inside], "mode")
    if name == "rv_a6":

        def period(low, high):
            return lambda theta: (theta[:, 0] > low) & (theta[:, 0] < high)

        return {f"P({low:g}-{high:g} d)": (period(low, high), mass) for (low, high), mass in PERIODS.items()}
    return {}


def measured(name, theta, logw):
    """Estimate the quantities of a problem from weighted points theta (n, d), logw (n,)."""
    w = np.exp(logw - logw.max())
    return {label: float(w @ function(theta) / w.sum()) for label, (function, _) in quantities(name).items()}
