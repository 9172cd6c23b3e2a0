"""The command `contextual-rnn`: one file a command."""
