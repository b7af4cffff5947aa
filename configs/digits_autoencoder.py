"""A Mixer auto-encoder on scikit-learn's bundled 8x8 digits: codes of 8 numbers for 64 pixels.

Source: ours; the Mixer blocks of arXiv 2105.01601 in encoder and decoder.
Expected: docs/results/autoencoders.md.
Hardware: 2 CPU cores.
Command: python -m mixer_jax.train --config=digits_autoencoder --workdir=runs/digits_autoencoder
"""

from ml_collections import ConfigDict


def get_config(arg=None):
  if arg is not None:
    raise ValueError(f'digits_autoencoder.py takes no argument, not {arg!r}')
  config = ConfigDict()
  config.total = '40 epochs'
  config.batch_size = 64
  config.eval_batch_size = 359
  config.ema = 0.998
  config.model = {'name': 'mixer_autoencoder', 'patch': 2, 'hidden': 48, 'bottleneck': 48, 'code': 8}
  config.model.update({'encoder_blocks': 2, 'decoder_blocks': 2, 'token_mlp': 32, 'channel_mlp': 96})
  config.task = {'name': 'reconstruction'}
  config.data = {'name': 'digits', 'mean': (0.0,), 'std': (1.0,)}
  config.optimizer = {'name': 'adamw', 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': 3e-3, 'warmup': '5%', 'floor': 1e-6}
  config.log_every = '5%'
  config.eval_every = config.checkpoint_every = '20%'
  return config
