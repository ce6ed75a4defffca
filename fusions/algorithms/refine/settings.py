"""Settings of the refine phase."""

import dataclasses
from typing import Any

from fusions.flows.mixture import MixtureCNF
from fusions.kernels import Jump

BATCH = 256  # rows that are drawn, weighed and evaluated at once
FITS = 4  # of each fold, from other starts and rows, whose flows share the draws: what one fit misses another has
UNIT = 2 * FITS * BATCH  # a batch from each flow
LEAST_BUDGET = 10 * UNIT  # likelihood calls that a refine phase may spend after a short nested run


@dataclasses.dataclass(frozen=True)
class Refine:
    """Settings of the refine phase.

    Attributes
    ----------
    error : wanted standard error of ln Z by importance sampling [nats].
    efficiency : effective fraction of draws that is enough; None for 0.3 where calls are cheap and 0.5 where they are expensive.
    max_rounds : most adaptation rounds.
    max_draws : most draws of the final estimate.
    flow : settings of the flows.
    kernel : settings of the kernel of the chains at the posterior.
    """

    error: float = 0.011
    efficiency: float | None = None
    max_rounds: int = 12
    max_draws: int = 128 * BATCH
    flow: Any = MixtureCNF()
    kernel: Any = Jump(components=24, slides=0.6)
