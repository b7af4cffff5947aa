"""Fine-tunes a Mixer's weights on other images: the whole network or its head alone.

Source: arXiv 2105.01601, appendix: SGD with momentum 0.9, gradients clipped to norm 1, linear warm-up, cosine decay, no
  weight decay. The rest is ours.
Arguments: WEIGHTS,DATASET or WEIGHTS,DATASET,RECIPE.
  WEIGHTS is a Mixer's run directory, .npz, .safetensors, .pth, model folder, or address (hf://, gs://).
  DATASET is digits, mnist, cifar10, or a folder of your own images: PATH/train/CLASS/*.jpg (or png, ...)
  and, optionally, PATH/val and PATH/test, as for configs/image_folder.py: without PATH/val, a tenth of the training
  images is held out, of every class in proportion, and few images are trained on in smaller batches for more epochs.
  RECIPE is
    sgd      the paper's, peak 0.03, for the published weights with 224x224 images (default)
    adamw    AdamW with layer-wise decay of the rate, peak 1e-3, for small networks and few images
    probe    the head alone, AdamW, peak 3e-2; everything else is frozen
    scratch  the baseline: the same network without the weights, AdamW, peak 3e-3
The network, its image size, mean and std come with the weights; the head is new. Images of other sizes are resized. If
you set --config.data.image or --config.model.patch, also choose how to adapt the weights:
--config.init_from.tokens=interpolate (or tile), --config.init_from.stem=resize.
Expected: from digits at 8x8 to 16x16, with resized stem and kept head, 99.3% after one epoch; from scratch 96.9% after
  five. From digits to 1,000 MNIST images 90.6%, the head alone 76.9%, from scratch 87.6%, each at its best rate;
  docs/results/finetune.md.
Hardware: a few minutes on 2 CPU cores for digits and mnist; the published weights need a GPU (batch_size 512 there).
Command: python -m mixer_jax.train --config=finetune:runs/digits,mnist,adamw --workdir=runs/finetuned
"""

from pathlib import Path

from ml_collections import ConfigDict

from mixer_jax.data import held_out
from mixer_jax.training.warm_start import network_of

DATA = {'digits': {'name': 'digits', 'train': 'train[:64%]', 'val': 'train[64%:80%]', 'test': 'train[80%:]'}}
DATA |= {name: {'name': name, 'train': 'train[:90%]', 'val': 'train[90%:]'} for name in ('mnist', 'cifar10')}
MANY = 1000  # images, at the least, in DATA
PEAKS = {'sgd': 0.03, 'adamw': 1e-3, 'probe': 3e-2, 'scratch': 3e-3}
WANTED = f'WEIGHTS,DATASET or WEIGHTS,DATASET,RECIPE, RECIPE being {", ".join(PEAKS)}'


def get_config(arg=None):
  weights, dataset, recipe = (*(arg or '').split(','), 'sgd')[:3] if (arg or '').count(',') in (1, 2) else ('', '', '')
  if not weights or not dataset or recipe not in PEAKS:
    raise ValueError(f'finetune.py takes {WANTED}, not {arg!r}')
  if dataset not in DATA and not Path(dataset, 'train').expanduser().is_dir():
    raise ValueError(f'DATASET is {dataset!r}, but must be {", ".join(DATA)}, or PATH with PATH/train/CLASS/*.jpg')
  data, examples = (DATA[dataset], MANY) if dataset in DATA else held_out.image_folder(dataset)
  network = network_of(weights)
  config = ConfigDict()
  config.update(held_out.length(examples, epochs=20))
  plain = {'dropout': 0.0, 'stochastic_depth': 0.0, 'rescale': False, 'dtype': 'float32', 'scan': False, 'remat': False}
  config.model = network['model'] | {key: value for key, value in plain.items() if key in network['model']}
  grey = (0.5,) * network['image'][2]
  config.data = data | {'image': network['image'], 'mean': network['mean'] or grey, 'std': network['std'] or grey}
  config.augment = {} if dataset in ('digits', 'mnist') else {'resized_crop': {'min_area': 0.5}, 'flip': {}}
  adamw = {'name': 'adamw', 'weight_decay': 0.05, 'clip': 1.0}
  config.optimizer = {'name': 'sgd', 'momentum': 0.9, 'clip': 1.0} if recipe == 'sgd' else adamw
  config.schedule = {'name': 'cosine', 'peak': PEAKS[recipe], 'warmup': '5%'}
  config.init_from = {} if recipe == 'scratch' else {'weights': weights, 'head': 'new'}
  config.layers = {'adamw': {'decay': 0.8}, 'probe': {'freeze': network['body']}}.get(recipe, {})
  config.log_every = '10%'
  config.eval_every = config.checkpoint_every = '25%'
  return config
