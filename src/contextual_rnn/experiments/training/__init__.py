"""Parts of training: batches, seeds, threads, Adam, captured steps, processes side by side."""
