"""Many runs: the grid, its workers, its progress."""
