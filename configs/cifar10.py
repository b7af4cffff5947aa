"""CIFAR-10 from scratch with a small Mixer: flip, padded crop, cutmix, label smoothing.

Source: Mixer-nano of github.com/omihub777/MLP-Mixer-CIFAR, 90.83% after 300 epochs, 3.6 h on a P100 (Adam with
  L2 decay, AutoAugment and cutmix). Deviations here: AdamW with decay on kernels only, no AutoAugment, gradient
  clipping. That page says 0.67 million parameters, but the sizes it lists, which are these, have 1,132,170.
Expected: 77.8% with `:20`, on JPEG copies of the images (docs/results/cifar10.md); the 300 epochs are not run here.
Hardware: `:20` 2 CPU cores, 95 minutes beside other work; a GPU for the 300 epochs.
Arguments: none for the 300 epochs; `:20` for 20 epochs, with a higher peak and less cutmix, for machines
  without a GPU.
Data: cifar10/cifar-10-batches-bin/*.bin in the data directory, or the Python archives, or TFDS.
Command: python -m mixer_jax.train --config=configs/cifar10.py:20 --workdir=runs/cifar10
"""

from ml_collections import ConfigDict


def get_config(arg=None):
  if arg not in (None, '20'):
    raise ValueError(f"cifar10.py takes no argument or '20', not {arg!r}")
  short = arg == '20'
  config = ConfigDict()
  config.seed = 0
  config.total = '20 epochs' if short else '300 epochs'
  config.batch_size = 128
  config.eval_batch_size = 500
  config.accumulate = 1
  config.ema = 0.0
  config.model = {
    'name': 'mixer', 'patch': 4, 'hidden': 128, 'blocks': 8, 'token_mlp': 64, 'channel_mlp': 512,
    'gelu': 'tanh', 'dropout': 0.0, 'stochastic_depth': 0.0, 'rescale': False, 'dtype': 'float32', 'scan': False,
    'remat': False,
  }  # fmt: skip
  config.task = {'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.1}
  config.data = {
    'name': 'cifar10', 'train': 'train', 'val': '', 'test': 'test', 'image': (32, 32, 3), 'classes': 10,
    'mean': (0.4914, 0.4822, 0.4465), 'std': (0.2470, 0.2435, 0.2616), 'resident_mib': 2048.0, 'workers': 0,
  }  # fmt: skip
  config.augment = {
    'flip': {},
    'crop': {'padding': 4},
    'cutmix': {'alpha': 1.0, 'probability': 0.2 if short else 0.5},
  }
  config.augment_until = '100%'
  config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {
    'name': 'cosine',
    'peak': 2e-3 if short else 1e-3,
    'warmup': '2 epochs' if short else '5 epochs',
    'floor': 1e-6,
  }
  config.init_from = {'weights': '', 'checkpoint': 'last', 'head': 'keep', 'tokens': 'keep', 'stem': 'keep'}
  config.sam = {}
  config.update_noise = {}
  config.layers = {}
  config.mesh = {'data': -1, 'fsdp': 1}
  config.watch = {}
  config.log_every = '100 steps'
  config.eval_every = '1 epoch'
  config.checkpoint_every = '1 epoch'
  return config
