"""The command `contextual-rnn`: one file a command."""

import os

if os.environ.get("NO_COLOR"):  # https://no-color.org, which tyro does not read
    os.environ["PYTHON_TYRO_ANSI_CODES"] = "False"
