"""i-nessai, the importance nested sampler of nessai, with its default number of live points."""

from samplers.nessai import run as run

SETTINGS = {"default": {"nlive": 5000, "importance_nested_sampler": True}}
