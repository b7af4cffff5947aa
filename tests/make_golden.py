"""Makes tests/golden/*.npz: small Mixers written again in PyTorch, their logits, losses and gradients.

Run where torch and NumPy are installed; mixer_jax is not needed, and the tests need no torch:

  python tests/make_golden.py

The models here share no code and no names with mixer_jax. They compute in float64 with weights that float32
holds exactly, so that what is stored is the right answer up to one rounding. Arrays of a file:
  image [batch, height, width, channels] or features [batch, columns], label [batch], weight/NAME, and for each GELU
  KIND/logits, KIND/loss, KIND/grad/NAME, with the parameter names of the torch modules. Of auto-encoders, for each kind
  of mixing, KIND/weight/NAME, KIND/code, KIND/logits (the image again), KIND/loss, KIND/grad/NAME.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

GOLDEN = Path(__file__).parent / 'golden'
EPSILON = 1e-6  # of the original's LayerNorm; torch.nn.LayerNorm has 1e-5 where nothing is said
BATCH, CLASSES = 4, 5


class Paper(nn.Module):
  """arXiv 2105.01601, on [batch, tokens, channels]."""

  def __init__(self, gelu, channels, height, width, patch, hidden, depth, token_mlp, channel_mlp):
    super().__init__()
    tokens = (height // patch) * (width // patch)
    self.conv = nn.Conv2d(channels, hidden, kernel_size=patch, stride=patch)
    self.layers = nn.ModuleList()
    for _ in range(depth):
      layer = nn.ModuleDict()
      layer['ln_tokens'] = nn.LayerNorm(hidden, eps=EPSILON)
      layer['tokens_in'], layer['tokens_out'] = nn.Linear(tokens, token_mlp), nn.Linear(token_mlp, tokens)
      layer['ln_channels'] = nn.LayerNorm(hidden, eps=EPSILON)
      layer['channels_in'], layer['channels_out'] = (
        nn.Linear(hidden, channel_mlp),
        nn.Linear(channel_mlp, hidden),
      )
      self.layers.append(layer)
    self.ln_last = nn.LayerNorm(hidden, eps=EPSILON)
    self.classifier = nn.Linear(hidden, CLASSES)
    self.approximate = gelu

  def forward(self, image):
    x = self.conv(image).flatten(2).transpose(1, 2)
    for layer in self.layers:
      y = layer['ln_tokens'](x).transpose(1, 2)
      y = layer['tokens_out'](F.gelu(layer['tokens_in'](y), approximate=self.approximate))
      x = x + y.transpose(1, 2)
      y = layer['channels_in'](layer['ln_channels'](x))
      x = x + layer['channels_out'](F.gelu(y, approximate=self.approximate))
    return self.classifier(self.ln_last(x).mean(dim=1))


class Mlp(nn.Module):
  def __init__(self, width, hidden, gelu):
    super().__init__()
    self.fc1 = nn.Linear(width, hidden)
    self.gelu = nn.GELU(approximate=gelu)
    self.fc2 = nn.Linear(hidden, width)

  def forward(self, x):
    return self.fc2(self.gelu(self.fc1(x)))


class MnistBlock(nn.Module):
  """On [batch, channels, tokens]; LayerNorm over the tokens, channels mixed first."""

  def __init__(self, tokens, hidden, mlp, gelu):
    super().__init__()
    self.ln1 = nn.LayerNorm(tokens, eps=EPSILON)
    self.mlp1 = Mlp(hidden, mlp, gelu)
    self.ln2 = nn.LayerNorm(tokens, eps=EPSILON)
    self.mlp2 = Mlp(tokens, mlp, gelu)

  def forward(self, x):
    x = x + self.mlp1(self.ln1(x).permute(0, 2, 1)).permute(0, 2, 1)
    return x + self.mlp2(self.ln2(x))


class Mnist(nn.Module):
  """The Mixer of configs/mnist.py."""

  def __init__(self, gelu, channels, height, width, patch, hidden, depth, mlp, head):
    super().__init__()
    tokens = (height // patch) * (width // patch)
    self.patch_embedding = nn.Conv2d(channels, hidden, kernel_size=patch, stride=patch)
    self.mixers = nn.ModuleList([MnistBlock(tokens, hidden, mlp, gelu) for _ in range(depth)])
    self.clf = nn.Sequential(
      nn.Linear(tokens * hidden, head),
      nn.GELU(approximate=gelu),
      nn.Linear(head, head),
      nn.GELU(approximate=gelu),
      nn.Linear(head, CLASSES),
    )

  def forward(self, image):
    x = self.patch_embedding(image).flatten(2)
    for mixer in self.mixers:
      x = mixer(x)
    return self.clf(x.flatten(1))


class Rows(nn.Module):
  """The Mixer of configs/unsw_nb15.py:1 to :5, on [batch, columns]."""

  def __init__(self, activation, columns, patch, hidden, depth, token_mlp, channel_mlp):
    super().__init__()
    self.patch, tokens = patch, columns // patch
    self.embed = nn.Linear(patch, hidden)
    self.layers = nn.ModuleList()
    for _ in range(depth):
      layer = nn.ModuleDict()
      layer['ln_tokens'], layer['ln_channels'] = (nn.LayerNorm(hidden, eps=EPSILON) for _ in range(2))
      layer['tokens_in'], layer['tokens_out'] = nn.Linear(tokens, token_mlp), nn.Linear(token_mlp, tokens)
      layer['channels_in'], layer['channels_out'] = nn.Linear(hidden, channel_mlp), nn.Linear(channel_mlp, hidden)
      self.layers.append(layer)
    self.ln_last = nn.LayerNorm(hidden, eps=EPSILON)
    self.classifier = nn.Linear(hidden, 1)
    self.activation = torch.tanh if activation == 'tanh' else F.gelu

  def forward(self, features):
    x = self.embed(features.unflatten(1, (-1, self.patch)))
    for layer in self.layers:
      y = layer['tokens_in'](layer['ln_tokens'](x).transpose(1, 2))
      x = x + layer['tokens_out'](self.activation(y)).transpose(1, 2)
      x = x + layer['channels_out'](self.activation(layer['channels_in'](layer['ln_channels'](x))))
    return self.classifier(self.ln_last(x).mean(dim=1))


class Exchange(nn.Module):
  """Mixing of [batch, patches, width] as "MLP-Mixer re-invented for auto-encoding" describes it."""

  def __init__(self, kind, patches, width, kernel):
    super().__init__()
    self.kind, self.grid, self.side = kind, round(patches**0.5), round(width**0.5)
    conv = nn.Conv2d if '2d' in kind else nn.Conv1d
    if kind == 'mlp':
      self.full = nn.Linear(patches * width, patches * width)
    else:
      self.first = conv(patches, patches, kernel, padding=(kernel - 1) // 2)
      if kind.endswith('f'):
        self.second = conv(width, width, kernel, padding=(kernel - 1) // 2)

  def forward(self, x):
    if self.kind == 'mlp':
      return self.full(x.flatten(1)).view_as(x)
    plane = lambda y, side: y.unflatten(2, (side, side)) if '2d' in self.kind else y
    x = self.first(plane(x, self.side)).flatten(2)
    if self.kind.endswith('f'):
      x = self.second(plane(x.transpose(1, 2), self.grid)).flatten(2).transpose(1, 2)
    return x


class Codes(nn.Module):
  """An auto-encoder of that source, on [batch, 1, height, width]."""

  def __init__(self, kind, side, patch, widths, code, after, kernel, encoder_gelu, output_gelu):
    super().__init__()
    self.patch, self.count = patch, side // patch
    patches, sizes = self.count**2, [patch**2, *widths]
    self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
    self.gelus = [], []
    for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
      self.encoder.append(nn.Linear(a, b))
      self.gelus[0].append(True)
      self.decoder.insert(0, nn.Linear(b, a))
      self.gelus[1].insert(0, i > 0 or output_gelu)
      if i + 1 in after:
        self.encoder.append(Exchange(kind, patches, b, kernel))
        self.gelus[0].append(encoder_gelu)
        self.decoder.insert(0, Exchange(kind, patches, b, kernel))
        self.gelus[1].insert(0, True)
    self.head, self.tail = nn.Linear(patches * widths[-1], code), nn.Linear(code, patches * widths[-1])

  def through(self, layers, gelus, x):
    for layer, gelu in zip(layers, gelus, strict=True):
      y = F.gelu(layer(x)) if gelu else layer(x)
      x = y + x if y.shape == x.shape else y
    return x

  def forward(self, image):
    n, p = self.count, self.patch
    x = image.reshape(-1, n, p, n, p).transpose(2, 3).reshape(-1, n * n, p * p)
    self.code = self.head(self.through(self.encoder, self.gelus[0], x).flatten(1))
    x = self.through(self.decoder, self.gelus[1], self.tail(self.code).unflatten(1, (n * n, -1)))
    return x.reshape(-1, n, n, p, p).transpose(2, 3).reshape(image.shape)


def randomise(model):
  """Every weight random and none near zero in scale: what starts as 0 or 1 would hide a mistake."""
  for name, weight in model.named_parameters():
    if name.endswith('bias'):
      value = 0.3 * torch.randn(weight.shape)
    elif weight.ndim == 1:
      value = 1 + 0.3 * torch.randn(weight.shape)
    else:
      value = torch.randn(weight.shape) / weight[0].numel() ** 0.5
    weight.data = value.to(torch.float32).to(torch.float64)


def make_images(path, model_class, gelus, sizes):
  torch.manual_seed(0)
  image = torch.randn(BATCH, sizes['channels'], sizes['height'], sizes['width']).to(torch.float64)
  label = torch.randint(CLASSES, (BATCH,))
  arrays = {'image': image.permute(0, 2, 3, 1), 'label': label}
  save(path, model_class, gelus, sizes, arrays, image, lambda logits: F.cross_entropy(logits, label))


def make_rows(path, activations, sizes):
  torch.manual_seed(0)
  features = torch.randn(BATCH, sizes['columns']).to(torch.float64)
  label = torch.tensor([1, 0, 1, 1])
  loss = lambda logits: F.binary_cross_entropy_with_logits(logits[:, 0], label.to(torch.float64))
  save(path, Rows, activations, sizes, {'features': features, 'label': label}, features, loss)


def make_codes(path, kinds, sizes):
  torch.manual_seed(0)
  image = torch.rand(BATCH, 1, sizes['side'], sizes['side']).to(torch.float32).to(torch.float64)
  arrays = {'image': image.permute(0, 2, 3, 1)}
  for kind, (encoder_gelu, output_gelu) in kinds.items():
    model = Codes(kind, **sizes, encoder_gelu=encoder_gelu, output_gelu=output_gelu).to(torch.float64)
    randomise(model)
    output = model(image)
    loss = F.mse_loss(output, image)
    loss.backward()
    arrays |= {f'{kind}/logits': output.permute(0, 2, 3, 1), f'{kind}/code': model.code, f'{kind}/loss': loss}
    arrays |= {f'{kind}/weight/{name}': weight for name, weight in model.named_parameters()}
    arrays |= {f'{kind}/grad/{name}': weight.grad for name, weight in model.named_parameters()}
  np.savez(path, **{name: value.detach().numpy().astype(np.float32) for name, value in arrays.items()})


def save(path, model_class, gelus, sizes, arrays, inputs, loss_of):
  weights = None
  for gelu in gelus:
    model = model_class('none' if gelu == 'exact' else gelu, **sizes).to(torch.float64)
    if weights is None:
      randomise(model)
      weights = model.state_dict()
      arrays |= {f'weight/{name}': value for name, value in weights.items()}
    model.load_state_dict(weights)
    logits = model(inputs)
    loss = loss_of(logits)
    loss.backward()
    arrays |= {f'{gelu}/logits': logits, f'{gelu}/loss': loss}
    arrays |= {f'{gelu}/grad/{name}': weight.grad for name, weight in model.named_parameters()}
  arrays = {name: value.detach().numpy() for name, value in arrays.items()}
  arrays = {name: value.astype(np.int32 if name == 'label' else np.float32) for name, value in arrays.items()}
  np.savez(path, **arrays)


if __name__ == '__main__':
  GOLDEN.mkdir(exist_ok=True)
  # No two sizes are equal, so that no transposition goes unseen.
  shape = {'height': 12, 'width': 8, 'patch': 4, 'depth': 2}
  paper = {**shape, 'channels': 3, 'hidden': 16, 'token_mlp': 10, 'channel_mlp': 24}
  make_images(GOLDEN / 'paper.npz', Paper, ('tanh', 'exact'), paper)
  make_images(GOLDEN / 'mnist.npz', Mnist, ('exact',), {**shape, 'channels': 1, 'hidden': 12, 'mlp': 10, 'head': 14})
  rows = {'columns': 12, 'patch': 3, 'hidden': 10, 'depth': 2, 'token_mlp': 16, 'channel_mlp': 5}
  make_rows(GOLDEN / 'rows.npz', ('gelu', 'tanh'), rows)
  # For each kind whether the encoder's mixings and the pixels have a GELU.
  kinds = {
    'cnn': (False, False), 'cnnf': (True, False), 'cnn2d': (True, True), 'cnn2df': (True, False), 'mlp': (False, True),
  }  # fmt: skip
  codes = {'side': 6, 'patch': 3, 'widths': (16, 16, 9), 'code': 5, 'after': (1, 3), 'kernel': 3}
  make_codes(GOLDEN / 'autoencoder.npz', kinds, codes)
