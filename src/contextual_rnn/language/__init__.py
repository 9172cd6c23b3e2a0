"""Initial states for recurrent and hybrid language models of transformers.

Needs `pip install "contextual-rnn[transformers]"`; nothing else in the library imports this folder.
"""

from contextual_rnn.language.cache import InitialCache as InitialCache
from contextual_rnn.language.model import ContextualLanguageModel as ContextualLanguageModel
from contextual_rnn.language.spec import initial_cache as initial_cache
from contextual_rnn.language.spec import language_model_spec as language_model_spec
