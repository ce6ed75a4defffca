"""Evidence from nested samples and from weighted draws, the ledger they come from, and the headline."""
