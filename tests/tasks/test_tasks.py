"""The tasks against formulas in NumPy, against scikit-learn and SciPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal
from sklearn import metrics

from mixer_jax.errors import MixerError
from mixer_jax.tasks.binary import Binary, sigmoid
from mixer_jax.tasks.classification import Classification, calibration_error, classes_report
from mixer_jax.tasks.reconstruction import Reconstruction
from mixer_jax.tasks.task import Task, View, model_inputs

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(64, 8)) * 3
LABEL = RANDOM.integers(0, 8, 64)


def scores(label=LABEL, *, training=False, **settings):
  settings = {'loss': 'softmax', 'label_smoothing': 0.0} | settings
  batch = {'label': jnp.asarray(label)}
  result = Classification(classes=8, **settings).scores(jnp.asarray(LOGITS, jnp.float32), batch, training=training)
  return {name: np.asarray(value) for name, value in result.items()}


def log_softmax(x):
  return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def test_softmax_cross_entropy():
  np.testing.assert_allclose(scores()['loss'], -log_softmax(LOGITS)[np.arange(64), LABEL], rtol=1e-5)


def test_sigmoid_cross_entropy_sums_over_the_classes():
  p, y = 1 / (1 + np.exp(-LOGITS)), np.eye(8)[LABEL]
  expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1)
  np.testing.assert_allclose(scores(loss='sigmoid')['loss'], expected, rtol=1e-5)


def test_label_smoothing_counts_in_training_only():
  smoothed = np.eye(8)[LABEL] * 0.8 + 0.2 / 8
  expected = -(smoothed * log_softmax(LOGITS)).sum(1)
  np.testing.assert_allclose(scores(label_smoothing=0.2, training=True)['loss'], expected, rtol=1e-5)
  np.testing.assert_array_equal(scores(label_smoothing=0.2)['loss'], scores()['loss'])


def test_accuracy_and_top5_are_scikit_learns():
  result = scores()
  assert result['accuracy'].mean() == pytest.approx(metrics.accuracy_score(LABEL, LOGITS.argmax(1)))
  top5 = metrics.top_k_accuracy_score(LABEL, LOGITS, k=5, labels=np.arange(8))
  assert result['top5'].mean() == pytest.approx(top5)
  assert 0.3 < top5 < 0.95


def test_labels_may_be_distributions():
  mixed = 0.7 * np.eye(8)[LABEL] + 0.3 * np.eye(8)[np.roll(LABEL, 1)]
  result = scores(mixed.astype(np.float32))
  np.testing.assert_allclose(result['loss'], -(mixed * log_softmax(LOGITS)).sum(1), rtol=1e-5)
  np.testing.assert_array_equal(result['accuracy'], scores()['accuracy'])


def test_five_classes_have_no_top5():
  settings = {'loss': 'softmax', 'label_smoothing': 0.0, 'classes': 5}
  result = Classification(**settings).scores(jnp.asarray(LOGITS[:, :5]), {'label': jnp.asarray(LABEL % 5)})
  assert set(result) == {'loss', 'accuracy'}


def test_refusals():
  with pytest.raises(MixerError, match="unknown task.loss 'hinge'"):
    scores(loss='hinge')


def test_the_report_of_classes_is_scikit_learns():
  task = Classification(loss='softmax', label_smoothing=0.0, classes=8, report=True)
  np.testing.assert_array_equal(task.report.predicted(LOGITS), LOGITS.argmax(1))
  numbers = task.report.numbers(LOGITS, LABEL)
  for name, score in (('precision', metrics.precision_score), ('recall', metrics.recall_score)):
    assert numbers[f'macro_{name}'] == pytest.approx(score(LABEL, LOGITS.argmax(1), average='macro', zero_division=0))
  assert numbers['macro_f1'] == pytest.approx(metrics.f1_score(LABEL, LOGITS.argmax(1), average='macro'))
  probability = np.exp(log_softmax(LOGITS))
  area = metrics.roc_auc_score(LABEL, probability, multi_class='ovr', average='macro')
  assert numbers['macro_roc_auc'] == pytest.approx(area)
  precision = metrics.average_precision_score(np.eye(8)[LABEL], probability, average='macro')
  assert numbers['macro_average_precision'] == pytest.approx(precision)
  (tn, fp), (_, _) = metrics.multilabel_confusion_matrix(LABEL, LOGITS.argmax(1)).transpose(1, 2, 0)
  assert numbers['macro_specificity'] == pytest.approx((tn / (tn + fp)).mean())
  right = (LOGITS.argmax(1) == LABEL).astype(int)
  assert numbers['calibration_error'] == pytest.approx(binned_gap(probability.max(1), right))
  assert len(numbers) == 7


def binned_gap(probability, label, bins=15):
  """The calibration error bin by bin."""
  place = np.digitize(probability, np.linspace(0, 1, bins + 1)[1:-1])
  parts = [(probability[place == i], label[place == i]) for i in np.unique(place)]
  return sum(len(p) / len(label) * abs(p.mean() - of.mean()) for p, of in parts)


def test_sigmoids_are_reported_as_they_are():
  report = Classification(loss='sigmoid', label_smoothing=0.0, classes=8, report=True).report
  area = [metrics.roc_auc_score(k == LABEL, LOGITS[:, k]) for k in range(8)]
  assert report.numbers(LOGITS, LABEL)['macro_roc_auc'] == pytest.approx(np.mean(area))


def test_the_largest_logit_decides_where_sigmoids_are_all_one():
  report = Classification(loss='sigmoid', label_smoothing=0.0, classes=3, report=True).report
  numbers = report.numbers(np.array([[40.0, 50.0, 0.0]]), np.array([1]))
  assert numbers['macro_recall'] == pytest.approx(1 / 3) and numbers['calibration_error'] < 1e-6


def test_a_class_without_examples_counts_as_nothing():
  numbers = classes_report(np.eye(3)[[0, 1]], np.array([0, 1]), np.array([0, 1]))
  assert numbers['macro_f1'] == pytest.approx(2 / 3) and numbers['macro_roc_auc'] == 1


def test_one_class_of_several_alone_has_no_ranking():
  numbers = classes_report(np.full((4, 3), 1 / 3), np.zeros(4, int), np.zeros(4, int))
  assert 'macro_roc_auc' not in numbers and numbers['macro_specificity'] == pytest.approx(2 / 3)


def test_a_confusion_matrix_is_drawn_once_the_run_ends(tmp_path):
  task = Classification(classes=8, report=True)
  view = View(
    split='val', examples=None, apply=None, kept=np.concatenate([LOGITS, LABEL[:, None]], axis=1), classes='abcdefgh',
    folder=tmp_path, step=1, last=True, first_split=True,
  )  # fmt: skip
  task.draw(dataclasses.replace(view, last=False))
  assert not list(tmp_path.iterdir())
  task.draw(view)
  assert [path.name for path in tmp_path.iterdir()] == ['confusion_val.png']


# ---- two classes

LOGIT = RANDOM.normal(size=(200, 1)) * 2
SIGN = (LOGIT[:, 0] + RANDOM.normal(size=200) * 2 > 0.5).astype(int)
PROBABILITY = 1 / (1 + np.exp(-LOGIT[:, 0]))


def binary(positive_weight=1.0, classes=2):
  return Binary(positive_weight=positive_weight, classes=classes)


def test_one_logit_gives_the_probabilities_of_both_classes():
  assert binary().outputs == (1,)
  np.testing.assert_allclose(binary().report.probability(LOGIT), PROBABILITY, rtol=1e-9)
  both = binary().probabilities(jnp.asarray(LOGIT))
  np.testing.assert_allclose(both, np.stack([1 - PROBABILITY, PROBABILITY], axis=1), rtol=1e-5)


def test_binary_cross_entropy():
  scores = binary().scores(jnp.asarray(LOGIT, jnp.float32), {'label': jnp.asarray(SIGN)}, training=True)
  expected = -np.where(SIGN == 1, np.log(PROBABILITY), np.log(1 - PROBABILITY))
  np.testing.assert_allclose(scores['loss'], expected, rtol=1e-4, atol=1e-6)
  assert scores['loss'].mean() == pytest.approx(metrics.log_loss(SIGN, PROBABILITY), rel=1e-5)
  assert scores['accuracy'].mean() == pytest.approx(metrics.accuracy_score(SIGN, PROBABILITY > 0.5))


def test_mixed_labels_of_two_classes():
  """Mixup and CutMix give shares of both; whole ones are the labels themselves."""
  hard, logit = {'label': jnp.asarray(SIGN)}, jnp.asarray(LOGIT, jnp.float32)
  for weight in (1.0, 2.5):
    task = binary(weight)
    whole = task.scores(logit, {'label': jax.nn.one_hot(SIGN, 2)}, training=True)
    for name, value in task.scores(logit, hard, training=True).items():
      np.testing.assert_allclose(whole[name], value, rtol=1e-6)
  share = RANDOM.uniform(size=200)
  scores = binary().scores(logit, {'label': jnp.stack([1 - share, share], axis=1)}, training=True)
  expected = -share * np.log(PROBABILITY) - (1 - share) * np.log(1 - PROBABILITY)
  np.testing.assert_allclose(scores['loss'], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(scores['accuracy'], (LOGIT[:, 0] > 0) == (share > 0.5))


def test_the_positive_weight_counts_in_training_only():
  batch = {'label': jnp.asarray(SIGN)}
  plain, weighted = (binary(w).scores(jnp.asarray(LOGIT), batch, training=True)['loss'] for w in (1.0, 2.5))
  np.testing.assert_allclose(weighted, plain * np.where(SIGN == 1, 2.5, 1.0), rtol=1e-5)
  np.testing.assert_array_equal(binary(2.5).scores(jnp.asarray(LOGIT), batch)['loss'], plain)


def test_the_binary_report_is_scikit_learns():
  report = binary().report
  predicted = report.predicted(LOGIT)
  numbers = report.numbers(LOGIT, SIGN)
  expected = {
    'precision': metrics.precision_score(SIGN, predicted),
    'recall': metrics.recall_score(SIGN, predicted),
    'specificity': metrics.recall_score(SIGN, predicted, pos_label=0),
    'f1': metrics.f1_score(SIGN, predicted),
    'macro_f1': metrics.f1_score(SIGN, predicted, average='macro'),
    'roc_auc': metrics.roc_auc_score(SIGN, LOGIT[:, 0]),
    'average_precision': metrics.average_precision_score(SIGN, LOGIT[:, 0]),
  }
  np.testing.assert_array_equal(predicted, PROBABILITY > 0.5)
  for name, value in expected.items():
    assert numbers[name] == pytest.approx(value, abs=1e-9), name
  assert len({round(value, 6) for value in expected.values()}) > 5
  assert set(numbers) == {*expected, 'calibration_error'}


def test_one_class_alone_has_no_ranking():
  numbers = binary().report.numbers(LOGIT, np.ones(200, int))
  assert numbers['specificity'] == 0 and 'roc_auc' not in numbers and 'average_precision' not in numbers


def test_calibration_error_of_random_probabilities():
  assert calibration_error(PROBABILITY, SIGN) == pytest.approx(binned_gap(PROBABILITY, SIGN))


def test_calibration_error_by_hand():
  # Two bins of 15 are met: 0.02 with a share of positives of 0, and 0.9 with one of 2/3.
  probability, label = np.array([0.02, 0.02, 0.9, 0.9, 0.9]), np.array([0, 0, 1, 1, 0])
  assert calibration_error(probability, label) == pytest.approx((2 * 0.02 + 3 * (0.9 - 2 / 3)) / 5)
  assert calibration_error(np.array([1.0, 1.0]), np.array([1, 1])) == 0


def test_far_logits_overflow_nowhere():
  far = np.array([[-1e4], [1e4]], np.float32)
  scores = binary().scores(jnp.asarray(far), {'label': jnp.array([1, 1])})
  np.testing.assert_allclose(scores['loss'], [1e4, 0])
  grads = jax.grad(lambda x: binary().scores(x, {'label': jnp.array([1, 1])})['loss'].sum())(jnp.asarray(far))
  np.testing.assert_allclose(grads, [[-1], [0]])
  np.testing.assert_array_equal(sigmoid(far[:, 0]), [0, 1])


def test_binary_refusals():
  with pytest.raises(MixerError, match=r'needs data.classes 2, not 3'):
    binary(classes=3)


# ---- images again

IMAGE = RANDOM.uniform(size=(4, 16, 13, 3)).astype(np.float32)
OUTPUT = (IMAGE + RANDOM.normal(size=IMAGE.shape) * np.array([0.01, 0.1, 0.3, 1])[:, None, None, None]).astype(
  np.float32
)


def reconstruction(**settings):
  context = {'loss': 'mse', 'image': (16, 13, 3), 'mean': (0.0,), 'std': (1.0,)}
  return Reconstruction(**(context | settings))


def structural_similarity(a, b, size=11, sigma=1.5):
  """Wang et al. 2004, window by window."""
  line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
  window = np.outer(line, line) / line.sum() ** 2
  mean = lambda x: signal.convolve2d(x.astype(np.float64), window, mode='valid')
  results = []
  for x, y in zip(a.transpose(2, 0, 1), b.transpose(2, 0, 1), strict=True):
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    results.append((2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
  return np.mean(results)


def test_what_is_said_of_a_reconstruction():
  result = reconstruction().scores(jnp.asarray(OUTPUT), {'image': jnp.asarray(IMAGE)})
  mse = ((OUTPUT - IMAGE) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(result['mse'], mse, rtol=1e-5)
  np.testing.assert_array_equal(result['loss'], result['mse'])
  np.testing.assert_allclose(result['l1'], np.abs(OUTPUT - IMAGE).mean(axis=(1, 2, 3)), rtol=1e-5)
  np.testing.assert_allclose(result['psnr'], 10 * np.log10(1 / mse), rtol=1e-5)
  wanted = [structural_similarity(a, b) for a, b in zip(IMAGE, OUTPUT, strict=True)]
  np.testing.assert_allclose(result['ssim'], wanted, atol=1e-4)
  assert wanted[0] > 0.9 and wanted[3] < 0.3


def test_small_images_have_small_windows():
  image, output = IMAGE[:, :8, :8, :1], OUTPUT[:, :8, :8, :1]
  result = reconstruction(image=(8, 8, 1)).scores(jnp.asarray(output), {'image': jnp.asarray(image)})
  wanted = [structural_similarity(a, b, size=8) for a, b in zip(image, output, strict=True)]
  np.testing.assert_allclose(result['ssim'], wanted, atol=1e-4)


def test_the_same_image_is_without_fault():
  result = reconstruction().scores(jnp.asarray(IMAGE), {'image': jnp.asarray(IMAGE)})
  assert (result['mse'] == 0).all() and (result['psnr'] == 100).all()
  np.testing.assert_allclose(result['ssim'], 1, atol=1e-5)


def test_training_measures_the_loss_alone():
  result = reconstruction(loss='l1').scores(jnp.asarray(OUTPUT), {'image': jnp.asarray(IMAGE)}, training=True)
  assert set(result) == {'loss', 'mse'}
  np.testing.assert_allclose(result['loss'], np.abs(OUTPUT - IMAGE).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_noise_is_seen_in_training_and_is_no_part_of_the_target():
  seen = []

  def model(image, *, rngs=None):
    seen.append(np.asarray(image))
    return image

  task, batch = reconstruction(noise=0.5), {'image': jnp.asarray(np.tile(IMAGE, (1, 8, 8, 1)))}
  task.outputs = batch['image'].shape[1:]
  loss, scores, output = task.loss(model, batch, rngs=nnx.Rngs(dropout=jax.random.key(0)), training=True)
  noise = seen[0] - np.asarray(batch['image'])
  assert noise.std() == pytest.approx(0.5, rel=0.02) and abs(noise.mean()) < 0.01
  np.testing.assert_allclose(loss, np.square(noise).mean(axis=(1, 2, 3)), rtol=1e-5)
  np.testing.assert_array_equal(output, seen[0])
  assert (np.asarray(task.loss(model, batch)[0]) == 0).all()
  task.loss(model, batch, rngs=nnx.Rngs(dropout=jax.random.key(1)), training=True)
  assert not np.array_equal(seen[0], seen[2])
  assert set(scores) == {'mse'}


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'loss': 'l3'}, "unknown task.loss 'l3'"),
    ({'mean': (0.5,)}, r'data.mean is \[0.5\]'),
    ({'std': (0.5, 1.0, 1.0)}, r'data.std \[0.5, 1.0, 1.0\]'),
  ],
)
def test_reconstruction_refusals(settings, message):
  with pytest.raises(MixerError, match=message):
    reconstruction(**settings)


# ---- what the rest of the package asks


def test_a_model_takes_of_a_batch_what_is_there_in_order():
  rows = {'label': 1, 'categories': 2, 'features': 3, 'mask': 4}
  assert model_inputs(rows) == (3, 2) and model_inputs({'label': 1, 'image': 5, 'size': 6}) == (5,)


def test_the_loss_of_a_task_with_scores_alone():
  class Sums(Task):
    outputs = (2,)

    def scores(self, output, batch, *, training=False):
      return {'loss': output.sum(-1) * (2 if training else 1), 'label': batch['label']}

  seen = []
  model = lambda image, *, rngs: (seen.append(rngs), image)[1]
  batch = {'image': jnp.arange(6.0).reshape(3, 2), 'label': jnp.arange(3)}
  loss, scores, output = Sums().loss(model, batch, rngs='rngs', training=True)
  np.testing.assert_array_equal(loss, [2, 10, 18])
  np.testing.assert_array_equal(output, batch['image'])
  assert seen == ['rngs'] and set(scores) == {'label'}
  with pytest.raises(NotImplementedError, match='Task has neither'):
    Task().scores(None, {})


def test_probabilities_and_the_lines_of_a_file_of_predictions():
  logits = jnp.asarray(LOGITS[:3], jnp.float32)
  names = [f'c{k}' for k in range(8)]
  softmax, sigmoids, two = Classification(classes=8), Classification(classes=8, loss='sigmoid'), binary()
  answers = softmax.answers(logits)
  np.testing.assert_array_equal(answers['logits'], logits)
  np.testing.assert_allclose(answers['probabilities'], np.exp(log_softmax(LOGITS[:3])), rtol=1e-4)
  np.testing.assert_allclose(sigmoids.answers(logits)['probabilities'], 1 / (1 + np.exp(-LOGITS[:3])), rtol=1e-4)
  assert softmax.header(names, 'class', 3) == [
    'class', 'probability', 'class_2', 'probability_2', 'class_3', 'probability_3',
  ]  # fmt: skip
  row = softmax.row({'probabilities': np.array([0.1, 0.6, 0.1, 0.2, 0, 0, 0, 0])}, names, 3)
  assert row == ['c1', '0.600000', 'c3', '0.200000', 'c0', '0.100000']
  probabilities = two.answers(jnp.asarray(LOGIT[:4], jnp.float32))['probabilities']
  np.testing.assert_allclose(probabilities, np.stack([1 - PROBABILITY[:4], PROBABILITY[:4]], axis=1), rtol=1e-5)
  assert two.header(['no', 'yes'], 'prediction', 1) == ['prediction', 'probability']
  assert two.row({'probabilities': np.array([0.25, 0.75])}, ['no', 'yes'], 1) == ['yes', '0.750000']


def test_models_that_do_not_fit_are_refused():
  with pytest.raises(MixerError, match=r'model mixer gives numbers of shape \(3,\) .* Classification takes \(8,\)'):
    Classification(classes=8).check(object(), 'mixer', (3,))
  with pytest.raises(MixerError, match='model mine lacks encode, decode, code, which task reconstruction needs'):
    reconstruction().check(object(), 'mine', (16, 13, 3))
