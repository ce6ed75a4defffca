"""Options of `fusions.nested` as other packages give them."""

from fusions import kernels
from fusions.driver.run import OPTIONS, nested_sampling
from fusions.errors import OptionError

NAMED = ("FlowKernel", "HitAndRun", "Jump", "RandomWalk")  # kernels that need no arguments


def algorithm_of(options):
    """Make the settings for `fusions.run` of a mapping that has all options of `fusions.nested`.

    The kernel may be named by a string, such as "HitAndRun", for the settings that it has by default.
    """
    chosen = {name: options[name] for name in OPTIONS}
    if isinstance(chosen["kernel"], str):
        if chosen["kernel"] not in NAMED:
            raise OptionError(f"Unknown kernel {chosen['kernel']!r}. Expected None, kernel settings, or one of {', '.join(NAMED)}.")
        chosen["kernel"] = getattr(kernels, chosen["kernel"])()
    return nested_sampling(**chosen)
