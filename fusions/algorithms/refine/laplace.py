"""The Gaussian at the top of a mode: climb from a point of it, measure the curvature there."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

STEP = 0.03  # of the scale given, of finite differences on the way
GRADIENT = 0.01  # per scale given, at which the climb is over
MOST_STEPS = 40  # gradients on the way
ROUNDS = 3  # of measuring widths along axes
CHANGE = 5.0  # times, by which a round may change a width
NARROWEST, WIDEST = 0.1, 3.0  # standard deviations along combined axes, in units of those along each
WALL = 1e10  # instead of an infinite - ln(prior x likelihood): a line search steps back from it


def laplace(x: np.ndarray, scale: np.ndarray, evaluate: Callable, bounds: np.ndarray, known: Callable):
    """Approximate a mode by a Gaussian at its top.

    L-BFGS-B (Byrd et al. 1995, doi:10.1137/0916069) climbs by finite differences: a likelihood needs no gradients of its own. Along the
    axes that it found the widths are measured at one standard deviation on either side, and then the curvature between each two axes.

    Parameters
    ----------
    x, scale : (d,) where to start, and about how wide the mode is.
    evaluate : x (m, d) -> ln(prior x likelihood) (m,).
    bounds : (2, d), infinite where there are none.
    known : x (d,) -> whether it belongs to a mode that is known, so that the climb may end.

    Returns
    -------
    x (d,), covariance (d, d), None if the mode is known; ln of its integral if it were this Gaussian; likelihood calls.
    """
    d, n_calls = len(x), 0

    def height(rows):
        nonlocal n_calls
        n_calls += len(rows)
        return np.nan_to_num(evaluate(rows), nan=-WALL, neginf=-WALL)

    low, high = (bounds - x) / scale

    def downhill(z):
        step = np.where(z + STEP < high, STEP, -STEP)
        f = -height(x + scale * (z + np.concatenate([np.zeros((1, d)), np.diag(step)])))
        return f[0], (f[1:] - f[0]) / step

    def arrived(z):
        if known(x + scale * z):
            raise StopIteration

    options = {"maxfun": MOST_STEPS, "maxcor": 2 * d, "ftol": 1e-5, "gtol": GRADIENT}
    end = minimize(downhill, np.zeros(d), jac=True, method="L-BFGS-B", bounds=np.transpose([low, high]), options=options, callback=arrived)
    top = x + scale * end.x
    if known(top):
        return top, None, -np.inf, n_calls
    variances, axes = np.linalg.eigh(end.hess_inv.todense() * np.outer(scale, scale))
    axes = axes * np.sqrt(np.maximum(variances, np.finfo(float).tiny))  # columns of one standard deviation
    cov = _curvature(top, axes, -end.fun, height)
    return top, cov, -end.fun + 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1], n_calls


def _curvature(top, axes, best, height):
    """Measure the covariance (d, d) at the top from heights along axes (d, d), which are columns, and between them."""
    d = len(top)
    for _ in range(ROUNDS):
        up, down = height(np.concatenate([top + axes.T, top - axes.T])).reshape(2, d)
        up, down = np.where(up > -WALL, up, down), np.where(down > -WALL, down, up)  # outside it is as inside
        axes = axes / np.sqrt(np.clip(2 * best - up - down, CHANGE**-2, CHANGE**2))
    i, j = np.triu_indices(d, 1)
    up = height(top + axes.T)
    both = height(top + axes.T[i] + axes.T[j])
    hessian = np.eye(d)
    hessian[i, j] = hessian[j, i] = np.where(np.minimum(np.minimum(up[i], up[j]), both) > -WALL, up[i] + up[j] - both - best, 0.0)
    variances, turn = np.linalg.eigh(hessian)
    axes = axes @ turn / np.sqrt(np.clip(variances, WIDEST**-2, NARROWEST**-2))
    return axes @ axes.T
