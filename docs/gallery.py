"""Run examples and draw the pictures of the documentation: python docs/gallery.py [NAME ...] (rosenbrock, exoplanet, replay)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))

import exoplanet_rv  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import rosenbrock  # noqa: E402

import fusions  # noqa: E402
from fusions import plot, priors  # noqa: E402

PICTURES = HERE / "pictures"
DPI = 90


def write(figure, name):
    """Write a figure into the folder of pictures."""
    figure.savefig(PICTURES / f"{name}.png", dpi=DPI)


def draw_rosenbrock():
    """Draw every figure of the valley."""
    result = rosenbrock.main()
    write(result.plot(), "rosenbrock-page")
    write(plot.corner(result), "rosenbrock-corner")
    write(plot.run_plot(result), "rosenbrock-run")
    write(plot.insertion_plot(result), "rosenbrock-insertion")
    write(plot.evidence_plot(result, {"exact": (rosenbrock.LOG_Z, 0.0)}), "rosenbrock-evidence")
    write(plot.budget_plot(result), "rosenbrock-budget")
    write(plot.level_plot(result), "rosenbrock-levels")
    ambitious = fusions.Refine(efficiency=0.95)  # more than kernels and Gaussians reach: its flows learn a velocity
    bent = fusions.run(rosenbrock.problem, fusions.nested(n_live=200, cost="expensive"), key=0, refine=ambitious)
    write(plot.flow_plot(bent), "rosenbrock-flow")
    plot.animate(result, PICTURES / "rosenbrock-live.gif")


def draw_exoplanet():
    """Draw the posterior of an orbit of many periods, and how its live points find them."""
    result = exoplanet_rv.main()["one planet"]
    write(result.plot(), "exoplanet-page")
    plot.animate(result, PICTURES / "exoplanet-live.gif", ["P", "phi"])


def four_modes():
    """Run four modes of shares 0.4, 0.3, 0.2, 0.1 in twenty dimensions."""
    centres = np.zeros((4, 20))
    centres[:, :2] = 4 * np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])
    variance = 0.25

    def loglikelihood(x):
        normal = -0.5 * jnp.sum((x - centres) ** 2 / variance + np.log(2 * np.pi * variance), axis=1)
        return jax.scipy.special.logsumexp(normal + np.log([0.4, 0.3, 0.2, 0.1]))

    prior = fusions.Prior(**{f"x{i}": priors.uniform(-10, 10) for i in range(20)})
    return fusions.run(fusions.Problem(prior, loglikelihood, array=True), key=0)


def draw_replay(result=None):
    """Draw the posterior of the nested run itself and of its replay, with the masses of the modes."""
    result = four_modes() if result is None else result
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
    for ax, title, samples in zip(axes, ("ledger()", "samples()"), (result.ledger(), result.samples()), strict=True):
        points = samples.posterior_points()
        left, up = points["x0"] < 0, points["x1"] > 0
        ax.plot(points["x0"], points["x1"], ",", color="tab:blue")
        for x, y, where in ((4, 4, ~left & up), (-4, 4, left & up), (4, -4, ~left & ~up), (-4, -4, left & ~up)):
            ax.text(x, y + 2.4, f"{where.mean():.3f}", ha="center")
        ax.set(title=title, xlabel="$x_0$", ylabel="$x_1$", xlim=(-8, 8), ylim=(-8, 8))
    write(figure, "replay")


def main(*names):
    """Draw the pictures of some examples, of all by default."""
    PICTURES.mkdir(exist_ok=True)
    drawings = {"rosenbrock": draw_rosenbrock, "exoplanet": draw_exoplanet, "replay": draw_replay}
    for name in names or drawings:
        drawings[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
