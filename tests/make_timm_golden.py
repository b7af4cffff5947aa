"""Makes tests/golden/timm*: what timm's Mixers are called, what they give, and files as torch writes them.

Run where torch, timm and safetensors are installed; mixer_jax is not needed, and the tests need none of these:

  python tests/make_timm_golden.py          # made with torch 2.13.0, timm 1.0.31

  timm.json        for all seven sizes every name of the state dict with its shape (H/14 is timm's class at that size)
  timm.npz         of S/32 and S/16, by each GELU: logits, pre-logits, the loss, and of the gradient of every parameter
                   its norm and ENTRIES entries, computed in float64
  timm_*.pth, .safetensors   a small Mixer as torch.save and safetensors write it

Weights and images follow from their names: `weight` and `images` below, which the tests have again.
"""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

# timm imports torchvision, whose own operators are not always there for a torch without CUDA; none of them is used.
if not hasattr(torch.ops.torchvision, 'nms'):
  library = torch.library.Library('torchvision', 'DEF')
  for name in ('nms', 'qnms', 'deform_conv2d', 'ps_roi_align', 'roi_align', 'ps_roi_pool', 'roi_pool'):
    library.define(f'{name}(Tensor x) -> Tensor')
  for name in ('deform_conv2d', 'ps_roi_align', 'roi_align', 'ps_roi_pool', 'roi_pool'):
    library.define(f'_{name}_backward(Tensor x) -> Tensor')

from timm.models.mlp_mixer import MlpMixer

GOLDEN = Path(__file__).parent / 'golden'
IMAGES, ENTRIES = 2, 8
SIZES = {
  'S/32': (32, 8, 512), 'S/16': (16, 8, 512), 'B/32': (32, 12, 768), 'B/16': (16, 12, 768), 'L/32': (32, 24, 1024),
  'L/16': (16, 24, 1024), 'H/14': (14, 32, 1280),
}  # fmt: skip
GELUS = {'exact': nn.GELU, 'tanh': functools.partial(nn.GELU, approximate='tanh')}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A parameter by its name in timm: scales near 1, biases small, kernels by their number of inputs."""
  drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
  if len(shape) == 1:
    return (1 + 0.1 * drawn if 'norm' in name and name.endswith('weight') else 0.1 * drawn).astype(np.float32)
  return (drawn / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def images() -> tuple[np.ndarray, np.ndarray]:
  """[IMAGES, 224, 224, 3] and their labels."""
  random = np.random.default_rng(0)
  return random.standard_normal((IMAGES, 224, 224, 3), np.float32), random.integers(0, 1000, IMAGES)


def places(name: str, size: int) -> np.ndarray:
  """Which entries of a gradient are kept."""
  return np.random.default_rng(zlib.crc32(name.encode()) + 1).integers(0, size, ENTRIES)


def make(size: str, **more) -> MlpMixer:
  patch, blocks, width = SIZES[size]
  return MlpMixer(img_size=224, patch_size=patch, num_blocks=blocks, embed_dim=width, num_classes=1000, **more)


def main():
  names = {}
  for size in SIZES:
    with torch.device('meta'):
      names[size] = {name: list(value.shape) for name, value in make(size).state_dict().items()}
  (GOLDEN / 'timm.json').write_text(json.dumps(names, separators=(',', ':')) + '\n')

  image, label = images()
  image, label = torch.tensor(image, dtype=torch.float64).permute(0, 3, 1, 2), torch.tensor(label)
  kept = {}
  for size in ('S/32', 'S/16'):
    for gelu, layer in GELUS.items():
      model = make(size, act_layer=layer).to(torch.float64).eval()
      model.load_state_dict({name: torch.tensor(weight(name, v.shape)) for name, v in model.state_dict().items()})
      features = model.forward_features(image)
      logits = model.forward_head(features)
      loss = F.cross_entropy(logits, label)
      loss.backward()
      found = {'logits': logits, 'pre_logits': model.forward_head(features, pre_logits=True), 'loss': loss}
      found = {what: value.detach().numpy() for what, value in found.items()}
      grads = {name: value.grad.numpy() for name, value in model.named_parameters()}
      found['norms'] = np.array([np.linalg.norm(grads[name]) for name in sorted(grads)])
      found['entries'] = np.array([grads[n].reshape(-1)[places(n, grads[n].size)] for n in sorted(grads)])
      kept |= {f'{size}/{gelu}/{what}': value.astype(np.float32) for what, value in found.items()}
  np.savez_compressed(GOLDEN / 'timm.npz', **kept)

  tiny = MlpMixer(img_size=8, patch_size=4, in_chans=2, num_classes=3, num_blocks=1, embed_dim=12)
  tiny.load_state_dict({name: torch.tensor(weight(name, v.shape)) for name, v in tiny.state_dict().items()})
  state = tiny.state_dict()
  torch.save(state, GOLDEN / 'timm_plain.pth')
  torch.save(
    {'epoch': 3, 'state_dict': dict(tiny.named_parameters()), 'args': [1e-3, 'cosine']}, GOLDEN / 'timm_nested.pth'
  )
  for kind in ('float32', 'float16', 'bfloat16'):
    save_file({name: v.to(getattr(torch, kind)) for name, v in state.items()}, GOLDEN / f'timm_{kind}.safetensors')


if __name__ == '__main__':
  main()
