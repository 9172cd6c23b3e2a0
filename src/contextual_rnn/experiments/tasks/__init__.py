"""The paper's two tasks, and sequences of a table: data, model, loss and measures."""
