"""Transport along the velocity field with its log-determinant (the only file that knows diffrax)."""

import diffrax
import jax
import jax.numpy as jnp


def exact_divergence(velocity, y, most=None):
    """Evaluate the velocity (n, d) and its exact divergence (n,) by d forward-mode products, at most `most` of them at once."""
    v, jvp = jax.linearize(velocity, y)
    d = y.shape[1]
    basis = jnp.broadcast_to(jnp.eye(d, dtype=y.dtype)[:, None], (d, *y.shape))
    columns = jax.vmap(jvp)(basis) if most is None or most >= d else jax.lax.map(jvp, basis, batch_size=most)
    return v, jnp.einsum("ini->n", columns)


def hutchinson_divergence(velocity, y, probes):
    """Evaluate the velocity (n, d) and an unbiased estimate (n,) of its divergence.

    Mean over m probes e (m, n, d), with E[e e^T] = 1, of e . (dv/dy e) (Grathwohl et al. 2019, arXiv:1810.01367).
    """
    v, jvp = jax.linearize(velocity, y)
    return v, jnp.mean(jnp.sum(probes * jax.vmap(jvp)(probes), axis=-1), axis=0)


def transport(velocity, y, *, steps, backward=False, probes=None, divergence=True, most=None):
    """Solve dy/dt = v(y, t) with its divergence by Tsitouras' 5th order method at constant steps.

    The whole batch shares the steps, so no row waits for a slower one.

    Parameters
    ----------
    velocity : function (y (n, d), t ()) -> (n, d).
    y : (n, d) starting points, at t = 0 (t = 1 if backward).
    steps : number of steps.
    backward : solve from t = 1 to t = 0; may be traced.
    probes : (m, n, d) random probes for Hutchinson's estimate, None for the exact divergence.
    divergence : whether to compute it; without it the log-determinant is zero.
    most : products of the exact divergence that are computed at once, or None for all d.

    Returns
    -------
    y : (n, d) end points.
    logdet : (n,) integral of the divergence from t = 0 to t = 1 along the path, ln|dy(1)/dy(0)|.
    """
    sign = jnp.where(backward, -1, 1).astype(y.dtype)

    def field(s, state, args):
        del args
        at_t = lambda y: sign * velocity(y, jnp.where(backward, 1 - s, s))  # noqa: E731
        if not divergence:
            return at_t(state[0]), jnp.zeros_like(state[1])
        return exact_divergence(at_t, state[0], most) if probes is None else hutchinson_divergence(at_t, state[0], probes)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        0.0,
        1.0,
        1.0 / steps,
        (y, jnp.zeros_like(y[:, 0])),
        max_steps=steps + 1,
        adjoint=diffrax.ForwardMode(),
        throw=False,
    )
    return solution.ys[0][0], sign * solution.ys[1][0]


def trajectory(velocity, y, times, *, steps):
    """Solve dy/dt = v(y, t) from t = 0 to t = 1 and look at the points on the way.

    Parameters
    ----------
    velocity : function (y (n, d), t ()) -> (n, d).
    y : (n, d) starting points.
    times : (m,) increasing times in [0, 1].
    steps : number of steps.

    Returns
    -------
    (m, n, d) points at these times, interpolated between steps.
    """
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: velocity(y, t)),
        diffrax.Tsit5(),
        0.0,
        1.0,
        1.0 / steps,
        y,
        saveat=diffrax.SaveAt(ts=times),
        max_steps=steps + 1,
        throw=False,
    )
    return solution.ys
