"""The PyTorch side of benchmarks/peers.py, which starts it and controls it in lines of JSON."""

import argparse
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
  def __init__(self, width, hidden):
    super().__init__()
    self.fc1 = nn.Linear(width, hidden)
    self.gelu = nn.GELU()
    self.fc2 = nn.Linear(hidden, width)

  def forward(self, x):
    return self.fc2(self.gelu(self.fc1(x)))


class Block(nn.Module):
  """On [batch, channels, tokens]; LayerNorm over the tokens, channels mixed first."""

  def __init__(self, tokens, hidden, mlp):
    super().__init__()
    self.ln1 = nn.LayerNorm(tokens)
    self.mlp1 = Mlp(hidden, mlp)
    self.ln2 = nn.LayerNorm(tokens)
    self.mlp2 = Mlp(tokens, mlp)

  def forward(self, x):
    x = x + self.mlp1(self.ln1(x).permute(0, 2, 1)).permute(0, 2, 1)
    return x + self.mlp2(self.ln2(x))


class Mnist(nn.Module):
  """The Mixer of configs/mnist.py, as in its source."""

  def __init__(self):
    super().__init__()
    self.patch_embedding = nn.Conv2d(1, 128, kernel_size=7, stride=7)
    self.blocks = nn.Sequential(*(Block(16, 128, 64) for _ in range(3)))
    self.head = nn.Sequential(nn.Linear(16 * 128, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10))

  def forward(self, image):
    return self.head(self.blocks(self.patch_embedding(image).flatten(2)).flatten(1))


class RowsMlp(nn.Sequential):
  """Dropout after each linear layer."""

  def __init__(self, width, hidden):
    layers = nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width), nn.Dropout(0.1)
    super().__init__(*layers)


class RowsBlock(nn.Module):
  """On [batch, tokens, channels]; each branch of a row is dropped at `rate`, a kept one divided by 1 - rate."""

  def __init__(self, tokens, hidden, rate):
    super().__init__()
    self.ln1, self.token_mixing = nn.LayerNorm(hidden), RowsMlp(tokens, 4 * tokens)
    self.ln2, self.channel_mixing = nn.LayerNorm(hidden), RowsMlp(hidden, hidden // 2)
    self.rate = rate

  def drop(self, branch):
    keep = torch.rand(len(branch), 1, 1) >= self.rate
    return branch * keep / (1 - self.rate)

  def forward(self, x):
    x = x + self.drop(self.token_mixing(self.ln1(x).transpose(1, 2)).transpose(1, 2))
    return x + self.drop(self.channel_mixing(self.ln2(x)))


class Rows(nn.Module):
  """The network of configs/unsw_nb15.py:3: 42 columns in 14 tokens, one logit."""

  def __init__(self, patch=3, hidden=198, depth=10):
    super().__init__()
    self.patch = patch
    self.stem = nn.Linear(patch, hidden)
    self.blocks = nn.Sequential(*(RowsBlock(42 // patch, hidden, 0.1 * i / (depth - 1)) for i in range(depth)))
    self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, 1)

  def forward(self, row):
    x = self.blocks(self.stem(row.unflatten(1, (-1, self.patch))))
    return self.head(self.norm(x).mean(dim=1))[:, 0]


class MixingMlp(nn.Module):
  """A linear layer over all of [batch, patches, width]."""

  def __init__(self, patches, width):
    super().__init__()
    self.linear = nn.Linear(patches * width, patches * width)

  def forward(self, x):
    return self.linear(x.flatten(1)).view_as(x)


class MixingCnn2df(nn.Module):
  """A 2-D convolution whose channels are the patches, then one whose channels are the width."""

  def __init__(self, patches, width, kernel):
    super().__init__()
    self.sides = round(patches**0.5), round(width**0.5)
    self.of_patches = nn.Conv2d(patches, patches, kernel, padding=kernel // 2)
    self.of_width = nn.Conv2d(width, width, kernel, padding=kernel // 2)

  def forward(self, x):
    x = self.of_patches(x.unflatten(2, (self.sides[1],) * 2)).flatten(2)
    return self.of_width(x.transpose(1, 2).unflatten(2, (self.sides[0],) * 2)).flatten(2).transpose(1, 2)


class Residual(nn.Module):
  def __init__(self, layer, gelu=True):
    super().__init__()
    self.layer, self.gelu = layer, nn.GELU() if gelu else nn.Identity()

  def forward(self, x):
    y = self.gelu(self.layer(x))
    return x + y if x.shape == y.shape else y


class MixingAutoencoder(nn.Module):
  """Networks of configs/mnist_autoencoder.py; `setting` is its argument."""

  def __init__(self, setting, patch=7, widths=(64, 64, 64, 16), code=16):
    super().__init__()
    kind, after, *_ = (*setting.split('-'), '')
    self.patch, self.side, patches = patch, 28 // patch, (28 // patch) ** 2
    make = lambda width: MixingMlp(patches, width) if kind == 'mlp' else MixingCnn2df(patches, width, 7)
    encoder, decoder, inputs = [], [], patch**2
    for number, width in enumerate(widths, start=1):
      encoder.append(Residual(nn.Linear(inputs, width)))
      decoder.append(Residual(nn.Linear(width, inputs), gelu=number > 1 or '1' in after))
      if str(number) in after:
        encoder.append(Residual(make(width), gelu=kind == 'cnn2df'))
        decoder.append(Residual(make(width)))
      inputs = width
    self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*reversed(decoder))
    self.to_code, self.from_code = nn.Linear(patches * inputs, code), nn.Linear(code, patches * inputs)

  def forward(self, image):
    p, n = self.patch, self.side
    x = image.view(-1, n, p, n, p).permute(0, 1, 3, 2, 4).reshape(-1, n * n, p * p)
    code = self.to_code(self.encoder(x).flatten(1))
    x = self.decoder(self.from_code(code).view(len(x), n * n, -1))
    return x.view(-1, n, n, p, p).permute(0, 1, 3, 2, 4).reshape(image.shape)


def make_model(what):
  if what == 'mnist':
    return Mnist()
  if what.startswith('autoencoder_'):
    return MixingAutoencoder(what.removeprefix('autoencoder_'))
  if what == 'rows':
    return Rows()
  import timm

  return timm.create_model('mixer_s16_224')


def make_run(model, inputs, labels, batch, **form):
  """Returns run(count), which trains that many steps over data in memory."""
  coder = isinstance(model, MixingAutoencoder)
  optimizer = (torch.optim.AdamW if coder else torch.optim.Adam)(model.parameters(), lr=1e-3, **form)
  starts = range(0, len(inputs) - batch + 1, batch)
  rows = isinstance(model, Rows)
  done = 0

  def run(count):
    nonlocal done
    for _ in range(count):
      start = starts[done % len(starts)]
      optimizer.zero_grad(set_to_none=True)
      outputs, truth = model(inputs[start : start + batch]), labels[start : start + batch]
      if coder:
        loss = F.mse_loss(outputs, inputs[start : start + batch])
      else:
        loss = F.binary_cross_entropy_with_logits(outputs, truth.float()) if rows else F.cross_entropy(outputs, truth)
      loss.backward()
      if rows:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      optimizer.step()
      done += 1

  return run


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('what')
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--threads', type=int, required=True)
  args = parser.parse_args()
  answers, sys.stdout = sys.stdout, sys.stderr  # keeps the output of libraries out of the answers
  torch.set_num_threads(args.threads)
  torch.manual_seed(0)
  shape, classes, examples = {
    'mnist': ((1, 28, 28), 10, 64 * args.batch),
    's16': ((3, 224, 224), 1000, args.batch),
    'rows': ((42,), 2, 20_000),
    'autoencoder': ((1, 28, 28), 10, 64 * args.batch),
  }[args.what.partition('_')[0]]
  inputs, labels = torch.randn(examples, *shape), torch.randint(classes, (examples,))

  # torch's default Adam, and its fused one.
  runs = {
    'torch': make_run(make_model(args.what).train(), inputs, labels, args.batch),
    'torch_fused': make_run(make_model(args.what).train(), inputs, labels, args.batch, fused=True),
  }
  versions = {'torch': torch.__version__}
  if 'timm' in sys.modules:
    versions['timm'] = sys.modules['timm'].__version__
  parameters = sum(p.numel() for p in make_model(args.what).parameters())
  report = {'sides': tuple(runs), 'versions': versions, 'parameters': dict.fromkeys(runs, parameters)}
  print(json.dumps(report), file=answers, flush=True)
  for line in sys.stdin:
    question = json.loads(line)
    began = time.perf_counter()
    runs[question['side']](question['steps'])
    print(json.dumps({'seconds': time.perf_counter() - began}), file=answers, flush=True)


if __name__ == '__main__':
  main()
