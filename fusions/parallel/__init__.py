"""Worker processes, pools, devices and the split of rows over them; `tasks` and `workers` load without JAX."""
