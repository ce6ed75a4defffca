"""Is dark energy a cosmological constant? Flat LCDM against flat wCDM by cobaya, on the baryon acoustic oscillations of DESI DR1.

Data: table 1 of the DESI Collaboration, "DESI 2024 VI", arXiv:2404.03002 (JCAP 02 (2025) 021): comoving distance D_M, Hubble distance D_H
or their average D_V = (z D_M^2 D_H)^(1/3), in units of the sound horizon r_d. Redshift bins are taken as independent.

python examples/cobaya_bao.py [n_live]
"""

import math
import sys

import numpy as np
from cobaya.run import run
from scipy.linalg import block_diag

AVERAGED = ((0.295, 7.93, 0.15), (1.491, 26.07, 0.67))  # z, D_V/r_d, its error
PAIRS = (  # z, D_M/r_d, its error, D_H/r_d, its error, their correlation
    (0.510, 13.62, 0.25, 20.98, 0.61, -0.445), (0.706, 16.85, 0.32, 20.08, 0.60, -0.420), (0.930, 21.71, 0.28, 17.88, 0.35, -0.389),
    (1.317, 27.79, 0.69, 13.82, 0.42, -0.444), (2.330, 39.71, 0.94, 8.52, 0.17, -0.477),
)  # fmt: skip
Z = np.array([row[0] for row in (*AVERAGED, *PAIRS)])
DATA = np.array([row[1] for row in AVERAGED] + [value for row in PAIRS for value in (row[1], row[3])])
COVARIANCE = block_diag(
    *([[row[2] ** 2]] for row in AVERAGED), *([[a * a, r * a * b], [r * a * b, b * b]] for _, _, a, _, b, r in PAIRS)
)  # fmt: skip
PRECISION = np.linalg.inv(COVARIANCE)
NORM = -0.5 * (len(DATA) * math.log(2 * math.pi) + np.linalg.slogdet(COVARIANCE)[1])
HUBBLE = 2997.92458  # c / (100 km/s/Mpc) [Mpc]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
PRIORS = {"Om": (0.01, 0.99), "hrd": (50.0, 200.0), "w": (-3.0, 1.0)}  # matter density, h r_d [Mpc], equation of state
LATEX = {"Om": r"\Omega_\mathrm{m}", "hrd": r"h r_\mathrm{d}", "w": "w"}
MODELS = {"LCDM": ("Om", "hrd"), "wCDM": ("Om", "hrd", "w")}


def expansion(z, Om, w):
    """Compute E(z) = H(z) / H0 of a flat universe of matter and dark energy."""
    return np.sqrt(Om * (1 + z) ** 3 + (1 - Om) * (1 + z) ** (3 * (1 + w)))


def distances(Om, w):
    """Compute the data (12,) in units of c / H0 instead of r_d; Om and w may be arrays (..., 1)."""
    comoving = np.stack([z / 2 * np.sum(WEIGHTS / expansion(z / 2 * (NODES + 1), Om, w), axis=-1) for z in Z], axis=-1)
    hubble = 1 / expansion(Z, Om, w)
    n, pairs = len(AVERAGED), np.stack([comoving, hubble], axis=-1)[..., len(AVERAGED) :, :]
    averaged = np.cbrt(Z * comoving**2 * hubble)[..., :n]
    return np.concatenate([averaged, pairs.reshape(*pairs.shape[:-2], -1)], axis=-1)


def bao(Om, hrd, w=-1.0):
    """Compute ln L."""
    residual = DATA - HUBBLE / hrd * distances(Om, w)
    return NORM - 0.5 * residual @ PRECISION @ residual


def exact_logZ(name, n=81):
    """Compute ln Z by the trapezoidal rule on a grid; chi^2 is quadratic in 1/hrd."""
    w_grid = np.linspace(*PRIORS["w"], n) if name == "wCDM" else np.array([-1.0])
    Om, w = np.meshgrid(np.linspace(*PRIORS["Om"], 2 * n), w_grid, indexing="ij")
    shape = distances(Om[..., None], w[..., None])
    scale = HUBBLE / np.linspace(*PRIORS["hrd"], 4 * n)
    a, b = np.einsum("...i,ij,...j", shape, PRECISION, shape), shape @ PRECISION @ DATA
    logL = NORM - 0.5 * (scale**2 * a[..., None] - 2 * scale * b[..., None] + DATA @ PRECISION @ DATA)
    peak, mean = logL.max(), np.exp(logL - logL.max())
    for size in reversed(logL.shape):
        ends = np.ones(size)
        ends[[0, -1]] = 0.5 if size > 1 else 1.0
        mean = mean @ ends / ends.sum()
    return float(peak + math.log(mean))


def info(name, n_live, **options):
    """Return cobaya's input for a model, with the deceleration parameter q0 as derived parameter."""
    params = {key: {"prior": dict(zip(("min", "max"), PRIORS[key], strict=True)), "latex": LATEX[key]} for key in MODELS[name]}
    params["q0"] = {
        "derived": "lambda Om, w: 0.5 + 1.5 * w * (1 - Om)" if "w" in params else "lambda Om: 0.5 - 1.5 * (1 - Om)", "latex": "q_0",
    }  # fmt: skip
    likelihood = (lambda Om, hrd, w: bao(Om, hrd, w)) if "w" in params else (lambda Om, hrd: bao(Om, hrd))
    return {
        "params": params,
        "likelihood": {"bao": likelihood},
        "sampler": {"fusions.adapters.cobaya.Fusions": {"n_live": n_live, **options}},
    }


def main(n_live=500, **options):
    """Run both models; print ln Z and ln B beside the exact values."""
    products = {name: run(info(name, n_live, seed=0, **options))[1].products() for name in MODELS}
    exact = {name: exact_logZ(name) for name in MODELS}
    for name, found in products.items():
        print(f"{name}: ln Z = {found['logZ']:.3f} +- {found['logZstd']:.3f}, exact {exact[name]:.3f}")
        print(found["result"])
    one, other = products["LCDM"], products["wCDM"]
    error = math.hypot(one["logZstd"], other["logZstd"])
    print(f"ln B (LCDM : wCDM) = {one['logZ'] - other['logZ']:.3f} +- {error:.3f}, exact {exact['LCDM'] - exact['wCDM']:.3f}")
    return products


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
