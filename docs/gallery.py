"""Run examples and draw the pictures of the documentation: python docs/gallery.py [NAME ...] (rosenbrock, exoplanet)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "examples"))

import exoplanet_rv  # noqa: E402
import rosenbrock  # noqa: E402

import fusions  # noqa: E402
from fusions import plot  # noqa: E402

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


def main(*names):
    """Draw the pictures of some examples, of all by default."""
    PICTURES.mkdir(exist_ok=True)
    drawings = {"rosenbrock": draw_rosenbrock, "exoplanet": draw_exoplanet}
    for name in names or drawings:
        drawings[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
