"""A result in a folder."""

from pathlib import Path
from typing import Any

from fusions.errors import FileError, OptionError, Status
from fusions.evidence.ledger import with_names_of_today
from fusions.evidence.refinement import Refinement
from fusions.io.result_folder import read_run, split_groups, write_run

ARRAYS = ("theta", "logL", "logL_birth", "family", "insertion_uniforms", "draws", "draws_logL", "draws_logw")
META = ("names", "n_params", "labels", "n_live", "n_calls", "seconds", "n_compilations", "constraint_logmass", "info")


def save(result: Any, directory: str | Path):
    """Save a Result; see `Result.save`."""
    arrays = {f"level_trace/{k}": v for k, v in result.level_trace.items()}
    arrays |= {f"flows/{k}": v for k, v in result.flows.items()}
    arrays |= {k: getattr(result, k) for k in ARRAYS}
    meta = {k: getattr(result, k) for k in META} | {"refined": result.refined and result.refined.to_json()}
    return write_run(directory, arrays, {**meta, "status": result.status.name})


def load(cls: Any, directory: str | Path):
    """Load a Result, whose class is given; see `Result.load`."""
    arrays, meta = read_run(directory)
    arrays, groups = split_groups(arrays, ("level_trace", "flows"))
    groups["level_trace"] = with_names_of_today(groups["level_trace"])
    fields = {k: v for k, v in meta.items() if k in cls.__dataclass_fields__}
    try:
        if meta.get("refined") is not None:
            fields["refined"] = Refinement.from_json(meta["refined"])
        return cls(**{**fields, **arrays, **groups, "status": Status[meta["status"]]})
    except (KeyError, TypeError, OptionError) as error:
        text = f"The run in {directory} lacks or contradicts a field ({error}). Restore it from a copy, or run again."
        raise FileError(text) from error
