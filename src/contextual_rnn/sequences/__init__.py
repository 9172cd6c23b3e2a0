"""Batches of sequences of different lengths, with resets, and run in pieces."""
