"""Models by the name that configs use: each takes what its data tell it, its settings and `rngs`."""

from mixer_jax.models.mixer import MlpMixer
from mixer_jax.models.tabular import TabularMixer

MODELS = {'mixer': MlpMixer, 'tabular': TabularMixer}
