"""Transport along the velocity field with its log-determinant (the only file that knows diffrax)."""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fusions.types import Array


def with_divergence(velocity: Callable[[Array], Array], w: Array, most: int | None = None) -> tuple[Array, Array]:
    """Evaluate a velocity (n, d) and its divergence (n,) by d forward-mode products.

    Parameters
    ----------
    velocity : function w (n, d) -> (n, d), each row on its own.
    w : (n, d) points.
    most : products that are computed at once, or None for all.
    """
    v, jvp = jax.linearize(velocity, w)
    d = w.shape[1]
    basis = jnp.broadcast_to(jnp.eye(d, dtype=w.dtype)[:, None], (d, *w.shape))
    columns = jax.vmap(jvp)(basis) if most is None or most >= d else jax.lax.map(jvp, basis, batch_size=most)
    return v, jnp.einsum("ini->n", columns)


def transport(
    velocity: Callable[[Array, Array], Array],
    w: Array,
    *,
    steps: int,
    backward: ArrayLike = False,
    divergence: bool = True,
    most: int | None = None,
) -> tuple[Array, Array]:
    """Solve dw/dt = v(w, t) with its divergence by Tsitouras' 5th order method at constant steps.

    The whole batch shares the steps, so no row waits for a slower one.

    Parameters
    ----------
    velocity : function (w (n, d), t ()) -> (n, d).
    w : (n, d) starting points, at t = 0 (t = 1 if backward).
    steps : number of steps.
    backward : solve from t = 1 to t = 0; may be traced.
    divergence : whether to compute it; without it the log-determinant is zero.
    most : products of the divergence that are computed at once, or None for all d.

    Returns
    -------
    w : (n, d) end points.
    logdet : (n,) integral of the divergence from t = 0 to t = 1 along the path, ln|dw(1)/dw(0)|.
    """
    sign = jnp.where(backward, -1, 1).astype(w.dtype)

    def field(s, state, args):
        del args
        at_t = lambda w: sign * velocity(w, jnp.where(backward, 1 - s, s))  # noqa: E731
        if not divergence:
            return at_t(state[0]), jnp.zeros_like(state[1])
        return with_divergence(at_t, state[0], most)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        0.0,
        1.0,
        1.0 / steps,
        (w, jnp.zeros_like(w[:, 0])),
        max_steps=steps + 1,
        adjoint=diffrax.ForwardMode(),
        throw=False,
    )
    return solution.ys[0][0], sign * solution.ys[1][0]


def trajectory(velocity: Callable[[Array, Array], Array], w: Array, times: Array, *, steps: int) -> Array:
    """Solve dw/dt = v(w, t) from t = 0 to t = 1 and look at the points on the way.

    Parameters
    ----------
    velocity : function (w (n, d), t ()) -> (n, d).
    w : (n, d) starting points.
    times : (m,) increasing times in [0, 1].
    steps : number of steps.

    Returns
    -------
    (m, n, d) points at these times, interpolated between steps.
    """

    def field(t, w, args):
        del args
        return velocity(w, t)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        0.0,
        1.0,
        1.0 / steps,
        w,
        saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
        max_steps=steps + 1,
        throw=False,
    )
    return solution.ys
