"""What is known of the posterior before flows are fitted to it."""

from typing import NamedTuple

from fusions.algorithms.refine.chains import Chains
from fusions.algorithms.refine.draws import RefineFunctions
from fusions.algorithms.refine.modes import Found
from fusions.algorithms.refine.settings import Refine
from fusions.evidence.volumes import Points
from fusions.types import Budget, Schedule


class Known(NamedTuple):
    """What is known of the posterior before the rounds, and what they may use.

    Attributes
    ----------
    settings : Refine; schedule : Schedule; functions : RefineFunctions; budget : Budget.
    points : `Points` of the nested run and of the modes, in u; found : Found.
    chains : Chains
    """

    settings: Refine
    schedule: Schedule
    functions: RefineFunctions
    budget: Budget
    points: Points
    found: Found
    chains: Chains

    @property
    def min_efficiency(self):
        """Effective fraction of draws that is enough."""
        return self.settings.efficiency or self.schedule.efficiency
