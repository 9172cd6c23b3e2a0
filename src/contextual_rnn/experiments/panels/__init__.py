"""Tables of sequences: read, checked, split and encoded."""

from contextual_rnn.experiments.panels.columns import Columns as Columns
from contextual_rnn.experiments.panels.data import Batch as Batch
from contextual_rnn.experiments.panels.data import PanelData as PanelData
from contextual_rnn.experiments.panels.data import Target as Target
from contextual_rnn.experiments.panels.encoding import Encoding as Encoding
from contextual_rnn.experiments.panels.examples import example_table as example_table
from contextual_rnn.experiments.panels.panel import Panel as Panel
from contextual_rnn.experiments.panels.panel import read_panel as read_panel
from contextual_rnn.experiments.panels.preparation import prepare as prepare
from contextual_rnn.experiments.panels.preparation import prepare_new as prepare_new
from contextual_rnn.experiments.panels.split import Examples as Examples
from contextual_rnn.experiments.panels.split import Split as Split
