"""The fast-weights recurrence on a GPU, in Triton."""
