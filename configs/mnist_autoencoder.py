"""MNIST auto-encoders with codes of 16 numbers: linear layers on 7x7 patches, and five kinds of mixing layer.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding": widths 64, 64, 64, 16,
  AdamW 3e-3, batch 64, cosine with a sine warm-up over 2,000 steps, 1,000,000 images. Deviation: only kernels decay.
  GELUs as in its code: after the encoder's mixing layers only for convolutions after layers 2, 3 and 4; on the output
  pixels only with a mixing layer after layer 1.
Arguments: `none`, or MIXING-LAYERS-kKERNEL such as `mlp-234`, `cnn-1-k1`, `cnn2df-234-k7`: the mixing layer (cnn,
  cnnf, cnn2d, cnn2df, or mlp, which has no kernel), the linear layers it follows, and its kernel size.
Expected: docs/results/autoencoders.md.
Hardware: 2 CPU cores.
Data: the four IDX files in mnist/ of the data directory.
Command: python -m mixer_jax.train --config=mnist_autoencoder:cnn2df-234-k7 --workdir=runs/cnn2df
"""

import re

from ml_collections import ConfigDict


def get_config(arg='none'):
  match = re.fullmatch(r'none|(?:(cnn|cnnf|cnn2d|cnn2df)-([1-4]+)-k(\d+)|(mlp)-([1-4]+))', arg)
  if not match:
    raise ValueError(f"mnist_autoencoder.py takes 'none' or settings like 'mlp-234' or 'cnn2df-234-k7', not {arg!r}")
  convolution, of_convolution, kernel, linear, of_linear = match.groups()
  after = of_convolution or of_linear or ''
  config = ConfigDict()
  config.total = '15625 steps'
  config.batch_size = 64
  config.eval_batch_size = 500
  config.model = {'name': 'mixing_autoencoder', 'patch': 7, 'widths': (64, 64, 64, 16), 'code': 16}
  config.model.mixing = {'name': linear} if linear else {'name': convolution or 'cnn', 'kernel': int(kernel or 1)}
  config.model.update(
    {'after': tuple(map(int, after)), 'output_gelu': '1' in after, 'encoder_gelu': of_convolution == '234'}
  )
  config.task = {'name': 'reconstruction'}
  config.data = {'name': 'mnist', 'mean': (0.0,), 'std': (1.0,)}
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.01}
  config.schedule = {'name': 'cosine', 'peak': 3e-3, 'warmup': '2000 steps', 'ramp': 'sine'}
  config.log_every = '2%'
  config.eval_every = config.checkpoint_every = '20%'
  return config
