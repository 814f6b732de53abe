"""Networks that serve as teachers and students, and the means to read their layers.

A public module here is a model and its name is the registered name; private modules build models,
tap layers, list layers and load checkpoints.
"""

from geocache.models._archive import read_tensors
from geocache.models._build import build_model, model_names
from geocache.models._checkpoint import load_weights, state_digest
from geocache.models._layers import LayerInfo, list_layers
from geocache.models._taps import Taps

__all__ = [
    "LayerInfo",
    "Taps",
    "build_model",
    "list_layers",
    "load_weights",
    "model_names",
    "read_tensors",
    "state_digest",
]
