"""The command under the name that programs from before the rooms import."""

from contextual_rnn.experiments.cli.main import main as main
