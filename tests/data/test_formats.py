"""Images, IDX and CIFAR files: what they hold, and one clear error for each way of damaging them."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from mixer_jax import errors
from mixer_jax.data import formats

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def refuses(*parts):
  """One line of MixerError that holds all `parts`."""

  class Check:
    def __enter__(self):
      self.context = pytest.raises(errors.MixerError)
      self.info = self.context.__enter__()

    def __exit__(self, *raised):
      held = self.context.__exit__(*raised)
      message = str(self.info.value)
      assert '\n' not in message
      for part in parts:
        assert str(part) in message, (part, message)
      return held

  return Check()


# fit_image


def test_native_shape_is_untouched():
  assert formats.fit_image(PIXELS, (12, 20, 3)) is PIXELS


@pytest.mark.parametrize('h, w', [(7, 5), (5, 7), (40, 40), (12, 60), (1, 1), (300, 2)])
@pytest.mark.parametrize('c, channels', [(1, 1), (1, 3), (3, 1), (3, 3), (4, 4)])
def test_fit_gives_the_shape(h, w, c, channels):
  image = RNG.integers(0, 256, (12, 20, c), np.uint8)
  fitted = formats.fit_image(image, (h, w, channels))
  assert fitted.shape == (h, w, channels)
  assert fitted.dtype == np.uint8


def test_a_constant_image_stays_constant():
  assert (formats.fit_image(np.full((9, 31, 3), 77, np.uint8), (16, 16, 3)) == 77).all()


def test_crop_without_scaling_takes_the_centre_exactly():
  np.testing.assert_array_equal(formats.fit_image(PIXELS, (12, 13, 3)), PIXELS[:, 3:16])


def test_crop_is_centred_and_covers():
  # Thirds of black, white, black; only the middle third covers the square.
  image = np.zeros((10, 30, 1), np.uint8)
  image[:, 10:20] = 255
  fitted = formats.fit_image(image, (20, 20, 1))
  assert (fitted[:, 1:-1] == 255).all()


def test_halving_averages():
  # Antialiased bilinear at scale 2 has the weights 1 3 3 1, so far from edges a ramp keeps its slope.
  ramp = np.tile(np.arange(0, 160, 4, dtype=np.uint8), (40, 1))[..., None]
  fitted = formats.fit_image(ramp, (20, 20, 1))
  np.testing.assert_array_equal(fitted[0, 1:-1, 0], np.arange(2, 160, 8)[1:-1])


def test_channels_by_repetition_and_luma():
  grey = PIXELS[:, :, :1]
  np.testing.assert_array_equal(formats.fit_image(grey, (12, 20, 3)), np.repeat(grey, 3, axis=-1))
  luma = PIXELS @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(formats.fit_image(PIXELS, (12, 20, 1))[..., 0], luma, atol=0.51)


@pytest.mark.parametrize('c, channels', [(4, 3), (3, 4), (2, 1), (1, 2)])
def test_other_channels_are_refused(c, channels):
  with refuses(f'{c} channels', f'into one of {channels}'):
    formats.fit_image(np.zeros((4, 4, c), np.uint8), (4, 4, channels))


@pytest.mark.parametrize('image', [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_other_arrays_are_refused(image):
  with refuses(str(image.dtype), str(list(image.shape))):
    formats.fit_image(image, (4, 4, 3))


def test_an_image_without_pixels_is_refused():
  with refuses('(0, 4, 3)'):
    formats.fit_image(np.zeros((0, 4, 3), np.uint8), (4, 4, 3))


# read_image


def save(path, image, **options):
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
  return path


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif'])
def test_lossless_files_come_back_bit_for_bit(tmp_path, suffix):
  path = save(tmp_path / f'a.{suffix}', PIXELS)
  np.testing.assert_array_equal(formats.read_image(path, PIXELS.shape), PIXELS)


def test_exif_orientation_is_applied(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned a quarter clockwise
  path = save(tmp_path / 'a.png', PIXELS, exif=exif)
  np.testing.assert_array_equal(formats.read_image(path, (20, 12, 3)), np.rot90(PIXELS, -1))


def test_palette_is_looked_up(tmp_path):
  image = Image.fromarray(PIXELS).quantize(16)
  path = save(tmp_path / 'a.png', image)
  np.testing.assert_array_equal(formats.read_image(path, PIXELS.shape), np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparency_is_laid_on_white(tmp_path, mode):
  image = Image.new(mode, (4, 4), (0,) * len(mode))
  assert (formats.read_image(save(tmp_path / 'a.png', image), (4, 4, 3)) == 255).all()


def test_transparent_palette_entry_is_laid_on_white(tmp_path):
  image = Image.new('P', (4, 4), 0)
  image.putpalette([10, 20, 30, 40, 50, 60])
  path = save(tmp_path / 'a.gif', image, transparency=0)
  assert (formats.read_image(path, (4, 4, 1)) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
  path = save(tmp_path / 'a.png', np.array([[0, 257, 65535, 128 * 257 + 100]], np.uint16))
  np.testing.assert_array_equal(formats.read_image(path, (1, 4, 1))[0, :, 0], [0, 1, 255, 128])


def test_one_bit_and_cmyk(tmp_path):
  path = save(tmp_path / 'a.png', Image.new('1', (4, 4), 1))
  assert (formats.read_image(path, (4, 4, 1)) == 255).all()
  path = save(tmp_path / 'a.tif', Image.new('CMYK', (4, 4), (0, 255, 255, 0)))
  assert (formats.read_image(path, (4, 4, 3)) == [255, 0, 0]).all()


def test_floating_point_is_refused(tmp_path):
  path = save(tmp_path / 'a.tif', np.full((4, 4), 0.5, np.float32))
  with refuses(path, 'float32'):
    formats.read_image(path, (4, 4, 1))


@pytest.mark.parametrize('content', [b'', b'hello, this is no image', b'\x89PNG\r\n\x1a\n'])
def test_what_is_no_image_is_refused(tmp_path, content):
  path = tmp_path / 'a.jpg'
  path.write_bytes(content)
  with refuses(path, 'cannot be read as an image'):
    formats.read_image(path, (4, 4, 3))


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'gif', 'bmp', 'tif', 'webp'])
def test_a_truncated_image_is_refused(tmp_path, suffix):
  path = save(tmp_path / f'a.{suffix}', PIXELS)
  path.write_bytes(path.read_bytes()[:-80])
  with refuses(path):
    formats.read_image(path, PIXELS.shape)


def test_a_missing_image_or_a_folder_is_refused(tmp_path):
  for path in (tmp_path / 'none.png', tmp_path):
    with refuses(path):
      formats.read_image(path, (4, 4, 3))


@pytest.mark.parametrize('limit', [30, 150])  # 240 pixels: an error above twice the limit, a warning above it
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
  path = save(tmp_path / 'a.png', PIXELS)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
  with refuses(path, '240 pixels', 'smaller'):
    formats.read_image(path, PIXELS.shape)


def test_a_file_has_one_or_three_channels(tmp_path):
  with refuses('1 or 3 channels', '4'):
    formats.read_image(tmp_path / 'a.png', (4, 4, 4))


# IDX


def idx(array, magic=None):
  magic = 0x800 + array.ndim if magic is None else magic
  return b''.join(n.to_bytes(4, 'big') for n in (magic, *array.shape)) + array.tobytes()


CUBE = RNG.integers(0, 256, (5, 3, 2), np.uint8)


@pytest.mark.parametrize('suffix, pack', [('', bytes), ('.gz', gzip.compress)])
def test_idx_round_trip(tmp_path, suffix, pack):
  path = tmp_path / f'a-ubyte{suffix}'
  path.write_bytes(pack(idx(CUBE)))
  np.testing.assert_array_equal(formats.read_idx(path, 3), CUBE)


@pytest.mark.parametrize(
  'content, parts',
  [
    (b'', ('16 bytes', 'found 0')),
    (idx(CUBE)[:10], ('16 bytes', 'found 10')),
    (idx(CUBE, magic=2049), ('2051', '2049')),
    (idx(CUBE)[:-1], ('30 bytes', 'found 29', '(5, 3, 2)')),
    (idx(CUBE) + b'x', ('30 bytes', 'found 31')),
    (b'<html>not found</html>', ('2051', 'magic')),
  ],
)
@pytest.mark.parametrize('suffix, pack', [('', bytes), ('.gz', gzip.compress)])
def test_damaged_idx_is_refused(tmp_path, content, parts, suffix, pack):
  path = tmp_path / f'a-ubyte{suffix}'
  path.write_bytes(pack(content))
  with refuses(path, *parts, 'download'):
    formats.read_idx(path, 3)


@pytest.mark.parametrize(
  'spoil',
  [lambda d: d[:-4], lambda d: d[:20], lambda d: d[:-8] + bytes(8), lambda d: b'x' + d, lambda d: d + b'x'],
)
def test_corrupt_gzip_is_refused(tmp_path, spoil):
  path = tmp_path / 'a-ubyte.gz'
  path.write_bytes(spoil(gzip.compress(idx(CUBE))))
  with refuses(path, 'download'):
    formats.read_idx(path, 3)


def test_counts_and_label_range_are_checked():
  images = np.zeros((3, 2, 2, 1), np.uint8)
  with refuses('here', '3 images', '2 labels'):
    formats.checked(images, np.zeros(2, np.uint8), 10, 'here')
  with refuses('here', 'from 0 to 9', 'found 10 at example 1'):
    formats.checked(images, np.array([0, 10, 11], np.uint8), 10, 'here')
  with refuses('here', '0 images'):
    formats.checked(images[:0], np.zeros(0, np.uint8), 10, 'here')


# CIFAR


def cifar_data(name, count=4):
  """Images [n, 32, 32, 3] and labels [n] for each file of either layout."""
  layout, classes = formats.CIFAR[name]['bin'], 10 if name == 'cifar10' else 100
  return {
    split: [
      (RNG.integers(0, 256, (count, 32, 32, 3), np.uint8), RNG.integers(0, classes, count)) for _ in layout[split]
    ]
    for split in ('train', 'test')
  }


def flat(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def binary(name, images, labels):
  coarse = [] if name == 'cifar10' else [np.full((len(labels), 1), 7)]
  return np.concatenate([*coarse, labels[:, None], flat(images)], axis=1).astype(np.uint8).tobytes()


def pickled(name, images, labels, protocol=2):
  key = formats.CIFAR[name]['py']['label_key']
  return pickle.dumps({'data': np.ascontiguousarray(flat(images)), key: labels.tolist()}, protocol=protocol)


def cifar_files(name, kind, data):
  pack = binary if kind == 'bin' else pickled
  layout = formats.CIFAR[name][kind]
  return {f: pack(name, *part) for s in ('train', 'test') for f, part in zip(layout[s], data[s], strict=True)}


def write(root, files):
  root.mkdir(parents=True, exist_ok=True)
  for file, content in files.items():
    (root / file).write_bytes(content)


def write_archive(path, folder, files):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w:gz') as tar:
    for file, content in files.items():
      member = tarfile.TarInfo(f'{folder}/{file}')
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize('place', ['folder', 'root', 'archive'])
@pytest.mark.parametrize('kind', ['bin', 'py'])
@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_cifar_from_every_layout(tmp_path, name, kind, place):
  data = cifar_data(name)
  files, layout = cifar_files(name, kind, data), formats.CIFAR[name][kind]
  if place == 'archive':
    write_archive(tmp_path / layout['archive'], layout['folder'], files)
  else:
    write(tmp_path / (layout['folder'] if place == 'folder' else ''), files)
  for split in ('train', 'test'):
    arrays, classes = formats.read_cifar(name, split, tmp_path)
    np.testing.assert_array_equal(arrays['image'], np.concatenate([images for images, _ in data[split]]))
    np.testing.assert_array_equal(arrays['label'], np.concatenate([labels for _, labels in data[split]]))
    assert arrays['image'].dtype == np.uint8
    assert arrays['label'].dtype == np.int32
    assert classes == (formats.CIFAR10_CLASSES if name == 'cifar10' else tuple(map(str, range(100))))


def test_no_cifar_is_none(tmp_path):
  assert formats.read_cifar('cifar10', 'train', tmp_path / 'none') is None


@pytest.mark.parametrize('name, n', [('cifar10', 10), ('cifar100', 100)])
def test_cifar_class_names_of_the_files(tmp_path, name, n):
  names = [f'class{k}' for k in range(n)]
  for kind in ('bin', 'py'):
    layout, root = formats.CIFAR[name][kind], tmp_path / kind
    text = ('\n'.join(names) + '\n\n').encode()
    content = text if kind == 'bin' else pickle.dumps({layout['names_key']: names}, protocol=2)
    write(root, cifar_files(name, kind, cifar_data(name, 1)) | {layout['names']: content})
    assert formats.read_cifar(name, 'test', root)[1] == tuple(names)
  write(tmp_path / 'bin', {formats.CIFAR[name]['bin']['names']: b'one\ntwo\n'})
  with refuses(f'expected {n} class names', 'found 2'):
    formats.read_cifar(name, 'test', tmp_path / 'bin')


def test_a_missing_batch_is_named(tmp_path):
  files = cifar_files('cifar10', 'bin', cifar_data('cifar10', 1))
  del files['data_batch_3.bin']
  write(tmp_path, files)
  with refuses('5 files', 'found 4', 'data_batch_3.bin'):
    formats.read_cifar('cifar10', 'train', tmp_path)
  write_archive(tmp_path / 'a' / 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin', {})
  with refuses('1 files', 'found 0', 'test_batch.bin'):
    formats.read_cifar('cifar10', 'test', tmp_path / 'a')


@pytest.mark.parametrize('spoil', [lambda d: d[:-1], lambda d: d + b'x', lambda d: b''])
def test_a_damaged_binary_batch_is_refused(tmp_path, spoil):
  good = cifar_files('cifar100', 'bin', cifar_data('cifar100'))['test.bin']
  write(tmp_path, {'test.bin': spoil(good)})
  with refuses('test.bin', '3074 bytes', f'found {len(spoil(good))}'):
    formats.read_cifar('cifar100', 'test', tmp_path)


def test_a_label_out_of_range_is_refused(tmp_path):
  write(tmp_path, {'test_batch.bin': bytes([10]) + bytes(3072)})
  with refuses('from 0 to 9', 'found 10'):
    formats.read_cifar('cifar10', 'test', tmp_path)


@pytest.mark.parametrize('spoil', [lambda d: d[: len(d) // 2], lambda d: b'no archive', lambda d: d[:-10] + bytes(10)])
def test_a_damaged_archive_is_refused(tmp_path, spoil):
  path = tmp_path / 'cifar-10-binary.tar.gz'
  write_archive(path, 'cifar-10-batches-bin', cifar_files('cifar10', 'bin', cifar_data('cifar10')))
  path.write_bytes(spoil(path.read_bytes()))
  with refuses(path, 'archive'):
    formats.read_cifar('cifar10', 'test', tmp_path)


# Pickles


def python2_pickle(images, labels):
  """The opcodes that Python 2's cPickle wrote for CIFAR: byte strings, and NumPy's old module names."""
  data = flat(images).tobytes()
  return (
    b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
    b'(K\x01K' + bytes([len(images)]) + b'M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R'
    b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T' + len(data).to_bytes(4, 'little') + data + b'tb'
    b'U\x06labels](' + b''.join(b'K' + bytes([k]) for k in labels) + b'eu.'
  )


def test_a_pickle_of_python_2_is_read(tmp_path):
  images, labels = cifar_data('cifar10')['test'][0]
  write(tmp_path, {'test_batch': python2_pickle(images, labels)})
  arrays, _ = formats.read_cifar('cifar10', 'test', tmp_path)
  np.testing.assert_array_equal(arrays['image'], images)
  np.testing.assert_array_equal(arrays['label'], labels)


class Runs:
  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('function', [os.system, os.mkdir, eval, exec, np.load, getattr])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, protocol, function):
  done = tmp_path / 'done'
  args = (str(done),) if function is os.mkdir else (f'touch {done}',)
  write(tmp_path, {'test_batch': pickle.dumps({'data': Runs(function, *args)}, protocol=protocol)})
  with refuses('test_batch', 'refused to load', function.__name__):
    formats.read_cifar('cifar10', 'test', tmp_path)
  assert not done.exists()


def test_a_pickle_that_runs_code_would_run_unprotected(tmp_path):
  done = tmp_path / 'done'
  pickle.loads(pickle.dumps(Runs(os.mkdir, str(done))))
  assert done.exists()


@pytest.mark.parametrize(
  'value, part',
  [
    (np.zeros((1, 3072), np.float32), "dtype 'f4'"),
    (np.array([[None] * 3072]), "dtype 'O8'"),
    (np.zeros((1, 3071), np.uint8), '(1, 3071)'),
    ([1, 2], 'list'),
    (Runs(np.empty(0).__reduce__()[0], np.ndarray, (1, 3072), 'f8'), 'float64'),
  ],
)
def test_another_array_in_a_pickle_is_refused(tmp_path, value, part):
  write(tmp_path, {'test_batch': pickle.dumps({'data': value, 'labels': [0]}, protocol=2)})
  with refuses('test_batch', part):
    formats.read_cifar('cifar10', 'test', tmp_path)


@pytest.mark.parametrize(
  'content, parts',
  [
    (b'', ('pickled dict',)),
    (b'hello', ('pickled dict',)),
    (pickle.dumps([1]), ('found list',)),
    (pickle.dumps({'labels': [1]}), ("'data'", 'found labels')),
    (pickle.dumps({'data': np.zeros((1, 3072), np.uint8), 'labels': ['a']}, protocol=2), ('integers',)),
    (
      pickle.dumps({'data': np.zeros((1, 3072), np.uint8), 'labels': [1, 2]}, protocol=2),
      ('1 images', '2 labels'),
    ),
    (pickle.dumps({'data': np.zeros((9, 3072), np.uint8), 'labels': [1]}, protocol=2)[:999], ('test_batch',)),
  ],
)
def test_a_damaged_pickle_is_refused(tmp_path, content, parts):
  write(tmp_path, {'test_batch': content})
  with refuses('test_batch', *parts):
    formats.read_cifar('cifar10', 'test', tmp_path)


def test_another_codec_in_a_pickle_is_refused():
  # What protocol 2 calls for bytes, but with a codec of the writer's choice.
  with refuses('somewhere', "encoding 'zlib'"):
    formats.unpickle(b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.', 'somewhere')


def test_a_pickle_cannot_reach_the_shared_dtype():
  # The opcodes for numpy.dtype('u1'), which a hostile pickle would go on to give another state.
  dtype = formats.unpickle(b'\x80\x02}U\x01acnumpy\ndtype\nU\x02u1\x85Rs.', 'somewhere')['a']
  assert dtype == np.dtype('u1')
  assert dtype is not np.dtype('u1')
