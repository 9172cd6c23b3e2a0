"""nn.RNN, nn.LSTM and nn.GRU on sequences of any lengths, each with an initial state of its own."""
