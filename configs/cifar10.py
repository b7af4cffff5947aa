"""A small Mixer on CIFAR-10 from scratch: flip, padded crop, cutmix, label smoothing.

Source: Mixer-nano of github.com/omihub777/MLP-Mixer-CIFAR, 90.83% after 300 epochs, 3.6 h on a P100 (Adam with
  L2 decay, AutoAugment and cutmix). Deviations: AdamW with decay on kernels only, no AutoAugment, gradient clipping.
  The source states 0.67 million parameters, but the sizes it lists, used here, give 1,132,170.
Expected: 77.8% with `:20`, on JPEG copies of the images (docs/results/cifar10.md); 300 epochs were not run.
Hardware: `:20` took 95 minutes on 2 CPU cores shared with other work; 300 epochs need a GPU.
Arguments: none for 300 epochs; `:20` for 20 epochs with a higher peak and less cutmix, for machines without a GPU.
Data: cifar10/cifar-10-batches-bin/*.bin in the data directory, or the Python archives, or TFDS.
Command: python -m mixer_jax.train --config=cifar10:20 --workdir=runs/cifar10
"""

from ml_collections import ConfigDict


def get_config(arg=None):
  if arg not in (None, '20'):
    raise ValueError(f"cifar10.py takes no argument or '20', not {arg!r}")
  short = arg == '20'
  config = ConfigDict()
  config.total = '20 epochs' if short else '300 epochs'
  config.batch_size = 128
  config.eval_batch_size = 500
  config.model = {'name': 'mixer', 'patch': 4, 'hidden': 128, 'blocks': 8, 'token_mlp': 64, 'channel_mlp': 512}
  config.task = {'name': 'classification', 'label_smoothing': 0.1}
  config.data = {'name': 'cifar10'}
  config.augment = {
    'flip': {}, 'crop': {'padding': 4}, 'cutmix': {'alpha': 1.0, 'probability': 0.2 if short else 0.5},
  }  # fmt: skip
  config.optimizer = {'name': 'adamw', 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
  peak, warmup = (2e-3, '2 epochs') if short else (1e-3, '5 epochs')
  config.schedule = {'name': 'cosine', 'peak': peak, 'warmup': warmup, 'floor': 1e-6}
  config.log_every = '100 steps'
  config.eval_every = config.checkpoint_every = '1 epoch'
  return config
