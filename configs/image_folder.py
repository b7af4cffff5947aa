"""A Mixer of 4.6 million parameters on your own images, resized to 96x96, from scratch.

Source: the architecture of arXiv 2105.01601 at a size that a laptop trains; set --config.data.image,
  --config.model.patch and the widths for other sizes.
Arguments: the folder, with PATH/train/CLASS/*.jpg (or png, webp, ...) and, as far as there are, PATH/val (which
  chooses the best checkpoint) and PATH/test; without either, a random tenth of the training images is held out.
Expected: depends on the images; from scratch, a few hundred a class are few.
Hardware: a GPU or patience; `python -m mixer_jax.benchmark --config=...` says how long an epoch takes here.
Command: python -m mixer_jax.train --config=configs/image_folder.py:PATH --workdir=runs/mine
"""

from pathlib import Path

from ml_collections import ConfigDict


def get_config(arg=None):
  folder = Path(arg or '.').expanduser()
  if not (folder / 'train').is_dir():
    raise ValueError(
      f'{folder}/train is not a folder; use --config=configs/image_folder.py:PATH with PATH/train/CLASS/*.jpg'
    )
  val, test = (name if (folder / name).is_dir() else '' for name in ('val', 'test'))
  train, val = ('train', val) if val or test else ('train[:90%]', 'train[90%:]')
  classes = [p for p in (folder / 'train').iterdir() if p.is_dir() and not p.name.startswith('.')]
  config = ConfigDict()
  config.seed = 0
  config.total = '100 epochs'
  config.batch_size = 64
  config.eval_batch_size = 64
  config.accumulate = 1
  config.ema = 0.999
  config.model = {
    'name': 'mixer', 'patch': 8, 'hidden': 256, 'blocks': 8, 'token_mlp': 128, 'channel_mlp': 1024,
    'gelu': 'tanh', 'dropout': 0.0, 'stochastic_depth': 0.1, 'rescale': False, 'dtype': 'float32', 'scan': False,
    'remat': False,
  }  # fmt: skip
  config.task = {'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.1}
  config.data = {
    'name': f'image_folder:{folder}', 'train': train, 'val': val, 'test': test, 'image': (96, 96, 3),
    'classes': len(classes), 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225), 'resident_mib': 2048.0,
    'workers': 0,
  }  # fmt: skip
  config.augment = {
    'resized_crop': {'min_area': 0.25},
    'flip': {},
    'color_jitter': {'brightness': 0.2, 'contrast': 0.2, 'saturation': 0.2},
    'cutmix': {'alpha': 1.0, 'probability': 0.5},
  }
  config.augment_until = '100%'
  config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': 1e-3, 'warmup': '5%', 'floor': 1e-5}
  config.init_from = {'weights': '', 'checkpoint': 'last', 'head': 'keep', 'tokens': 'keep', 'stem': 'keep'}
  config.sam = {}
  config.update_noise = {}
  config.layers = {}
  config.mesh = {'data': -1, 'fsdp': 1}
  config.watch = {}
  config.log_every = '50 steps'
  config.eval_every = '5 epochs'
  config.checkpoint_every = '5 epochs'
  return config
