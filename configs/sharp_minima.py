"""Where does flatness pay? SAM, its relatives and noise beside AdamW, on four data sets small enough to overfit.

Source: arXiv 2106.01548 (Mixers and SAM), and the papers named in mixer_jax/optim/sam.py; sizes and lengths are ours.
Arguments: DATA-METHOD, DATA-METHOD-half or DATA-METHOD-tune, where DATA is one of
    digits  the network of digits.py, 30 epochs, no augmentation
    rows    UNSW-NB15, a token for every column, 2 blocks of width 32, 6 epochs
    mnist   the network of mnist.py and its rotations, 5 epochs
    cifar   10,000 images of CIFAR-10, patches of 8, 4 blocks of width 64, 12 epochs, no augmentation
  and METHOD adamw, noise, sam, asam, gsam, fisher_sam, dynamic_sam or look_sam. `-half` takes half the epochs, which is
  equal compute for a method with two gradients; `-tune` validates on a fifth of the training data and has no test data.
Expected: docs/results/sharp_minima.md.
Hardware: one CPU core; about half a minute (digits) to four minutes (mnist with two gradients).
Data: as for those configs; the CIFAR-10 images here are JPEG copies.
Command: python -m mixer_jax.train --config=configs/sharp_minima.py:digits-sam --workdir=runs/sam
"""

from ml_collections import ConfigDict

# Where to start; nothing here has been chosen on the validation images of `-tune` yet.
METHODS = {
  'adamw': {},
  'noise': {'eta': 1e-8, 'gamma': 0.55},
  'sam': {'name': 'sam', 'rho': 0.05, 'sync': True},
  'asam': {'name': 'asam', 'rho': 0.5, 'eta': 0.01, 'sync': True},
  'gsam': {'name': 'gsam', 'rho': 0.05, 'rho_min': 0.0, 'alpha': 0.2, 'sync': True},
  'fisher_sam': {'name': 'fisher_sam', 'rho': 0.05, 'sparsity': 0.5, 'refresh': 100, 'sync': True},
  'dynamic_sam': {'name': 'dynamic_sam', 'rho': 0.05, 'sparsity': 0.5, 'refresh': 100, 'drop': 0.5, 'sync': True},
  'look_sam': {'name': 'look_sam', 'rho': 0.05, 'every': 5, 'alpha': 0.7, 'sync': True},
}


def get_config(arg='digits-adamw'):
  data, method, *rest = arg.split('-')
  if data not in ('digits', 'rows', 'mnist', 'cifar') or method not in METHODS or rest not in ([], ['half'], ['tune']):
    raise ValueError(
      f"sharp_minima.py takes DATA-METHOD such as 'digits-sam', -half or -tune behind it, not {arg!r}; DATA is digits,"
      f' rows, mnist or cifar, METHOD one of {", ".join(METHODS)}'
    )
  config = ConfigDict()
  config.seed = 0
  epochs = {'digits': 30, 'rows': 6, 'mnist': 5, 'cifar': 12}[data]
  config.total = f'{epochs / 2 if rest == ["half"] else epochs} epochs'
  config.batch_size = 128 if data in ('rows', 'cifar') else 64
  config.eval_batch_size = 1000
  config.accumulate = 1
  config.ema = 0.0
  train, test = {
    'digits': ('train[:80%]', 'train[80%:]'), 'cifar': ('train[:20%]', 'test'),
  }.get(data, ('train', 'test'))  # fmt: skip
  fewer, held_out = {
    'digits': ('train[:64%]', 'train[64%:80%]'), 'cifar': ('train[:16%]', 'train[16%:20%]'),
  }.get(data, ('train[:80%]', 'train[80%:]'))  # fmt: skip
  splits = (
    {'train': fewer, 'val': held_out, 'test': ''} if rest == ['tune'] else {'train': train, 'val': '', 'test': test}
  )
  if data == 'rows':
    config.model = {
      'name': 'tabular', 'tokens': 'columns', 'patch': 1, 'bins': 16, 'hidden': 32, 'blocks': 2, 'token_expansion': 1.0,
      'channel_expansion': 2.0, 'activation': 'gelu', 'dropout': 0.1, 'stochastic_depth': 0.1, 'pool': 'mean',
      'init': 'torch',
    }  # fmt: skip
    config.task = {'name': 'binary', 'positive_weight': 1.0}
    config.data = splits | {
      'name': 'unsw_nb15', 'label': 'label', 'drop': ('id',), 'categorical': ('proto', 'service', 'state'),
      'scaling': 'quantile', 'column_order': 0, 'classes': 2, 'resident_mib': 2048.0, 'workers': 0,
    }  # fmt: skip
  else:
    config.model = {
      'name': 'mixer', 'dropout': 0.0, 'stochastic_depth': 0.0, 'rescale': False, 'dtype': 'float32', 'scan': False,
      'remat': False,
    } | {
      'digits': {'patch': 2, 'hidden': 64, 'blocks': 4, 'token_mlp': 32, 'channel_mlp': 256, 'gelu': 'tanh'},
      'mnist': {
        'patch': 7, 'hidden': 128, 'blocks': 3, 'token_mlp': 64, 'channel_mlp': 64, 'norm_over': 'tokens',
        'first': 'channels', 'pool': 'flatten', 'head': (512, 512), 'gelu': 'exact', 'init': 'torch',
      },
      'cifar': {'patch': 8, 'hidden': 64, 'blocks': 4, 'token_mlp': 32, 'channel_mlp': 256, 'gelu': 'tanh'},
    }[data]  # fmt: skip
    config.task = {'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.0}
    name, image, mean, deviation = {
      'digits': ('digits', (8, 8, 1), (0.305,), (0.376,)),
      'mnist': ('mnist', (28, 28, 1), (0.1307,), (0.3081,)),
      'cifar': ('cifar10', (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    }[data]
    config.data = splits | {
      'name': name, 'image': image, 'classes': 10, 'mean': mean, 'std': deviation, 'resident_mib': 2048.0, 'workers': 0,
    }  # fmt: skip
  config.augment = {'rotation': {'degrees': 15.0}} if data == 'mnist' else {}
  config.augment_until = '100%'
  config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {
    'name': 'cosine', 'peak': 1e-3 if data == 'mnist' else 2e-3, 'warmup': '5%', 'floor': 0.0,
  }  # fmt: skip
  config.sam = {} if method in ('adamw', 'noise') else METHODS[method]
  config.update_noise = METHODS['noise'] if method == 'noise' else {}
  config.layers = {}
  config.mesh = {'data': -1, 'fsdp': 1}
  config.watch = {}
  config.log_every = '5%'
  config.eval_every = '25%'
  config.checkpoint_every = '50%'
  return config
