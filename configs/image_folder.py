"""A Mixer of 4.6 million parameters on your own images, resized to 96x96, from scratch.

Source: the architecture of arXiv 2105.01601 at a size for a laptop; set --config.data.image, --config.model.patch and
  the widths for other sizes.
Arguments: the folder, with PATH/train/CLASS/*.jpg (or png, webp, ...) and, optionally, PATH/val (or validation, valid,
  dev) and PATH/test; Tiny ImageNet as published will do. `val` selects the best checkpoint; without it, a tenth of the
  training images is held out, of every class in proportion. Fewer than 256 images are trained on in smaller batches,
  and few for more epochs: a run has at least 300 steps.
Expected: depends on the images; a few hundred per class are few for training from scratch.
Hardware: a GPU, or patience; `python -m mixer_jax.benchmark --config=...` measures how long an epoch takes.
Command: python -m mixer_jax.train --config=image_folder:PATH --workdir=runs/mine
"""

from ml_collections import ConfigDict

from mixer_jax.data import held_out


def get_config(arg=None):
  config = ConfigDict()
  data, examples = held_out.image_folder(arg or '.')
  config.update(held_out.length(examples, epochs=100))
  config.ema = 0.999
  config.model = {'name': 'mixer', 'patch': 8, 'hidden': 256, 'blocks': 8, 'token_mlp': 128, 'channel_mlp': 1024}
  config.model.stochastic_depth = 0.1
  config.task = {'name': 'classification', 'label_smoothing': 0.1}
  config.data = {**data, 'image': (96, 96, 3)}
  config.data.update({'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)})
  config.augment = {
    'resized_crop': {'min_area': 0.25}, 'flip': {}, 'cutmix': {'probability': 0.5},
    'color_jitter': {'brightness': 0.2, 'contrast': 0.2, 'saturation': 0.2},
  }  # fmt: skip
  config.optimizer = {'name': 'adamw', 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': 1e-3, 'warmup': '5%', 'floor': 1e-5}
  config.log_every = '50 steps'
  config.eval_every = config.checkpoint_every = '5 epochs'
  return config
