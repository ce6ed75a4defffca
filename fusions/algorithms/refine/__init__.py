"""The refine phase: modes, chains, flows fitted to both, and draws from the flows."""
