"""MNIST digits as 16 numbers: patches of 7x7 pixels, linear layers on each, and five ways to mix between them.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding": widths 64, 64, 64, 16,
  AdamW 3e-3, batch 64, cosine with a sine warm-up over 2,000 steps, 1,000,000 images. Deviation: only kernels decay.
  GELUs as in its code: behind the encoder's mixings only in its last table, convolutions behind 2, 3 and 4; on the
  pixels where there is a mixing behind layer 1.
Arguments: `none`, or MIXING-LAYERS-kKERNEL such as `mlp-234`, `cnn-1-k1`, `cnn2df-234-k7`: cnn, cnnf, cnn2d, cnn2df or
  mlp (which has no kernel), behind which of the four layers, and the side of the convolutions.
Expected: docs/results/autoencoders.md.
Hardware: 2 CPU cores.
Data: the four IDX files in mnist/ of the data directory.
Command: python -m mixer_jax.train --config=configs/mnist_autoencoder.py:cnn2df-234-k7 --workdir=runs/cnn2df
"""

import re

from ml_collections import ConfigDict


def get_config(arg='none'):
  match = re.fullmatch(r'none|(?:(cnn|cnnf|cnn2d|cnn2df)-([1-4]+)-k(\d+)|(mlp)-([1-4]+))', arg)
  if not match:
    raise ValueError(f"mnist_autoencoder.py takes 'none', such as 'mlp-234' or such as 'cnn2df-234-k7', not {arg!r}")
  convolution, of_convolution, kernel, linear, of_linear = match.groups()
  config = ConfigDict()
  config.seed = 0
  config.total = '15625 steps'
  config.batch_size = 64
  config.eval_batch_size = 500
  config.accumulate = 1
  config.ema = 0.0
  config.model = {
    'name': 'mixing_autoencoder', 'patch': 7, 'widths': (64, 64, 64, 16), 'code': 16,
    'mixing': {'name': 'mlp'} if linear else {'name': convolution or 'cnn', 'kernel': int(kernel or 1)},
    'after': tuple(map(int, of_convolution or of_linear or '')),
    'encoder_gelu': bool(convolution) and of_convolution == '234',
    'output_gelu': '1' in (of_convolution or of_linear or ''),
  }  # fmt: skip
  config.task = {'name': 'reconstruction', 'loss': 'mse'}
  config.data = {
    'name': 'mnist', 'train': 'train', 'val': '', 'test': 'test', 'image': (28, 28, 1), 'classes': 10,
    'mean': (0.0,), 'std': (1.0,), 'resident_mib': 2048.0, 'workers': 0,
  }  # fmt: skip
  config.augment = {}
  config.augment_until = '100%'
  config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.01, 'clip': 0.0}
  config.schedule = {'name': 'cosine', 'peak': 3e-3, 'warmup': '2000 steps', 'floor': 0.0, 'ramp': 'sine'}
  config.init_from = {'weights': '', 'checkpoint': 'last', 'head': 'keep', 'tokens': 'keep', 'stem': 'keep'}
  config.sam = {}
  config.update_noise = {}
  config.layers = {}
  config.mesh = {'data': -1, 'fsdp': 1}
  config.watch = {}
  config.log_every = '2%'
  config.eval_every = '20%'
  config.checkpoint_every = '20%'
  return config
