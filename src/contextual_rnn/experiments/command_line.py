from contextual_rnn.experiments.cli.main import main as main
