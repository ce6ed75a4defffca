"""The result of a run, merged results, and the check of a saved one."""
