"""Auto-encoders of 96x96 photographs with codes of 564 numbers: five kinds of mixing, convolutions or Mixer blocks.

Source: https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding": images shrunk until
  their longer side is 160 pixels and the shorter at least 96, random crops for training, centre crops of the first 100
  by name for validation; AdamW 3e-4, batch 64, cosine with a sine warm-up over 2,000 steps, 1,000,000 images.
  Deviations: only kernels decay; if the longer side exceeds 160 when the shorter is 96, the middle 160 are kept. Ours
  uses Muon, 3e-3.
For a small folder, split by percent: --config.data.train='all[10%:]' --config.data.val='all[:10%]'.
Arguments: PATH of the folder, or PATH,SETTING; without a setting, ours, with Mixer blocks in encoder and decoder.
    pP-MIXING-kKERNEL   patches of P, widths 64, 64, 64, 564, mixing after layers 2, 3, 4: p8-cnnf-k3, p32-cnn-k3, ...
    w32-cnnf-k3, w36-cnn2df-k7   patches of 8, widths 64, 64, 64 and 32 or 36
    wide-cnn2df-k7      widths 144, 144, 144, 36
    deep-cnn2df-k7      nine widths of 144, then 36, mixing after 2, 4, 6, 8; the source trains it with 1e-4
    script, script-scl3 convolutions and pixel-unshuffle, 576 numbers
Expected: for 1,000 photographs, 0.0049 (ours), 0.0069 (script) and 0.0114 (w36-cnn2df-k7) on val after 128,000 images
  (--config.total='2000 steps' --config.schedule.warmup='200 steps'); the full recipe was not run;
  docs/results/autoencoders.md.
Hardware: a GPU; those 2,000 steps took a minute on an H200. One CPU core processes about 5 images per second.
Command: python -m mixer_jax.train --config=image_autoencoder:PATH,w36-cnn2df-k7 --workdir=runs/photographs
"""

import re

from ml_collections import ConfigDict

SCRIPT = 'ch=32|down4|ch/2|ch/2|ch/2|ch*1|ch*1|ch=1'
WIDTHS = {'w32': (64, 64, 64, 32), 'w36': (64, 64, 64, 36), 'wide': (144, 144, 144, 36), 'deep': (*(144,) * 9, 36)}
KNOWN = 'p8-cnnf-k3, w36-cnn2df-k7, wide-cnn2df-k7, deep-cnn2df-k7, script, script-scl3'


def get_config(arg=None):
  path, _, setting = (arg or '').partition(',')
  match = re.fullmatch(r'(p(\d+)|w32|w36|wide|deep)-(cnn|cnnf|cnn2d|cnn2df|mlp)-k(\d+)', setting)
  if not path or setting not in ('', 'script', 'script-scl3') and not match:
    raise ValueError(f'image_autoencoder.py takes PATH or PATH,SETTING with a setting such as {KNOWN}, not {arg!r}')
  config = ConfigDict()
  config.total = '15625 steps'
  config.batch_size = 64
  config.eval_batch_size = 100
  config.task = {'name': 'reconstruction'}
  config.data = {'name': f'images:{path}', 'train': 'all[100:]', 'val': 'all[:100]', 'image': (96, 96, 3)}
  config.data.update({'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0), 'crop_from': 160})
  config.optimizer = {'name': 'adamw', 'weight_decay': 0.01}
  config.schedule = {'name': 'cosine', 'peak': 3e-4, 'warmup': '2000 steps', 'ramp': 'sine'}
  if match:
    kind, patch, mixing, kernel = match.groups()
    mixing = {'name': mixing} if mixing == 'mlp' else {'name': mixing, 'kernel': int(kernel)}
    config.model = {'name': 'mixing_autoencoder', 'patch': int(patch or 8), 'code': 564, 'encoder_gelu': True}
    config.model.update({'widths': WIDTHS.get(kind, (64, 64, 64, 564)), 'mixing': mixing, 'after': (2, 3, 4)})
    config.update({'model': {'after': (2, 4, 6, 8)}, 'schedule': {'peak': 1e-4}} if kind == 'deep' else {})
  elif setting:
    script = f'scl=3|{SCRIPT}' if setting == 'script-scl3' else SCRIPT
    config.model = {'name': 'scripted_autoencoder', 'script': script, 'kernel': 3}
  else:
    config.ema = 0.999
    config.model = {'name': 'mixer_autoencoder', 'patch': 8, 'hidden': 192, 'bottleneck': 36, 'code': 564}
    config.model.update({'encoder_blocks': 4, 'decoder_blocks': 6, 'token_mlp': 192, 'channel_mlp': 384})
    config.optimizer = {'name': 'muon', 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
    config.schedule.peak = 3e-3
  config.log_every = '2%'
  config.eval_every = config.checkpoint_every = '20%'
  return config
