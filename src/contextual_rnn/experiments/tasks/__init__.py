"""The paper's two tasks: data, model, loss and measures."""
