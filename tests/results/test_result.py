"""Result: table, anesthetic, files, merging."""

import json
import re
from dataclasses import replace

import anesthetic
import numpy as np
import pytest
from ledgers import convention_shift, gaussian_ball, half_zero, make_refinement, make_result, wedding_cake

from fusions.errors import FileError, OptionError, Status
from fusions.evidence.importance import importance
from fusions.evidence.refinement import FindReport
from fusions.io.labels import math_label
from fusions.io.polychord import set_apart
from fusions.report.table import with_error
from fusions.results.merging import merge
from fusions.results.result import Result

PROBLEMS = {
    "ball": gaussian_ball(),
    "cake": wedding_cake(),
    "zero-half": half_zero(gaussian_ball()),
    "zero-cake": half_zero(wedding_cake(), 0.9),
}


@pytest.fixture(scope="module")
def result():
    return make_result(n_live=200, n_kill=20)


@pytest.fixture(scope="module", params=PROBLEMS)
def any_result(request):
    return make_result(PROBLEMS[request.param], n_kill=10)


def clones(result):
    """Return the result with one batch of replacements standing on the same point."""
    same = np.flatnonzero(result.logL_birth == result.logL_birth[len(result.logL) // 2])
    assert len(same) > 3
    theta, logL = result.theta.copy(), result.logL.copy()
    theta[same], logL[same] = theta[same[0]], logL[same].max()
    return replace(result, theta=theta, logL=logL)


# --- numbers and table -----------------------------------------------------------------------------


def test_attributes_agree_with_the_evidence(result):
    e = result.evidence
    assert (result.logZ, result.logZ_err, result.D_KL, result.d_G) == (e.logZ, e.logZ_err, e.D_KL, e.d_G)
    assert abs(result.logZ - gaussian_ball().logZ) < 4 * result.logZ_err
    assert 1 < result.ess < len(result.logL)
    assert result.n_unique_live == 200
    assert result.efficiency == (len(result.logL) - 200) / result.n_calls
    assert 0.001 < result.insertion_pvalue < 1
    assert replace(result, insertion_uniforms=result.insertion_uniforms[:19]).insertion_pvalue is None


def test_moments_of_the_posterior(result):
    mean, sd, mean_err, sd_err = result.moments()
    np.testing.assert_allclose(mean, [0, 0, 0, 0, 4], atol=0.35)
    np.testing.assert_allclose(sd, [1, 1, 1, 1, np.sqrt(8)], rtol=0.2)
    theta = result.theta.copy()
    theta[np.argsort(result.logL)[:3], 4] = np.nan
    zero = replace(result, theta=theta, logL=np.where(np.isnan(theta[:, 4]), -np.inf, result.logL))
    assert np.all(np.isfinite(zero.moments()))


def test_moments_do_not_feel_the_size_of_the_likelihood(result):
    """Weights are normalised once more, and a constant column is that constant."""
    theta = result.theta.copy()
    theta[:, 3] = 1126259456.0
    far = replace(result, theta=theta, logL=result.logL - 5e6, logL_birth=result.logL_birth - 5e6)
    mean, sd, *_ = far.moments()
    assert (mean[3], sd[3]) == (1126259456.0, 0.0)
    shifted = np.delete(np.array(far.moments()), 3, axis=1)
    np.testing.assert_allclose(shifted, np.delete(np.array(result.moments()), 3, axis=1), rtol=1e-7)


@pytest.mark.parametrize(
    ("constant", "logZ"),
    [(-5e7, "-50000005.10"), (40185.3, "40180.20"), (1e5, "99994.90"), (-1e12, "-1000000000005.10")],
)
def test_large_evidence_keeps_its_column(result, constant, logZ):
    lines = str(replace(result, logL=result.logL + constant, logL_birth=result.logL_birth + constant)).splitlines()
    assert max(map(len, lines)) <= 100
    (value,) = (line for line in lines if line.startswith("ln Z"))
    assert re.fullmatch(rf"ln Z {{15}}{logZ} \+- 0\.14 +log10 Z +-?\d+\.\d{{3}} \+- 0\.062", value), value
    assert value.index("log10 Z") == next(line for line in lines if line.startswith("D_KL")).index("model dimensionality")


def test_value_beyond_its_column_has_a_row_of_its_own(result):
    refined = make_refinement(-1e12, importance=(-1e12, 0.0038), bridge=(-1e12, 0.0042), rounds=((-1e12, 0.01, 0.9),))
    far = replace(result, logL=result.logL - 1e12, logL_birth=result.logL_birth - 1e12, refined=refined)
    lines = [
        line
        for line in str(replace(far, draws=far.theta, draws_logw=far.evidence.logw)).splitlines()
        if "log10 Z" in line or "ln Z" in line
    ]
    assert lines[0] == "ln Z               -1000000000000.0000 +- 0.0038"
    assert lines[1] == " " * 46 + "log10 Z               -434294481903.2518 +- 0.0017"


def test_table_of_a_converged_run(result):
    text = str(result)
    assert max(map(len, text.splitlines())) <= 100
    assert "Converged: the live points hold a negligible part of the evidence." in text
    assert f"ln Z               {with_error(result.logZ, result.logZ_err)}" in text
    for words in (
        "my problem", "seed 0", "traced likelihood", "log10 Z", "D_KL", "model dimensionality", "efficiency",
        "unique live points    200 of 200", "consistent with uniform (no sign of bias)", "posterior ESS",
        "12.1 s: likelihood 3 %, training 40 %, moves 45 %, rest 12 %;  2 compilations", "theta_w", "(derived)",
    ):  # fmt: skip
        assert words in text, words
    assert "INCOMPLETE" not in text
    assert "constraint" not in text
    assert "warnings" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("status", list(Status))
def test_incomplete_status_stands_out(result, status):
    text = str(replace(result, status=status))
    assert status.value in text
    marked = {Status.USER_RULE: "STOPPED EARLY"}.get(status, "!! INCOMPLETE !!")
    assert (marked in text.splitlines()[2]) is not status.complete
    assert ("Live points hold 0." in text) is not status.complete


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (1.0, "consistent with uniform"),
        (1.08, "doubtful: compare with a run of more moves per replacement"),
        (1.5, "replacements are biased: do not trust this ln Z"),
    ],
)
def test_insertion_words_follow_p(result, power, words):
    even = (np.arange(4000) + 0.5) / 4000
    assert words in " ".join(str(replace(result, insertion_uniforms=even**power)).split())


def test_table_says_how_a_constraint_enters(result):
    text = " ".join(str(replace(result, constraint_logmass=(np.log(0.25), 0.0123))).split())
    assert "ln Z is relative to the prior renormalised on the allowed region" in text
    assert "holds a fraction 0.25 of the prior: add ln f = -1.386 +- 0.012 for the unconstrained" in text


def test_table_wraps_long_words_and_lists_warnings(result):
    info = {"name": "long name " * 30, "warnings": ["first " * 40, "second"]}
    many = replace(result, info=info, names=("n" * 80, *result.names[1:]), status=Status.MAX_CALLS, n_calls=10**9)
    lines = str(many).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("- first" in line or "- second" in line for line in lines) == 2


def test_table_of_clones_plateaus_and_nothing():
    plateau = Result(("a",), 1, {}, np.zeros((50, 1)), np.zeros(50), np.full(50, np.nan), n_live=50, status=Status.PLATEAU)
    text = str(plateau)
    assert re.search(r"ln Z +0 \+- 0 ", text)
    assert "many clones" not in text
    assert "many clones" in str(replace(plateau, status=Status.MAX_CALLS))
    zero = replace(plateau, logL=np.full(50, -np.inf), status=Status.FAILED)
    assert "-inf +- unknown" in str(zero)
    nothing = replace(plateau, theta=np.empty((0, 1)), logL=np.empty(0), logL_birth=np.empty(0), status=Status.FAILED)
    assert "Failed: the run raised an error" in str(nothing)
    assert repr(nothing) == "<Result of run: ln Z = -inf +- unknown, FAILED>"


@pytest.mark.parametrize(
    ("value", "err", "text"),
    [
        (-5.8041, 0.0987, "-5.804 +- 0.099"),
        (-5.8041, 0.0999, "-5.80 +- 0.10"),
        (12345.6, 210.0, "12350 +- 210"),
        (2.0, 0.0, "2 +- 0"),
        (-2.2e-16, 1e-17, "0 +- 0"),
        (-0.001, 0.5, "0.00 +- 0.50"),
        (3.2e-9, 1.1e-10, "(3.20 +- 0.11)e-9"),
        (3.25e10, 2.4e8, "(3.250 +- 0.024)e10"),
        (-50000005.5373, 0.0038, "-50000005.5373 +- 0.0038"),
        (-1e12, 0.0038, "-1000000000000.0000 +- 0.0038"),
        (40185.3, 0.21, "40185.30 +- 0.21"),
        (1e5, 1.2, "100000.0 +- 1.2"),
        (-1e12, 210.0, "-1000000000000 +- 210"),
        (1126259456.0, 0.0, "1126259456 +- 0"),
        (1e16, 0.1, "1e+16 +- 0"),
        (-3.0, np.nan, "-3 +- unknown"),
        (np.nan, np.nan, "unknown"),
    ],
)
def test_precision_follows_the_error(value, err, text):
    assert with_error(value, err) == text


# --- anesthetic and files --------------------------------------------------------------------------


def test_samples_keep_every_point_and_label(any_result, recwarn):
    samples = any_result.samples()
    assert isinstance(samples, anesthetic.NestedSamples)
    assert len(samples) == len(any_result.logL)
    assert list(samples.drop_labels().columns)[:5] == list(any_result.names)
    assert samples.get_label("x") == r"$x_{\mathrm{in}}$"
    assert samples.get_label("y") == r"$\omega$"
    assert samples.get_label("z") == r"$\mathrm{speed\ }z\mathrm{\ [m/s]}$"
    assert samples.logZ() - any_result.logZ == pytest.approx(convention_shift(any_result), abs=3e-3)
    assert len(recwarn) == 0


def test_polychord_files_give_the_identical_evidence(any_result, tmp_path):
    paths = any_result.write_polychord(tmp_path / "chains" / "run.1")
    assert {p.name for p in paths} == {
        "run.1_dead-birth.txt", "run.1_phys_live-birth.txt", "run.1.paramnames",
    }  # fmt: skip
    assert np.loadtxt(paths[2]).shape == (any_result.n_live, 7)
    samples, read = any_result.samples(), anesthetic.read_chains(tmp_path / "chains" / "run.1")
    assert read.logZ() == samples.logZ()
    assert read.D_KL() == pytest.approx(samples.D_KL(), abs=1e-12)
    assert read.get_labels_map().to_dict() == samples.get_labels_map().to_dict()
    for name in any_result.names:
        np.testing.assert_array_equal(np.sort(read[name].to_numpy()), np.sort(samples[name].to_numpy()))


def test_csv_gives_the_identical_evidence(any_result, tmp_path):
    path = any_result.write_csv(tmp_path / "out" / "run.v1")
    assert path == tmp_path / "out" / "run.v1.csv"
    samples, read = any_result.samples(), anesthetic.read_chains(path)
    assert isinstance(read, anesthetic.NestedSamples)
    assert read.logZ() == pytest.approx(samples.logZ(), abs=1e-12)
    assert read.recompute().logZ() == pytest.approx(samples.logZ(), abs=1e-12)
    assert read.get_labels_map().to_dict() == samples.get_labels_map().to_dict()
    assert any_result.write_csv(path) == path


def test_files_keep_repeated_points(result, tmp_path):
    stuck = clones(result)
    stuck.write_polychord(tmp_path / "run")
    read = anesthetic.read_chains(tmp_path / "run")
    assert len(read) == len(stuck.logL)
    assert read.logZ() == stuck.samples().logZ()
    assert anesthetic.read_chains(stuck.write_csv(tmp_path / "run.csv")).logZ() == pytest.approx(stuck.samples().logZ(), abs=1e-12)


def test_polychord_files_keep_huge_negative_values_with_logzero(result, tmp_path):
    order = np.argsort(result.logL)
    logL, birth = result.logL.copy(), result.logL_birth.copy()
    logL[order[:30]] = -1e40 + np.arange(30) * 1e30
    birth[birth == result.logL[order[19]]] = logL[order[19]]
    floored = replace(result, logL=logL, logL_birth=birth)
    samples = floored.samples()
    assert len(samples) == len(logL)
    floored.write_polychord(tmp_path / "run")
    assert anesthetic.read_chains(tmp_path / "run", logzero=-np.inf).logZ() == samples.logZ()
    assert anesthetic.read_chains(floored.write_csv(tmp_path / "a")).logZ() == pytest.approx(samples.logZ())


def test_polychord_files_without_dead_points_and_with_odd_names(result, tmp_path):
    live = replace(
        result, theta=result.theta[:200], logL=result.logL[:200], logL_birth=np.full(200, np.nan),
        names=("x", "a b*", "z", "theta_w", "r2"),
    )  # fmt: skip
    result.write_polychord(tmp_path / "run")
    assert len(live.write_polychord(tmp_path / "run")) == 2
    read = anesthetic.read_chains(tmp_path / "run")
    assert read.logZ() == live.samples().logZ()
    assert read.get_label("a_b_") == r"$\mathrm{a\ b*}$"


def test_labels_become_mathematics_without_dollars():
    assert math_label(r"$\omega$") == math_label(r"\omega") == r"\omega"
    assert math_label("rate [1/s]") == r"\mathrm{rate\ [1/s]}"
    assert math_label("m_1 100% $v$") == r"\mathrm{m\_1\ 100\%\ }v"


def test_setting_rows_apart_changes_only_repeats():
    rows = np.array([[1.0, 2.0], [0.0, np.nan], [1.0, 2.0], [3.0, 2.0], [1.0, 2.0], [0.0, np.nan]])
    apart = set_apart(rows.copy())
    assert len(np.unique(apart, axis=0)) == len(rows)
    np.testing.assert_array_equal(apart[[0, 1, 3, 5]], rows[[0, 1, 3, 5]])
    np.testing.assert_allclose(apart, rows, rtol=1e-15)


# --- draws, Bayes factors, merging -------------------------------------------------------------------


def test_equal_weights_follow_the_posterior(result):
    draws = result.equal_weights()
    assert draws.shape == (int(result.ess), 5)
    np.testing.assert_allclose(draws.mean(0), result.moments()[0], atol=0.2)
    np.testing.assert_array_equal(result.equal_weights(50, key=3), result.equal_weights(50, key=3))
    assert not np.array_equal(result.equal_weights(50, key=3), result.equal_weights(50, key=4))
    with pytest.raises(OptionError, match="Expected n >= 1 draws, got 0"):
        result.equal_weights(0)


def test_bayes_factor_adds_errors(result):
    other = make_result(gaussian_ball(radius=9.0), seed=7, n_kill=10)
    log_B, err = result.log_bayes_factor(other)
    assert log_B == result.logZ - other.logZ
    assert err == pytest.approx(np.hypot(result.logZ_err, other.logZ_err))
    assert abs(log_B - (gaussian_ball().logZ - gaussian_ball(radius=9.0).logZ)) < 4 * err
    with pytest.raises(OptionError, match=r"Type a.log_bayes_factor\(b\)"):
        result.log_bayes_factor(3.0)
    with pytest.warns(UserWarning, match="MAX_TIME> is incomplete"):
        result.log_bayes_factor(replace(other, status=Status.MAX_TIME))


@pytest.mark.parametrize("name", PROBLEMS)
def test_merge_tightens_the_error(name):
    problem = PROBLEMS[name]
    parts = [
        make_result(problem, seed=1, n_live=50, n_kill=5, info={"warnings": ["w"]}),
        make_result(problem, seed=2, n_live=150, n_kill=5, status=Status.MAX_CALLS, info={"warnings": ["w", "v"]}),
    ]
    merged = merge(parts)
    assert merged.n_live == 200
    assert merged.logZ_err < min(p.logZ_err for p in parts)
    assert abs(merged.logZ - problem.logZ) < 4 * merged.logZ_err
    assert merged.status is Status.MAX_CALLS
    assert merged.n_calls == sum(p.n_calls for p in parts)
    assert merged.seconds["total"] == pytest.approx(24.2)
    assert merged.n_compilations == 4
    assert merged.level_trace == {}
    assert len(merged.insertion_uniforms) == sum(len(p.insertion_uniforms) for p in parts)
    assert merged.info["warnings"] == ["w", "v"]
    assert [p["seed"] for p in merged.info["parts"]] == [1, 2]
    live = np.concatenate([p.logL[-p.n_live :] for p in parts])
    np.testing.assert_array_equal(merged.logL[-200:], live)
    assert merged.samples().logZ() - merged.logZ == pytest.approx(convention_shift(merged), abs=3e-3)


def refined(seed, error=0.0):
    """Make a run on the ball, with draws from a flow whose ln Z has an error."""
    result, rng = make_result(gaussian_ball(), seed=seed, n_kill=10), np.random.default_rng(seed)
    logZ = gaussian_ball().logZ + error
    logw = logZ + rng.normal(-0.005, 0.1, 2000)  # of mean weight one
    found = importance(logw)
    fields = make_refinement(
        importance=(found.logZ, found.logZ_err), bridge=(logZ, 0.02), coverage=(0.0, 0.02), ess=found.ess, khat=found.khat, n_draws=2000,
        rounds=((found.logZ, found.logZ_err, 0.9),),
    )  # fmt: skip
    return replace(result, refined=fields, draws=result.theta[rng.integers(0, len(result.theta), 2000)], draws_logw=logw)


def test_merge_of_refined_runs_takes_their_draws_together(tmp_path):
    parts = [refined(seed) for seed in (1, 2)]
    merged = merge(parts)
    assert merged.headline.name == "importance"
    assert merged.logZ_err == pytest.approx(parts[0].logZ_err / np.sqrt(2), rel=0.1)
    assert abs(merged.logZ - gaussian_ball().logZ) < 4 * merged.logZ_err
    assert merged.refined.n_draws == len(merged.draws) == len(merged.posterior[1]) == 4000
    assert merged.refined.bridge[1] == pytest.approx(0.02 / np.sqrt(2))
    assert not merged.info["warnings"]
    merged.save(tmp_path)
    again = Result.load(tmp_path)
    assert str(again) == str(merged)
    assert again.refined == merged.refined
    mixed = merge([parts[0], replace(parts[1], refined=None)])
    assert mixed.refined is None
    assert mixed.headline.name == "volumes"


def test_merge_does_not_forget_what_a_part_found():
    parts = [refined(seed) for seed in (1, 2)]
    find = FindReport(name="round 1", logZ=parts[0].logZ + 7, logZ_err=1.0, khat=0.9, logL=14.28, at={"x": 0.37})
    parts[0] = replace(parts[0], refined=replace(parts[0].refined, finds=(find,)))
    both, without = merge(parts), merge([parts[0], replace(parts[1], refined=None)])
    assert both.logZ_err > 6.9
    assert any("log L = 14.28 at x=0.37" in text for text in both.headline.warnings)
    assert any(text.startswith("run 0 of the merged ones: round 1 of the refine phase found") for text in without.info["warnings"])


def test_merge_warns_of_runs_that_disagree():
    merged = merge([refined(1), refined(2, error=0.1)])
    assert any("runs 0 and 1 of the merged ones disagree" in note for note in merged.info["warnings"])


def test_merge_takes_the_worst_status():
    first, second = (make_result(gaussian_ball(), seed=s, n_kill=10) for s in (1, 2))
    for status in Status:
        assert merge([first, replace(second, status=status)]).status is (Status.CONVERGED if status is Status.CONVERGED else status)


def test_merged_run_survives_saving_and_files(tmp_path):
    merged = merge([make_result(half_zero(gaussian_ball()), seed=s, n_kill=10) for s in (1, 2)])
    merged.save(tmp_path / "saved")
    again = Result.load(tmp_path / "saved")
    assert again.evidence[:6] == merged.evidence[:6]
    again.write_polychord(tmp_path / "run")
    assert anesthetic.read_chains(tmp_path / "run").logZ() == merged.samples().logZ()


def test_merge_refuses_other_problems(result):
    other = replace(make_result(seed=5, n_kill=10), names=("x", "y", "q", "theta_w", "r2"))
    with pytest.raises(OptionError, match=r"only in 0: \['z'\], only in 1: \['q'\]"):
        merge([result, other])
    with pytest.raises(OptionError, match="same names, other prior"):
        merge([replace(result, info={"fingerprint": "a"}), make_result(seed=5, info={"fingerprint": "b"})])
    with pytest.raises(OptionError, match="Results 0 and 1 are the same run twice"):
        merge([result, replace(result)])
    for wrong in ([], [1]):
        with pytest.raises(OptionError, match="non-empty list of Results"):
            merge(wrong)


# --- saving ------------------------------------------------------------------------------------------


def test_save_and_load_give_everything_back(any_result, tmp_path):
    told = replace(any_result, info={**any_result.info, "number": np.float64(2), "list": np.arange(3)})
    told.save(tmp_path / "a" / "b")
    again = Result.load(tmp_path / "a" / "b")
    for name in ("theta", "logL", "logL_birth", "insertion_uniforms"):
        np.testing.assert_array_equal(getattr(again, name), getattr(told, name))
    for name in (
        "names",
        "n_params",
        "labels",
        "n_live",
        "status",
        "n_calls",
        "seconds",
        "constraint_logmass",
    ):
        assert getattr(again, name) == getattr(told, name)
    assert again.info == {**any_result.info, "number": 2.0, "list": [0, 1, 2]}
    assert list(again.level_trace) == list(told.level_trace)
    assert all(np.array_equal(again.level_trace[k], v) for k, v in told.level_trace.items())
    assert again.evidence[:6] == told.evidence[:6]
    assert str(again) == str(told)


def test_saving_again_replaces_the_run(result, tmp_path):
    make_result(seed=9, n_kill=10).save(tmp_path)
    result.save(tmp_path)
    assert Result.load(tmp_path).logZ == result.logZ
    assert len(list(tmp_path.iterdir())) == 2


def spoil(folder, **changes):
    """Change fields of a manifest; like one of an older version it has no checksum then."""
    path = folder / "result.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    path.write_text(json.dumps({**manifest, **changes}))


def test_load_says_what_is_wrong(result, tmp_path):
    with pytest.raises(FileError, match="found no result.json there. Give the folder"):
        Result.load(tmp_path / "nowhere")
    for damage, match in [
        (lambda d: (d / "result.json").write_text("{"), "is damaged"),
        (lambda d: (d / "result.json").write_text("[1]"), "was not written by fusions"),
        (lambda d: spoil(d, version=99), "format version 99, this fusions reads version 1"),
        (lambda d: next(d.glob("*.npz")).unlink(), "which is missing. Copy the whole folder"),
        (lambda d: next(d.glob("*.npz")).write_bytes(b"PK"), "truncated or changed"),
        (lambda d: spoil(d, status="FINE"), "lacks or contradicts a field"),
        (lambda d: spoil(d, names=["x"]), "lacks or contradicts a field"),
    ]:
        result.save(tmp_path)
        damage(tmp_path)
        with pytest.raises(FileError, match=match):
            Result.load(tmp_path)


def test_shapes_are_checked(result):
    with pytest.raises(OptionError, match=r"Expected theta \(\d+, 5\)"):
        replace(result, theta=result.theta[:, :2])
