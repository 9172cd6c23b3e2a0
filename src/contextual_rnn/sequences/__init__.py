"""Batches of sequences as they are: of different lengths, beginning anew, run in pieces."""
