"""What a run is: the options of each task, and the registry of tasks. Imports no PyTorch: `--help` reads it."""

from contextual_rnn.experiments.config.decay import DECAY
from contextual_rnn.experiments.config.decay import DecayConfig as DecayConfig
from contextual_rnn.experiments.config.entry import Measure as Measure
from contextual_rnn.experiments.config.entry import Metric as Metric
from contextual_rnn.experiments.config.entry import TaskEntry as TaskEntry
from contextual_rnn.experiments.config.entry import epochs_to as epochs_to
from contextual_rnn.experiments.config.entry import final as final
from contextual_rnn.experiments.config.option_type import OptionType as OptionType
from contextual_rnn.experiments.config.option_type import option_types as option_types
from contextual_rnn.experiments.config.options import BASELINE as BASELINE
from contextual_rnn.experiments.config.options import CHECKPOINT_SECONDS as CHECKPOINT_SECONDS
from contextual_rnn.experiments.config.options import COMPUTED_BY as COMPUTED_BY
from contextual_rnn.experiments.config.options import PRESETS as PRESETS
from contextual_rnn.experiments.config.options import STATES as STATES
from contextual_rnn.experiments.config.options import Preset as Preset
from contextual_rnn.experiments.config.options import StateName as StateName
from contextual_rnn.experiments.config.options import TrainingConfig as TrainingConfig
from contextual_rnn.experiments.config.options import in_order as in_order
from contextual_rnn.experiments.config.panel import ARMS as ARMS
from contextual_rnn.experiments.config.panel import CONTROLS as CONTROLS
from contextual_rnn.experiments.config.panel import PANEL
from contextual_rnn.experiments.config.panel import PanelConfig as PanelConfig
from contextual_rnn.experiments.config.panel import arms_for as arms_for
from contextual_rnn.experiments.config.registry import Config as Config
from contextual_rnn.experiments.config.registry import chosen as chosen
from contextual_rnn.experiments.config.registry import config_from_dict as config_from_dict
from contextual_rnn.experiments.config.registry import config_to_dict as config_to_dict
from contextual_rnn.experiments.config.registry import entry_of as entry_of
from contextual_rnn.experiments.config.registry import identity as identity
from contextual_rnn.experiments.config.registry import named_file as named_file
from contextual_rnn.experiments.config.registry import register as register
from contextual_rnn.experiments.config.registry import task_name as task_name
from contextual_rnn.experiments.config.registry import task_of_file as task_of_file
from contextual_rnn.experiments.config.registry import tasks as tasks
from contextual_rnn.experiments.config.retrieval import INGREDIENTS as INGREDIENTS
from contextual_rnn.experiments.config.retrieval import RETRIEVAL
from contextual_rnn.experiments.config.retrieval import RetrievalConfig as RetrievalConfig

for _entry in (RETRIEVAL, DECAY, PANEL):  # the paper's two, in its order, then tables of users
    register(_entry)
