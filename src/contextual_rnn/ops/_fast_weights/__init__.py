"""The fast-weights recurrence: one file an algorithm."""
