"""Figures: what they contain, and what they must leave alone."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from ledgers import gaussian_ball, half_zero, make_refinement, make_result, wedding_cake
from matplotlib.figure import Figure

from fusions.errors import OptionError
from fusions.plot import animate, budget_plot, corner, evidence_plot, flow_plot, insertion_plot, level_plot, page, run_plot, save_all

DRAWINGS = (page, corner, run_plot, evidence_plot, insertion_plot, level_plot, budget_plot)


@pytest.fixture(scope="module")
def result():
    return make_result(n_live=200, n_kill=20)


def texts(figure):
    """Return every text of a figure."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def test_save_all_writes_every_picture(result, tmp_path):
    paths = save_all(result, tmp_path / "new" / "figures")
    assert [p.stem for p in paths] == ["page", "corner", "run", "evidence", "insertion", "levels", "budget"]
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 10_000 for p in paths)


def test_notebooks_show_figures_without_pyplot(result):
    assert insertion_plot(result)._repr_png_().startswith(b"\x89PNG")


def test_corner_shows_labels_of_the_parameters(result):
    shown = texts(corner(result))
    for label in (r"$x_{\mathrm{in}}$", r"$\omega$", "theta_w"):
        assert label in shown
    assert not any("r^2" in t for t in shown)
    assert any("my problem" in t for t in shown)


def test_corner_of_chosen_columns(result):
    figure = corner(result, ["r2"])
    assert "$r^2$" in texts(figure)
    assert "posterior density" in texts(figure)


@pytest.mark.parametrize("params", [["r3"], "x", []])
def test_corner_names_unknown_columns(result, params):
    with pytest.raises(OptionError, match=r"Expected a list out of \['x', 'y'"):
        corner(result, params)


def test_corner_skips_constant_and_survives_broken_columns(result):
    theta = result.theta.copy()
    theta[:, 0] = 3.0
    theta[::7, 4] = np.nan
    figure = corner(replace(result, theta=theta))
    assert r"$x_{\mathrm{in}}$" not in texts(figure)
    assert isinstance(corner(replace(result, theta=theta), ["y", "r2"]), Figure)


def test_corner_of_few_points_draws_them():
    few = make_result(n_live=20, n_kill=2, log_remaining=-0.1)
    assert isinstance(corner(few), Figure)


def test_run_plot_counts_points_out_of_sight():
    figure = run_plot(make_result(half_zero(wedding_cake()), n_live=60))
    assert any("points lie below" in t for t in texts(figure))
    assert r"$\ln L$" in texts(figure)


def test_insertion_plot_says_p(result):
    assert any(f"p = {result.insertion_pvalue:.2g}" in t for t in texts(insertion_plot(result)))
    assert isinstance(insertion_plot(replace(result, insertion_uniforms=np.zeros(1000))), Figure)


def test_level_plot_computes_efficiency_and_shows_every_key(result):
    figure = level_plot(replace(result, level_trace={**result.level_trace, "two_halves": np.arange(18.0).reshape(9, 2)}))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == ["replacements per call", "held-out loss of the flow", "acceptance of moves"]
    assert {"step scale", "two halves"} <= set(titles)
    assert "the same at all levels: unique live points 100" in texts(figure)
    efficiency = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(efficiency[1:], 0.25)


def test_nothing_to_show_is_said_in_words(result, tmp_path):
    empty = replace(
        result,
        logL=np.full(len(result.logL), -np.inf),
        insertion_uniforms=np.empty(0),
        level_trace={},
    )
    for draw in DRAWINGS:
        assert any(t.startswith(("No ", "Nothing ")) for t in texts(draw(empty)))
    assert len(save_all(empty, tmp_path)) == len(DRAWINGS)


def test_plots_leave_backend_figures_and_random_state_alone(result):
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    matplotlib.use("svg")
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    try:
        for draw in DRAWINGS:
            assert isinstance(draw(result), Figure)
        assert matplotlib.get_backend() == "svg"
        assert plt.get_fignums() == []
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    finally:
        matplotlib.use(before)


def test_ball_peaks_inside_of_the_run():
    figure = run_plot(make_result(gaussian_ball(), n_live=100, n_kill=10))
    patch = figure.axes[1].patches[0]
    values, edges = patch.get_data()[:2]
    assert 3 < edges[np.argmax(values)] < 6


# --- page, estimates, motion -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refined(result):
    """Return a result with the figures of a refine phase."""
    rng = np.random.default_rng(0)
    logZ = result.logZ + 0.1
    found = make_refinement(logZ, bridge=(logZ + 0.01, 0.02), coverage=(0.0, 0.02), rounds=((logZ, 0.02, 0.7),))
    return replace(result, refined=found, draws=rng.normal(size=(4000, 5)), draws_logw=rng.normal(scale=0.3, size=4000))


def test_page_shows_evidence_status_and_warnings(refined):
    told = replace(refined, info={**refined.info, "warnings": ["look <here>"] * 5})
    shown = texts(told.plot())
    assert any("my problem" in t for t in shown)
    assert any(told.status.value in t for t in shown)
    assert any("all 5 warnings" in t for t in shown)
    assert "importance" in shown
    assert "$r^2$" not in shown
    assert "$r^2$" in texts(told.plot(["r2", "x"]))


def test_page_of_a_run_too_short_for_ranks(result):
    assert any("too few replacements" in t for t in texts(page(replace(result, insertion_uniforms=np.empty(0)))))


def test_evidence_plot_sets_estimates_side_by_side(refined):
    figure = evidence_plot(refined, {"exact": (-3.0, 0.0)})
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["volumes", "round 1", "bridge", "importance", "exact"]
    wanted = [refined.evidence.logZ, refined.logZ, refined.logZ + 0.01, refined.logZ, -3.0]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] == pytest.approx(wanted)
    with pytest.raises(OptionError, match=r"Expected others=\{name: \(ln Z, error\)\}, got 'exact': -3.0"):
        evidence_plot(refined, {"exact": -3.0})


def test_budget_names_sources_and_clocks(refined, result):
    top, bottom = budget_plot(refined).axes
    assert len(top.patches) == 5
    assert "0.01" in [t.get_text() for t in top.texts]
    assert [t.get_text() for t in bottom.get_legend().get_texts()] == ["likelihood 3 %", "training 40 %", "moves 45 %", "rest 12 %"]
    assert len(budget_plot(result).axes[0].patches) == 1


def test_animation_follows_the_live_points(result, tmp_path):
    from PIL import Image

    path = animate(result, tmp_path / "new" / "live.gif", ["x", "r2"], n_frames=5)
    with Image.open(path) as image:
        assert image.n_frames >= 5
        assert image.size == (400, 368)
    with pytest.raises(OptionError, match="Expected params to name two columns"):
        animate(result, tmp_path / "live.gif", ["x"])


class Straight:
    """A source whose flow carries points along straight lines, and one of them round the circle."""

    has_velocity = True

    def paths(self, n, times, key):
        theta = np.random.default_rng(key).normal(size=(1, n, 4)) * times[:, None, None]
        theta[:, 0, 0] = np.where(times < 0.5, -3.0, 3.0)
        return theta


def test_flow_plot_draws_paths_and_breaks_them_at_jumps(result):
    figure = flow_plot(replace(result, source=Straight()), ["x", "y"], n=20)
    assert [ax.get_title() for ax in figure.axes] == ["base (t = 0)", "paths", "flow (t = 1)"]
    lines = figure.axes[1].lines
    assert len(lines) == 22
    assert np.isnan(lines[0].get_xdata()).sum() == 1
    assert not np.isnan(lines[1].get_xdata()).any()
    assert any("No flow to show" in t for t in texts(flow_plot(result)))
    at_rest = Straight()
    at_rest.has_velocity = False
    assert any("The flow is at rest" in t for t in texts(flow_plot(replace(result, source=at_rest))))
    with pytest.raises(OptionError, match="flows carry no derived ones"):
        flow_plot(replace(result, source=Straight()), ["x", "r2"])
