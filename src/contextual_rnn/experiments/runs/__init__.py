"""A run: training into a folder, what stands there, and how it is read back."""
