"""Folders of images without classes, and crops: what is kept of an image, what is cut out of it, what is noted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mixer_jax.data import inputs
from mixer_jax.data.images import canvas, decode, sets
from mixer_jax.errors import MixerError

SHAPE = (24, 24, 3)


def gradient(height, width, channels=3):
  """Pixels that tell where they are: the row, the column, and their sum."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y, x, (x + y) // 2], axis=-1).astype(np.uint8)[..., :channels]


def save(folder, name, pixels, **options):
  path = folder / name
  path.parent.mkdir(exist_ok=True, parents=True)
  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)
  return path


def load(folder, split='all', shape=SHAPE, crop_from=40):
  return sets.load(f'images:{folder}', split, image=shape, classes=1, crop_from=crop_from)


# ---- the canvas


@pytest.mark.parametrize(
  'size, kept',
  [
    ((40, 40), (40, 40)),  # as it is
    ((30, 28), (30, 28)),  # nothing is enlarged that need not be
    ((80, 60), (40, 30)),  # the longer side becomes 40
    ((100, 50), (40, 24)),  # the shorter would have 20: 24, and of the 48 the middle 40
    ((50, 100), (24, 40)),
    ((12, 16), (24, 32)),  # too small for the crop: enlarged
    ((12, 40), (24, 40)),  # both
    ((1, 300), (24, 40)),
  ],
)
def test_what_is_kept_of_an_image(size, kept):
  whole, filled = canvas.fit_canvas(gradient(*size), SHAPE[:2], 40)
  assert whole.shape == (40, 40, 3) and whole.dtype == np.uint8
  assert tuple(filled) == kept
  assert not whole[kept[0] :].any() and not whole[:, kept[1] :].any()


def test_an_image_that_fits_keeps_its_pixels():
  image = np.random.default_rng(0).integers(0, 256, (33, 27, 3), np.uint8)
  whole, filled = canvas.fit_canvas(image, SHAPE[:2], 40)
  np.testing.assert_array_equal(whole[: filled[0], : filled[1]], image)


def test_what_is_beyond_the_canvas_is_cut_off_on_both_sides():
  whole, filled = canvas.fit_canvas(gradient(24, 60), SHAPE[:2], 40)
  assert tuple(filled) == (24, 40)
  np.testing.assert_array_equal(whole[0, :, 1], np.arange(10, 50))


def test_a_smaller_one_is_a_bilinear_resize():
  image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
  whole, _ = canvas.fit_canvas(image, SHAPE[:2], 40)
  wanted = np.asarray(Image.fromarray(image).resize((30, 40), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(whole[:, :30], wanted)


# ---- the crop


def test_random_crops_are_windows_of_what_is_filled_and_reach_every_place():
  sizes = [(40, 30), (24, 40), (24, 24), (33, 27)]
  canvases = [canvas.fit_canvas(gradient(*s), (24, 24), 40) for s in sizes]
  image, size = (np.stack(part) for part in zip(*canvases, strict=True))
  places = {i: set() for i in range(len(sizes))}
  draw = jax.jit(lambda key: canvas.crop(jnp.asarray(image), jnp.asarray(size), (24, 24), key))
  for seed in range(300):
    for i, window in enumerate(np.asarray(draw(jax.random.key(seed)))):
      top, left = window[0, 0, :2]
      np.testing.assert_array_equal(window, image[i, top : top + 24, left : left + 24])
      places[i].add((int(top), int(left)))
  assert places[2] == {(0, 0)} and places[1] == {(0, x) for x in range(17)}
  assert {y for y, _ in places[0]} == set(range(17)) and {x for _, x in places[0]} == set(range(7))
  assert {y for y, _ in places[3]} == set(range(10)) and {x for _, x in places[3]} == set(range(4))


def test_without_a_key_the_crop_is_the_middle_one():
  image, size = canvas.fit_canvas(gradient(40, 30), (24, 24), 40)
  window = canvas.crop(jnp.asarray(image[None]), jnp.asarray(size[None]), (24, 24), None)
  np.testing.assert_array_equal(window[0], image[8:32, 3:27])


def test_preprocess_crops_then_augments_and_agrees_with_crop():
  data = inputs.Images(
    name='images:x', image=SHAPE, classes=1, mean=(0.0,) * 3, std=(1.0,) * 3, crop_from=40,
  )  # fmt: skip
  image, size = canvas.fit_canvas(gradient(40, 30), (24, 24), 40)
  batch = {'image': jnp.asarray(image[None]), 'size': jnp.asarray(size[None]), 'label': jnp.zeros(1, jnp.int32)}
  preprocessed = data.make_preprocess({}, 1)(batch)['image']
  np.testing.assert_allclose(preprocessed[0], image[8:32, 3:27] / 255, atol=1e-6)
  keys = [jax.random.key(i) for i in range(8)]
  drawn = [np.asarray(data.make_preprocess({}, 1)(batch, key)['image']) for key in keys]
  assert len({d.tobytes() for d in drawn}) > 4
  np.testing.assert_array_equal(data.make_preprocess({}, 1)(batch, keys[3])['image'], drawn[3])


def test_a_canvas_smaller_than_the_crop():
  with pytest.raises(MixerError, match='data.crop_from is 20, but the crop 24x24 is larger'):
    inputs.Images(
      name='images:x', image=SHAPE, classes=1, mean=(0.0,) * 3, std=(1.0,) * 3, crop_from=20,
    )  # fmt: skip


def test_images_of_one_size_have_no_canvas():
  with pytest.raises(MixerError, match='crop_from is 40, but digits holds images of one size'):
    sets.load('digits', 'train', image=(8, 8, 1), classes=10, crop_from=40)


# ---- the folder


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
  for name in ('b/2.png', 'a.png', 'b/1.jpg', 'c.png'):
    save(tmp_path, name, gradient(30, 30) + ord(name[0]) % 50)
  source = load(tmp_path)
  assert len(source) == 4 and source.classes == ('image',)
  example = source[0]
  assert example['image'].shape == (40, 40, 3) and tuple(example['size']) == (30, 30) and example['label'] == 0
  np.testing.assert_array_equal(example['image'][:30, :30], gradient(30, 30) + ord('a') % 50)
  assert len(load(tmp_path, 'all[:1]')) == 1
  np.testing.assert_array_equal(load(tmp_path, 'all[3:]')[0]['image'], source[3]['image'])
  assert source.notes == ()


def test_without_crop_from_images_are_resized(tmp_path):
  save(tmp_path, 'a.png', gradient(30, 60))
  assert load(tmp_path, crop_from=0)[0]['image'].shape == SHAPE


def test_what_is_converted_enlarged_and_left_out_is_counted(tmp_path):
  save(tmp_path, 'a.png', gradient(30, 30))
  save(tmp_path, 'grey1.png', gradient(30, 30, 1))
  save(tmp_path, 'grey2.png', gradient(50, 30, 1))
  save(tmp_path, 'small.png', gradient(30, 20))
  save(tmp_path, 'wide.png', gradient(30, 250))
  Image.new('RGBA', (30, 30)).save(tmp_path / 'window.png')
  (tmp_path / 'notes.txt').write_text('no image')
  source = load(tmp_path)
  assert source.notes[0].startswith(f'{tmp_path}: 1 left out (1 .txt), such as {tmp_path}/notes.txt')
  assert [note.removeprefix(f'images:{tmp_path}, all: ') for note in source.notes[1:]] == [
    f'2 turned from grey to colour or back (3 channels), such as {tmp_path}/grey1.png',
    f'1 with transparency laid on white, such as {tmp_path}/window.png',
    f'1 smaller than 24x24 enlarged, such as {tmp_path}/small.png',
    f'1 so long that of 40 pixels the middle is kept, such as {tmp_path}/wide.png',
  ]
  assert (source[5]['image'][:30, :30] == 255).all()
  grey = source[1]['image'][:30, :30]
  np.testing.assert_array_equal(grey, np.repeat(gradient(30, 30, 1), 3, axis=-1))
  grey = load(tmp_path, shape=(24, 24, 1))
  assert any('4 turned from grey to colour or back (1 channels)' in note for note in grey.notes)
  assert load(tmp_path, 'all[:3]').notes[1:] == (
    f'images:{tmp_path}, all[:3]: 2 turned from grey to colour or back (3 channels), such as {tmp_path}/grey1.png',
  )


@pytest.mark.parametrize(
  'mode, channels', [('1', 1), ('L', 1), ('LA', 1), ('I;16', 1), ('P', 3), ('RGB', 3), ('RGBA', 3)]
)
def test_a_header_tells_what_the_pixels_will_be(mode, channels, tmp_path):
  Image.new(mode, (9, 5)).save(tmp_path / 'a.png')
  assert decode.read_header(tmp_path / 'a.png') == ((5, 9), channels, mode in ('LA', 'RGBA'), mode == 'I;16')


def test_a_header_knows_of_turned_photographs(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  path = save(tmp_path, 'a.jpg', gradient(30, 20), exif=exif)
  assert decode.read_header(path) == ((20, 30), 3, False, False)
  assert decode.read_pixels(path, 3).shape == (20, 30, 3)


@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_a_file_that_is_no_image_is_named_at_once(content, tmp_path):
  save(tmp_path, 'a.png', gradient(30, 30))
  (tmp_path / 'b.jpg').write_bytes(content)
  with pytest.raises(MixerError, match='b.jpg'):
    load(tmp_path)


def test_a_file_that_was_cut_off_is_named_when_it_is_read(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
  save(tmp_path, 'a.jpg', gradient(30, 30))
  path = save(tmp_path, 'b.jpg', noise)
  path.write_bytes(path.read_bytes()[:900])
  source = load(tmp_path)
  assert source[0]['image'].any()
  with pytest.raises(MixerError, match='b.jpg: .*truncated'):
    source[1]


@pytest.mark.parametrize('split, parts', [('train', ['train', 'all']), ('all[5:]', ['all[5:]', '1'])])
def test_splits_of_a_folder(split, parts, tmp_path):
  save(tmp_path, 'a.png', gradient(30, 30))
  with pytest.raises(MixerError) as error:
    load(tmp_path, split)
  assert all(part in str(error.value) for part in parts)


def test_an_empty_folder(tmp_path):
  with pytest.raises(MixerError, match='no images'):
    load(tmp_path)
