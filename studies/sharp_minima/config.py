"""Where do flat minima help? SAM, its variants and update noise against AdamW on four small data sets.

Source: arXiv 2106.01548 (Mixers and SAM), and the papers named in mixer_jax/optim/sam.py; sizes and lengths are ours.
Arguments: DATA-METHOD, DATA-METHOD-half or DATA-METHOD-tune, where DATA is one of
    digits  the network of digits.py, 30 epochs, no augmentation
    rows    20,000 rows of UNSW-NB15, one token per column, 2 blocks of width 32, 4 epochs, no dropout
    mnist   the network of mnist.py and its rotations, 2 epochs
    cifar   10,000 images of CIFAR-10, patches of 8, 4 blocks of width 64, 12 epochs, no augmentation
  and METHOD is adamw, noise, sam, asam, gsam, fisher_sam, dynamic_sam or look_sam. `-half` halves the epochs, for equal
  compute of methods with two gradients; `-tune` validates on a fifth of the training data and has no test data.
Expected: docs/results/sharp_minima.md.
Hardware: one CPU core; about half a minute (digits) to three minutes (mnist with two gradients).
Data: as for those configs; the CIFAR-10 images here are JPEG copies.
Command: python -m mixer_jax.train --config=studies/sharp_minima/config.py:digits-sam --workdir=runs/sam
"""

from ml_collections import ConfigDict

# Chosen on the validation data of `-tune`, see docs/results/sharp_minima.md: rate and decay for AdamW alone, then the
# perturbation of each method.
EPOCHS = {'digits': 30, 'rows': 4, 'mnist': 2, 'cifar': 12}
PEAK = {'digits': 1.6e-2, 'rows': 8e-3, 'mnist': 1e-3, 'cifar': 8e-3}
DECAY = {'digits': 0.5, 'rows': 0.05, 'mnist': 0.05, 'cifar': 0.5}
NOISE = {'digits': 1e-5, 'rows': 1e-6, 'mnist': 1e-6, 'cifar': 1e-6}
RHO = {
  'sam': {'digits': 0.1, 'rows': 0.01, 'mnist': 0.03, 'cifar': 0.03},
  'asam': {'digits': 1.5, 'rows': 0.1, 'mnist': 1.5, 'cifar': 0.15},
  'gsam': {'digits': 0.1, 'rows': 0.03, 'mnist': 0.1, 'cifar': 0.03},
  'fisher_sam': {'digits': 0.3, 'rows': 0.01, 'mnist': 0.3, 'cifar': 0.03},
}
METHODS = {
  'sam': {},
  'asam': {'eta': 0.01},
  'gsam': {'rho_min': 0.0, 'alpha': 0.2},
  'fisher_sam': {'sparsity': 0.5, 'refresh': 100},
  'dynamic_sam': {'sparsity': 0.5, 'refresh': 100, 'drop': 0.5},
  'look_sam': {'every': 5, 'alpha': 0.7},
}
# These two are not in the study.
RHO |= {'dynamic_sam': RHO['fisher_sam'], 'look_sam': RHO['sam']}
MODELS = {
  'digits': {'name': 'mixer', 'patch': 2, 'hidden': 64, 'blocks': 4, 'token_mlp': 32, 'channel_mlp': 256},
  'rows': {
    'name': 'tabular', 'bins': 16, 'hidden': 32, 'blocks': 2, 'token_expansion': 1.0, 'channel_expansion': 2.0,
  },
  'mnist': {'name': 'mnist_mixer', 'patch': 7, 'hidden': 128, 'blocks': 3, 'token_mlp': 64, 'channel_mlp': 64},
  'cifar': {'name': 'mixer', 'patch': 8, 'hidden': 64, 'blocks': 4, 'token_mlp': 32, 'channel_mlp': 256},
}  # fmt: skip
DATA = {'digits': 'digits', 'rows': 'unsw_nb15', 'mnist': 'mnist', 'cifar': 'cifar10'}
# Training and test split, then the training and validation split of `-tune`.
SPLITS = {
  'rows': ('train', 'test', 'train[:80%]', 'train[80%:]'),
  'mnist': ('train', 'test', 'train[:80%]', 'train[80%:]'),
}
SPLITS |= {
  'digits': ('train[:80%]', 'train[80%:]', 'train[:64%]', 'train[64%:80%]'),
  'cifar': ('train[:20%]', 'test', 'train[:16%]', 'train[16%:20%]'),
}


def get_config(arg='digits-adamw'):
  data, method, *rest = arg.split('-')
  methods = ('adamw', 'noise', *METHODS)
  if data not in EPOCHS or method not in methods or rest not in ([], ['half'], ['tune']):
    raise ValueError(
      f"this takes DATA-METHOD such as 'digits-sam', optionally with -half or -tune, not {arg!r}; DATA is digits, rows,"
      f' mnist or cifar, METHOD one of {", ".join(methods)}'
    )
  train, test, fewer, held_out = SPLITS[data]
  config = ConfigDict()
  config.total = f'{EPOCHS[data] / 2 if rest == ["half"] else EPOCHS[data]} epochs'
  config.batch_size = 128 if data in ('rows', 'cifar') else 64
  config.eval_batch_size = 1000
  config.model = MODELS[data]
  config.task = {'name': 'binary' if data == 'rows' else 'classification'}
  config.data = {'name': DATA[data], 'train': train, 'test': test}
  if rest == ['tune']:
    config.data.update({'train': fewer, 'val': held_out, 'test': ''})
  config.augment = {'rotation': {'degrees': 15.0}} if data == 'mnist' else {}
  config.optimizer = {'name': 'adamw', 'b2': 0.99, 'weight_decay': DECAY[data], 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': PEAK[data], 'warmup': '5%'}
  if method in METHODS:
    config.sam = {'name': method, 'rho': RHO[method][data], **METHODS[method]}
  if method == 'noise':
    config.update_noise = {'eta': NOISE[data], 'gamma': 0.55}
  config.log_every = '5%'
  config.eval_every = '25%'
  config.checkpoint_every = '50%'
  return config
