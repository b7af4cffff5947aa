"""Models by the name that configs use: each takes `image`, `classes`, its settings and `rngs`."""

from mixer_jax.models.mixer import MlpMixer

MODELS = {'mixer': MlpMixer}
