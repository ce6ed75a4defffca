"""What a refine phase found, in the form in which it is judged, shown and saved."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from fusions.errors import FileError

VERSION = 1  # of the saved form; what was saved before there was a number is 0


class RoundReport(NamedTuple):
    """Draws of a round of adaptation.

    Attributes
    ----------
    logZ, logZ_err : ln of the evidence by importance sampling with these draws alone, and its standard error [nats].
    efficiency : effective fraction of the draws.
    """

    logZ: float
    logZ_err: float
    efficiency: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainsReport:
    """Chains at the posterior.

    Attributes
    ----------
    n_moves : moves of each chain.
    n_trajectories : Hamiltonian trajectories of each chain.
    drift : largest difference of a mean or variance between the middle and the last third [standard errors].
    settled : whether it is no larger than chance allows, and each chain has seen most of what all have.
    """

    n_moves: int
    n_trajectories: int = 0
    drift: float
    settled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindReport:
    """An estimate of ln Z from a part of the draws, and its heaviest draw.

    Attributes
    ----------
    name : where the draws are from: the survey of modes, a round, the final draws, or a search around the highest point.
    logZ, logZ_err : ln of the evidence and its standard error [nats].
    khat : Pareto shape of the largest weights; infinite if they are of no use for an error.
    logL : log-likelihood of the draw of the largest weight [nats].
    at : {parameter: value} there.
    """

    name: str
    logZ: float
    logZ_err: float
    khat: float
    logL: float
    at: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
    """What a refine phase found.

    Attributes
    ----------
    importance : ln of the evidence by importance sampling with the final draws, and its standard error [nats].
    bridge : the same by bridge sampling with chains that did not train the flows.
    coverage : ln of the posterior mass that the flows cover, and its standard error [nats].
    missed_mass : part of the posterior, seen by the chains, where the draws are too thin by a factor of e^3.
    ess, khat : effective number of the final draws, and the Pareto shape of their largest weights.
    n_draws : number of the final draws.
    n_calls : likelihood calls of the phase.
    ode_error : rms difference of ln q between the two directions of the flows' ODE [nats]; 0 without a velocity.
    rounds : `RoundReport` of each round of adaptation but those among the final draws, at least one.
    chains : `ChainsReport`
    modes : ln of the part of the evidence of each mode, if there are several.
    finds : `FindReport` of the survey of modes, of each of the rounds, of the final draws, and of a search around the highest point if it
        was new.
    settings : how the `Refine` of the phase is written.
    """

    importance: tuple[float, float]
    bridge: tuple[float, float]
    coverage: tuple[float, float]
    missed_mass: float = 0.0
    ess: float
    khat: float
    n_draws: int
    n_calls: int
    ode_error: float
    rounds: tuple[RoundReport, ...]
    chains: ChainsReport
    modes: tuple[float, ...] = ()
    finds: tuple[FindReport, ...] = ()
    settings: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dicts and tuples, with the number of the version."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Refinement":
        """Read what `to_json` of this version or of an older one returned.

        Parameters
        ----------
        saved : the dict. What an older version did not know yet has its default; what this one does not use any more is left out.

        Raises
        ------
        FileError : if a newer version wrote it.
        KeyError, TypeError : if a field is missing or no such thing.
        """
        version = saved["version"] if "version" in saved else 0
        if version > VERSION:
            raise FileError(
                f"The refine phase of this result was saved in version {version} of its form, this fusions reads up to {VERSION}. "
                "Install the fusions that wrote it."
            )
        parts = {
            "importance": tuple(saved["importance"]),
            "bridge": tuple(saved["bridge"]),
            "coverage": tuple(saved["coverage"]),
            "rounds": tuple(RoundReport(*row) for row in saved["rounds"]),
            "chains": _read(ChainsReport, saved["chains"]),
            "missed_mass": saved.get("missed_mass", saved.get("uncovered", 0.0)),
            "modes": tuple(saved.get("modes", ())),
            "finds": tuple(_read(FindReport, find) for find in saved.get("finds", ())),
        }
        return _read(cls, {**saved, **parts})


def _read(record: Any, saved: Mapping[str, Any]) -> Any:
    """Make a record of those of the saved values that it has fields for."""
    names = {field.name for field in dataclasses.fields(record)}
    return record(**{name: value for name, value in saved.items() if name in names})
