"""A Mixer on ImageNet-1k from scratch, as big_vision trains B/16.

Source: arXiv 2105.01601; the recipe is big_vision's mlp_mixer_i1k: Adam 1e-3 with weight decay 1e-4 relative to
  the peak (0.1 here), linear decay to 1e-5 after 10,000 warm-up steps, mixup 0.5, stochastic depth 0.1,
  clipping at 1, batch 4096, sigmoid cross-entropy with head bias -6.9. Deviations: colour jitter instead of
  RandAugment(2, 15); images are resized and centre-cropped to 224 pixels before the random crop, which runs on the
  device; one per cent of the training images is held out as `val`.
Expected: 76.3% for B/16 after 300 epochs (big_vision's number; not run here).
Hardware: a TPU slice or 8 GPUs; L and H scan and rematerialise their blocks to fit. Time: not measured.
Arguments: S/32, S/16, B/32, B/16 (default), L/32, L/16, H/14.
Data: TFDS imagenet2012, prepared once as array_record; see README.
Command: python -m mixer_jax.train --config=imagenet:B/16 --workdir=runs/b16 --data_dir=DIR
  --distributed
"""

from ml_collections import ConfigDict

from mixer_jax.models.mixer import SIZES


def get_config(arg=None):
  variant = arg or 'B/16'
  if variant not in SIZES:
    raise ValueError(f'imagenet.py takes one of {", ".join(SIZES)}, not {variant!r}')
  config = ConfigDict()
  config.total = '300 epochs'
  config.batch_size = 4096
  config.model = {'name': 'mixer', **SIZES[variant], 'head_bias': -6.9, 'stochastic_depth': 0.1, 'dtype': 'bfloat16'}
  config.model.scan = config.model.remat = variant[0] in 'LH'
  config.task = {'name': 'classification', 'loss': 'sigmoid'}
  config.data = {'name': 'tfds:imagenet2012', 'train': 'train[:99%]', 'val': 'train[99%:]', 'test': 'validation'}
  config.data.update({'image': (224, 224, 3), 'classes': 1000, 'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'workers': 16})
  config.augment = {
    'resized_crop': {'min_area': 0.05}, 'flip': {}, 'mixup': {'alpha': 0.5},
    'color_jitter': {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
  }  # fmt: skip
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.1, 'clip': 1.0}
  config.schedule = {'name': 'linear', 'peak': 1e-3, 'warmup': '10000 steps', 'floor': 1e-5}
  config.log_every = '100 steps'
  config.eval_every = config.checkpoint_every = '1 epoch'
  return config
