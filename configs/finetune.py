"""Starts from the weights of a Mixer and goes on with other images: the whole network, or its head alone.

Source: arXiv 2105.01601, appendix: SGD with momentum 0.9, gradients clipped to norm 1, a linear warm-up and a cosine,
  no weight decay. The rest is ours.
Arguments: WEIGHTS,DATASET or WEIGHTS,DATASET,RECIPE.
  WEIGHTS is a run directory, .npz, .safetensors, .pth, a model folder, or an address (hf://, gs://): of a Mixer.
  DATASET is digits, mnist, cifar10, or a folder of your own images, PATH/train/CLASS/*.jpg (or png, ...) and, as far as
  there are, PATH/val and PATH/test; without either a random fifth of the training images is held out.
  RECIPE is
    sgd      the paper's, peak 0.03; the published weights with 224x224 images (default)
    adamw    AdamW with a smaller rate for the layers nearer to the stem, peak 1e-3: for small networks and few images
    probe    the head alone, AdamW, peak 3e-2: everything else is frozen
    scratch  as adamw, but from no weights, to compare with: the same network, peak 3e-3
The network, the size of its images and their mean and std are those of the weights; the head is new. Images of another
size are resized to it; with other --config.data.image or --config.model.patch say what is to become of the weights:
--config.init_from.tokens=interpolate (or tile), --config.init_from.stem=resize.
Expected: from digits at 8x8 to 16x16 with the stem resized and the head kept 99.3% after one epoch, where scratch has
  96.9% after five; from digits to 1,000 images of MNIST 90.6%, the head alone 76.9%, from scratch 87.6%, each with the
  rate that suits it; docs/results/finetune.md.
Hardware: digits and mnist a minute or a few on 2 CPU cores; the published weights want a GPU (batch_size 512 there).
Command: python -m mixer_jax.train --config=configs/finetune.py:runs/digits,mnist,adamw --workdir=runs/finetuned
"""

from pathlib import Path

from ml_collections import ConfigDict

from mixer_jax.errors import MixerError
from mixer_jax.training.warm_start import network_of

RECIPES = ('sgd', 'adamw', 'probe', 'scratch')
DATA = {
  'digits': {'train': 'train[:64%]', 'val': 'train[64%:80%]', 'test': 'train[80%:]', 'classes': 10},
  'mnist': {'train': 'train[:90%]', 'val': 'train[90%:]', 'test': 'test', 'classes': 10},
  'cifar10': {'train': 'train[:90%]', 'val': 'train[90%:]', 'test': 'test', 'classes': 10},
}


def get_config(arg=None):
  parts = (arg or '').split(',')
  if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], *([recipe] for recipe in RECIPES)):
    raise ValueError(
      f'finetune.py takes WEIGHTS,DATASET or WEIGHTS,DATASET,RECIPE, RECIPE being {", ".join(RECIPES)}, not {arg!r}'
    )
  weights, dataset, recipe = (*parts, 'sgd')[:3]
  folder = Path(dataset).expanduser()
  if dataset in DATA:
    data = {'name': dataset, **DATA[dataset]}
  elif (folder / 'train').is_dir():
    val, test = (name if (folder / name).is_dir() else '' for name in ('val', 'test'))
    train, val = ('train', val) if val or test else ('train[:80%]', 'train[80%:]')
    classes = [p for p in (folder / 'train').iterdir() if p.is_dir() and not p.name.startswith('.')]
    data = {'name': f'image_folder:{folder}', 'train': train, 'val': val, 'test': test, 'classes': len(classes)}
  else:
    raise ValueError(
      f'DATASET is {dataset!r}, but must be {", ".join(DATA)}, or a folder with {folder}/train/CLASS/*.jpg'
    )
  try:
    network = network_of(weights)
  except MixerError as error:
    raise ValueError(str(error)) from error
  channels = network['image'][2]
  config = ConfigDict()
  config.seed = 0
  config.total = '20 epochs'
  config.batch_size = 64
  config.eval_batch_size = 64
  config.accumulate = 1
  config.ema = 0.0
  config.model = {
    **network['model'], 'dropout': 0.0, 'stochastic_depth': 0.0, 'rescale': False, 'dtype': 'float32', 'scan': False,
    'remat': False,
  }  # fmt: skip
  config.task = {'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.0}
  config.data = {
    **data, 'image': network['image'], 'mean': network['mean'] or (0.5,) * channels,
    'std': network['std'] or (0.5,) * channels, 'resident_mib': 2048.0, 'workers': 0,
  }  # fmt: skip
  config.augment = {'resized_crop': {'min_area': 0.5}, 'flip': {}} if dataset not in ('digits', 'mnist') else {}
  config.augment_until = '100%'
  if recipe == 'sgd':
    config.optimizer = {'name': 'sgd', 'momentum': 0.9, 'clip': 1.0}
  else:
    config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 1.0}
  peak = {'sgd': 0.03, 'adamw': 1e-3, 'probe': 3e-2, 'scratch': 3e-3}[recipe]
  config.schedule = {'name': 'cosine', 'peak': peak, 'warmup': '5%', 'floor': 0.0}
  config.init_from = {
    'weights': '' if recipe == 'scratch' else weights, 'checkpoint': 'last',
    'head': 'keep' if recipe == 'scratch' else 'new', 'tokens': 'keep', 'stem': 'keep',
  }  # fmt: skip
  config.sam = {}
  config.update_noise = {}
  body = ('stem', 'blocks', 'pre_head_norm') if network['model']['name'] == 'mixer' else ('stem', 'blocks')
  config.layers = {'adamw': {'decay': 0.8}, 'probe': {'freeze': body}}.get(recipe, {})
  config.mesh = {'data': -1, 'fsdp': 1}
  config.watch = {}
  config.log_every = '10%'
  config.eval_every = '25%'
  config.checkpoint_every = '25%'
  return config
