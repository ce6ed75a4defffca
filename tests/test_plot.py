"""Figures: what they contain, and what they must leave alone."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from ledgers import gaussian_ball, half_zero, make_result, wedding_cake
from matplotlib.figure import Figure

from fusions.errors import OptionError
from fusions.plot import corner, insertion_plot, level_plot, run_plot, save_all


@pytest.fixture(scope="module")
def result():
    return make_result(n_live=200, n_kill=20)


def texts(figure):
    """Return every text of a figure."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


def test_save_all_writes_four_pictures(result, tmp_path):
    paths = save_all(result, tmp_path / "new" / "figures")
    assert [p.name for p in paths] == ["corner.png", "run.png", "insertion.png", "levels.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 10_000 for p in paths)


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
    figure = level_plot(replace(result, level_trace={**result.level_trace, "two_halves": np.ones((9, 2))}))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == ["replacements per call", "held-out loss of the flow", "acceptance of moves"]
    assert {"step scale", "unique live points", "two halves"} <= set(titles)
    efficiency = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(efficiency[1:], 0.25)


def test_nothing_to_show_is_said_in_words(result, tmp_path):
    empty = replace(
        result,
        logL=np.full(len(result.logL), -np.inf),
        insertion_uniforms=np.empty(0),
        level_trace={},
    )
    for draw in (corner, run_plot, insertion_plot, level_plot):
        assert any(t.startswith("No ") for t in texts(draw(empty)))
    assert len(save_all(empty, tmp_path)) == 4


def test_plots_leave_backend_figures_and_random_state_alone(result):
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    matplotlib.use("svg")
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    try:
        for draw in (corner, run_plot, insertion_plot, level_plot):
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
