"""An MNIST auto-encoder with codes of 16 numbers and Mixer blocks in encoder and decoder.

Source: ours; the blocks of arXiv 2105.01601. It sees 1,000,000 images, like configs/mnist_autoencoder.py and
  configs/mnist_cnn_autoencoder.py, but differs in more than the blocks: Muon with a peak of 6e-3, clipping, decay 0.05,
  an average of the parameters, and outputs bounded by a sigmoid.
Arguments: none for 512,137 parameters (the convolutions with kernel 5 have 522,081); `small` for 259,001 parameters and
  8.7 MFLOP per forward pass of an image (`mlp-234` of configs/mnist_autoencoder.py has 9.5); `long` for `small` on
  6,000,000 images, 128 per step, with input noise as regularisation; `adamw` for AdamW, peak 3e-3, instead of Muon.
Expected: a test error of 0.00487 (mean of 2 seeds), with `small` 0.00515 and `long` 0.00466 (one seed);
  docs/results/mixer_autoencoder.md.
Hardware: 32 minutes on one CPU core; on a slower one, `small` took 20 and `long` 123.
Data: the four IDX files in mnist/ of the data directory.
Command: python -m mixer_jax.train --config=mnist_mixer_autoencoder --workdir=runs/mixer_autoencoder
"""

from ml_collections import ConfigDict


def get_config(arg=None):
  if arg not in (None, 'small', 'long', 'adamw'):
    raise ValueError(f"mnist_mixer_autoencoder.py takes no argument, 'small', 'long' or 'adamw', not {arg!r}")
  config = ConfigDict()
  config.total = '46875 steps' if arg == 'long' else '15625 steps'
  config.batch_size = 128 if arg == 'long' else 64
  config.eval_batch_size = 500
  config.ema = 0.999
  config.model = {'name': 'mixer_autoencoder', 'patch': 7, 'encoder_blocks': 2, 'bottleneck': 24, 'code': 16}
  if arg in ('small', 'long'):
    config.model.update({'hidden': 96, 'decoder_blocks': 4, 'token_mlp': 32, 'channel_mlp': 192})
  else:
    config.model.update({'hidden': 128, 'decoder_blocks': 5, 'token_mlp': 64, 'channel_mlp': 256})
  config.task = {'name': 'reconstruction', 'noise': 0.1 if arg == 'long' else 0.0}
  config.data = {'name': 'mnist', 'mean': (0.0,), 'std': (1.0,)}
  name, peak = ('adamw', 3e-3) if arg == 'adamw' else ('muon', 6e-3)
  config.optimizer = {'name': name, 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': peak, 'warmup': '2000 steps', 'ramp': 'sine'}
  config.log_every = '2%'
  config.eval_every = '20%'
  config.checkpoint_every = '4%'
  return config
