"""Models by the name that configs use: each takes what its data tell it, its settings and `rngs`."""

# Where each is, to be imported when it is asked for.
MODELS = {
  'mixer': 'mixer_jax.models.mixer:MlpMixer',
  'tabular': 'mixer_jax.models.tabular:TabularMixer',
  'mixing_autoencoder': 'mixer_jax.models.autoencoder:MixingAutoencoder',
  'mixer_autoencoder': 'mixer_jax.models.autoencoder:MixerAutoencoder',
  'cnn_autoencoder': 'mixer_jax.models.zoo.cnn_autoencoder:CnnAutoencoder',
  'scripted_autoencoder': 'mixer_jax.models.zoo.cnn_autoencoder:ScriptedAutoencoder',
}
