"""The questions asked of the runs: one file a study."""
