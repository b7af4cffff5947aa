"""Photographs as 564 numbers: a folder of images, 96x96 crops, five ways to mix, convolutions, Mixer blocks.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding": images made smaller until
  their longer side is 160 pixels and the shorter at least 96, random crops for training, centre crops of the first 100
  by name for validation; AdamW 3e-4, batch 64, cosine with a sine warm-up over 2,000 steps, 1,000,000 images.
  Deviations: only kernels decay; of images whose longer side is more than 160 when the shorter has 96, the middle 160
  are kept. Ours has Muon, 3e-3.
Of a small folder take a part by percent: --config.data.train='all[10%:]' --config.data.val='all[:10%]'.
Arguments: PATH of the folder, or PATH,SETTING; without a setting, ours: Mixer blocks on both sides of the code.
    pP-MIXING-kKERNEL   patches of P, widths 64, 64, 64, 564, mixings behind layers 2, 3, 4: p8-cnnf-k3, p32-cnn-k3, ...
    w32-cnnf-k3, w36-cnn2df-k7   patches of 8, widths 64, 64, 64 and 32 or 36
    wide-cnn2df-k7      widths 144, 144, 144, 36
    deep-cnn2df-k7      nine times 144, then 36, mixings behind 2, 4, 6, 8; the source trains it with 1e-4
    script, script-scl3 convolutions and pixel-unshuffle, 576 numbers
Expected: of 1,000 photographs 0.0049 (ours), 0.0069 (script) and 0.0114 (w36-cnn2df-k7) on val after 128,000 images
  (--config.total='2000 steps' --config.schedule.warmup='200 steps'); the whole recipe was not run;
  docs/results/autoencoders.md.
Hardware: a GPU: those 2,000 steps took a minute on an H200. One CPU core does about 5 images a second.
Command: python -m mixer_jax.train --config=configs/image_autoencoder.py:PATH,w36-cnn2df-k7 --workdir=runs/photographs
"""

import re

from ml_collections import ConfigDict

SCRIPT = 'ch=32|down4|ch/2|ch/2|ch/2|ch*1|ch*1|ch=1'
WIDTHS = {
  'w32': (64, 64, 64, 32), 'w36': (64, 64, 64, 36), 'wide': (144, 144, 144, 36), 'deep': (*(144,) * 9, 36),
}  # fmt: skip


def get_config(arg=None):
  path, _, setting = (arg or '').partition(',')
  known = 'p8-cnnf-k3, w36-cnn2df-k7, wide-cnn2df-k7, deep-cnn2df-k7, script, script-scl3'
  match = re.fullmatch(r'(p(\d+)|w32|w36|wide|deep)-(cnn|cnnf|cnn2d|cnn2df|mlp)-k(\d+)', setting)
  if not path or setting not in ('', 'script', 'script-scl3') and not match:
    raise ValueError(f'image_autoencoder.py takes PATH or PATH,SETTING with a setting such as {known}, not {arg!r}')
  config = ConfigDict()
  config.seed = 0
  config.total = '15625 steps'
  config.batch_size = 64
  config.eval_batch_size = 100
  config.accumulate = 1
  config.ema = 0.0
  if match:
    kind, patch, mixing, kernel = match.groups()
    config.model = {
      'name': 'mixing_autoencoder', 'patch': int(patch or 8), 'widths': WIDTHS.get(kind, (64, 64, 64, 564)),
      'code': 564, 'after': (2, 4, 6, 8) if kind == 'deep' else (2, 3, 4),
      'mixing': {'name': 'mlp'} if mixing == 'mlp' else {'name': mixing, 'kernel': int(kernel)},
      'encoder_gelu': True, 'output_gelu': False,
    }  # fmt: skip
  elif setting:
    script = f'scl=3|{SCRIPT}' if setting == 'script-scl3' else SCRIPT
    config.model = {'name': 'scripted_autoencoder', 'script': script, 'kernel': 3}
  else:
    config.ema = 0.999
    config.model = {
      'name': 'mixer_autoencoder', 'patch': 8, 'hidden': 192, 'encoder_blocks': 4, 'decoder_blocks': 6,
      'token_mlp': 192, 'channel_mlp': 384, 'bottleneck': 36, 'code': 564, 'bounded': True,
    }  # fmt: skip
  config.task = {'name': 'reconstruction', 'loss': 'mse'}
  config.data = {
    'name': f'images:{path}', 'train': 'all[100:]', 'val': 'all[:100]', 'test': '', 'image': (96, 96, 3), 'classes': 1,
    'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0), 'resident_mib': 2048.0, 'workers': 0, 'crop_from': 160,
  }  # fmt: skip
  config.augment = {}
  config.augment_until = '100%'
  config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.01, 'clip': 0.0}
  if not setting:
    config.optimizer.update({'name': 'muon', 'beta': 0.95, 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0})
  peak = 3e-3 if not setting else 1e-4 if setting.startswith('deep') else 3e-4
  config.schedule = {'name': 'cosine', 'peak': peak, 'warmup': '2000 steps', 'floor': 0.0, 'ramp': 'sine'}
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
