"""An MNIST auto-encoder of three unpadded convolutions with codes of 16 numbers: the baseline for the Mixers.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding", its baseline: channels 24,
  32, 48, ReLU, transposed convolutions back; the recipe of configs/mnist_autoencoder.py.
Arguments: the kernel, `k3`, `k5` (the default), `k7` or `k9`.
Expected: a test error of 0.00554 with `k5`, 0.00580 with `k7` (one seed); docs/results/autoencoders.md.
Hardware: more than two hours on one CPU core.
Data: the four IDX files in mnist/ of the data directory.
Command: python -m mixer_jax.train --config=mnist_cnn_autoencoder:k5 --workdir=runs/cnn
"""

import re

from ml_collections import ConfigDict


def get_config(arg='k5'):
  if not re.fullmatch(r'k\d+', arg):
    raise ValueError(f"mnist_cnn_autoencoder.py takes a kernel such as 'k5', not {arg!r}")
  config = ConfigDict()
  config.total = '15625 steps'
  config.batch_size = 64
  config.eval_batch_size = 500
  config.model = {'name': 'cnn_autoencoder', 'channels': (24, 32, 48), 'kernel': int(arg[1:]), 'code': 16}
  config.task = {'name': 'reconstruction'}
  config.data = {'name': 'mnist', 'mean': (0.0,), 'std': (1.0,)}
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.01}
  config.schedule = {'name': 'cosine', 'peak': 3e-3, 'warmup': '2000 steps', 'ramp': 'sine'}
  config.log_every = '2%'
  config.eval_every = config.checkpoint_every = '20%'
  return config
