import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignedfusion.detection import average_precision, froc, froc_per_class

BOX = [10.0, 10, 19, 19]
FAR = [50.0, 50, 59, 59]


def found(*scored):
    """One image's detections from (box, score) pairs."""
    boxes = [box for box, _ in scored]
    return np.array(boxes).reshape(-1, 4), np.array([score for _, score in scored], dtype=float)


def draw(seed, *, images=7, most=9, tied=False):
    """Random detections, some near a lesion, and 0 to 3 lesions per image; scores are distinct unless tied."""
    rng = np.random.default_rng(seed)
    detections, lesions = [], []
    for _ in range(images):
        corner = rng.integers(0, 40, (rng.integers(0, 4), 2))
        truth = np.concatenate([corner, corner + rng.integers(5, 20, corner.shape)], 1)
        count = int(rng.integers(0, most))
        boxes = np.concatenate([first := rng.integers(0, 40, (count, 2)), first + rng.integers(5, 20, (count, 2))], 1)
        if len(truth):
            is_near = rng.random(count) < 0.6
            near = truth[rng.integers(0, len(truth), count)] + rng.integers(-2, 3, (count, 4))
            boxes = np.where(is_near[:, None], near, boxes)
        scores = rng.integers(0, 5, count) / 5 if tied else rng.random(count)
        detections.append((boxes.astype(float), scores))
        lesions.append(truth.astype(float))
    return detections, lesions


def overlap_by_hand(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    sizes = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return shared / (sum(sizes) - shared)


def by_rank(detections, lesions, point, *, overlap=0.5, offset=1):
    """Share of lesions whose best hitting score exceeds the (floor(a n) + 1)-th best score that hits nothing."""
    misses, best = [], []
    for (boxes, scores), truth in zip(detections, lesions, strict=True):
        for box, score in zip(boxes, scores, strict=True):
            if not any(overlap_by_hand(box, lesion, offset) >= overlap for lesion in truth):
                misses.append(score)
        for lesion in truth:
            hits = [s for b, s in zip(boxes, scores, strict=True) if overlap_by_hand(b, lesion, offset) >= overlap]
            best.append(max(hits, default=-math.inf))
    rank = math.floor(point * len(lesions)) + 1
    limit = sorted(misses, reverse=True)[rank - 1] if len(misses) >= rank else -math.inf
    return sum(score > limit for score in best) / len(best) if best else math.nan


def interpolated(detections, lesions, points):
    """The published reference: walk down the scores, then read the curve by linear interpolation."""
    walk = sorted(((s, i, b) for i, (bs, ss) in enumerate(detections) for b, s in zip(bs, ss, strict=True)), reverse=True,
                  key=lambda row: row[0])  # fmt: skip
    hit, misses, false, true = set(), 0, [0], [0]
    for _, image, box in walk:
        hits = {(image, j) for j, lesion in enumerate(lesions[image]) if overlap_by_hand(box, lesion, 1) >= 0.5}
        hit |= hits
        misses += not hits
        false.append(misses)
        true.append(len(hit))
    total = sum(map(len, lesions))
    # At a step the last point counts; a float between two points is read on the line between them.
    return [np.interp(a * len(lesions), *_last_per_step(false, true)) / total for a in points]


def _last_per_step(false, true):
    x, y = [], []
    for step in sorted(set(false)):
        ends = [t for f, t in zip(false, true, strict=True) if f == step]
        x += [step, step + 1 - 1e-12]
        y += [ends[-1], ends[-1]]
    return x, y


def test_a_small_case_by_hand():
    # 4 images, one without a lesion; 3 lesions. Down the scores: hit, miss, hit, miss, miss, hit.
    detections = [
        found((BOX, 0.9), (FAR, 0.8)),
        found((BOX, 0.7), (FAR, 0.6)),
        found((FAR, 0.5)),
        found((BOX, 0.4)),
    ]
    result = froc(detections, [[BOX], [BOX], [], [BOX]], fppi=(0, 0.25, 0.3, 0.5, 0.75, 5))
    assert result.sensitivity == (1 / 3, 2 / 3, 2 / 3, 2 / 3, 1.0, 1.0)
    assert result.mean == pytest.approx((1 / 3 + 2 + 2) / 6)
    assert (result.num_images, result.num_lesions) == (4, 3)
    assert result.curve_fppi.tolist() == [0, 0, 0.25, 0.25, 0.5, 0.75, 0.75]
    assert result.curve_sensitivity.tolist() == [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 1]
    assert result.curve_scores.tolist() == [math.inf, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert result.lesions.scores.tolist() == [0.9, 0.7, 0.4]
    assert result.lesions.images.tolist() == [0, 1, 3]
    assert result.false_positives.scores.tolist() == [0.8, 0.6, 0.5]
    assert "array" not in repr(result)


def test_ties_enter_together():
    # Two images; a hit and two misses share the score 0.5: no threshold takes the hit without both misses.
    detections = [found((BOX, 0.5), (FAR, 0.5)), found((FAR, 0.5))]
    assert froc(detections, [[BOX], []], fppi=(0.5, 0.9, 1)).sensitivity == (0.0, 0.0, 1.0)
    assert froc(detections[::-1], [[], [BOX]], fppi=(0.5, 0.9, 1)).sensitivity == (0.0, 0.0, 1.0)


def test_duplicates_are_ignored_or_false():
    detections = [found((BOX, 0.9), (BOX, 0.8), (BOX, 0.8)), found((BOX, 0.7))]
    lesions = [[BOX], [BOX]]
    assert froc(detections, lesions, fppi=(0.5,)).sensitivity == (1.0,)
    strict = froc(detections, lesions, fppi=(0.5, 1), duplicates="false_positive")
    assert strict.sensitivity == (0.5, 1.0)
    assert strict.false_positives.scores.tolist() == [0.8, 0.8]
    # Two that share the best score enter together: neither is better than the other.
    tied = froc([found((BOX, 0.9), (BOX, 0.9))], [[BOX]], fppi=(0,), duplicates="false_positive")
    assert tied.sensitivity == (1.0,)


def test_one_box_may_hit_two_lesions():
    pair = [[10.0, 10, 19, 19], [12.0, 10, 21, 19]]
    result = froc([found(([11.0, 10, 20, 19], 0.9))], [pair], fppi=(0,))
    assert result.sensitivity == (1.0,)
    # With duplicates as false positives too: the worse box still is the first on the second lesion.
    narrow, wide = [10.0, 10, 19, 19], [11.0, 10, 20, 19]
    apart = [[10.0, 10, 19, 19], [16.0, 10, 25, 19]]
    result = froc([found((narrow, 0.9), ([16.0, 10, 25, 19], 0.8), (wide, 0.7))], [apart], duplicates="false_positive")
    assert result.false_positives.scores.tolist() == [0.7]


def test_the_added_pixel_can_decide():
    # Corners as pixels: 10 x 10 and 5 x 10 shared, exactly one half; as edges 4 x 9 of 9 x 9, less than a half.
    detections, lesions = [found(([10.0, 10, 14, 19], 0.9))], [[BOX]]
    assert froc(detections, lesions).sensitivity == (1.0, 1.0, 1.0)
    assert froc(detections, lesions, box_offset=0).sensitivity == (0.0, 0.0, 0.0)
    assert froc(detections, lesions, box_offset=0, overlap=4 / 9).mean == 1.0


def test_no_detections_no_lesions_no_images():
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}
    assert froc([empty, empty], [[BOX], []]).sensitivity == (0.0, 0.0, 0.0)
    assert froc([([], [])], [np.zeros((1, 4))]).mean == 0.0
    for detections in ([found((BOX, 0.5))], [empty]):
        result = froc(detections, [torch.zeros(0, 4)])
        assert all(math.isnan(value) for value in (*result.sensitivity, result.mean))
    assert result.num_lesions == 0
    assert math.isnan(froc([], []).mean)


def test_images_without_lesions_count_in_the_denominator():
    detections, lesions = [found((FAR, 0.9), (BOX, 0.8))], [[BOX]]
    assert froc(detections, lesions, fppi=(0.5,)).sensitivity == (0.0,)
    assert froc([*detections, found()], [*lesions, []], fppi=(0.5,)).sensitivity == (1.0,)


def test_an_fppi_that_is_no_float_times_images_is_taken_as_meant():
    # 0.29 * 100 is 28.999... in floating point.
    detections = [found((FAR, 0.9))] * 29 + [found((BOX, 0.5))] + [found()] * 70
    assert froc(detections, [[]] * 29 + [[BOX]] + [[]] * 70, fppi=(0.29, 0.28)).sensitivity == (1.0, 0.0)


def test_boxes_in_three_dimensions():
    cube = [[0.0, 0, 0, 9, 9, 9]]
    half = [[0.0, 0, 0, 9, 9, 4]]
    assert froc([(half, [0.5])], [cube]).mean == 1.0
    assert froc([(half, [0.5])], [cube], box_offset=0).mean == 0.0


def test_tensors_arrays_and_torchvision_mappings_agree():
    detections, lesions = draw(3)
    expected = froc(detections, lesions)
    tensors = [
        {"boxes": torch.tensor(b), "scores": torch.tensor(s), "labels": torch.ones(len(b))} for b, s in detections
    ]
    tensors[0]["scores"].requires_grad_()
    truth = [{"boxes": torch.tensor(boxes), "labels": torch.ones(len(boxes))} for boxes in lesions]
    assert froc(tensors, truth).sensitivity == expected.sensitivity
    half = [{"boxes": torch.tensor(b).bfloat16(), "scores": torch.tensor(s).bfloat16()} for b, s in detections]
    assert 0 <= froc(half, truth).mean <= 1


@pytest.mark.parametrize("seed", range(200))
def test_it_equals_the_rank_formula_exactly(seed):
    detections, lesions = draw(seed, images=1 + seed % 13)
    points = (0.5, 1, 2, 0.3)
    result = froc(detections, lesions, fppi=points)
    assert result.num_lesions == sum(map(len, lesions))
    for mine, point in zip(result.sensitivity, points, strict=True):
        theirs = by_rank(detections, lesions, point)
        assert mine == theirs or (math.isnan(mine) and math.isnan(theirs))
    if result.num_lesions:
        np.testing.assert_array_equal(result.sensitivity, interpolated(detections, lesions, points))


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["ignore", "false_positive"]))
def test_orders_do_not_matter(seed, tied, duplicates):
    detections, lesions = draw(seed, tied=tied)
    rng = np.random.default_rng(seed)
    expected = froc(detections, lesions, duplicates=duplicates)
    images = rng.permutation(len(lesions))
    mixed = []
    for boxes, scores in (detections[i] for i in images):
        order = rng.permutation(len(scores))
        mixed.append((boxes[order], scores[order]))
    result = froc(mixed, [lesions[i][::-1] for i in images], duplicates=duplicates)
    np.testing.assert_array_equal(result.sensitivity, expected.sensitivity)
    np.testing.assert_array_equal(result.curve_sensitivity, expected.curve_sensitivity)
    np.testing.assert_array_equal(result.curve_fppi, expected.curve_fppi)


@given(st.integers(0, 10_000), st.booleans(), st.floats(-1, 2, allow_subnormal=False))
def test_a_further_false_positive_never_helps(seed, tied, score):
    detections, lesions = draw(seed, tied=tied)
    lesions[0] = np.array([BOX])
    before = froc(detections, lesions)
    boxes, scores = detections[0]
    more = [(np.concatenate([boxes, [[200, 200, 220, 220]]]), np.append(scores, score)), *detections[1:]]
    after = froc(more, lesions)
    assert all(a <= b for a, b in zip(after.sensitivity, before.sensitivity, strict=True))
    worst = min((s for _, each in detections for s in each), default=0.0)
    if score < worst:  # worse than everything: only past the curve's old end is there anything new
        np.testing.assert_array_equal(after.curve_sensitivity[:-1], before.curve_sensitivity)
        assert after.sensitivity == before.sensitivity


@given(st.integers(0, 10_000), st.booleans())
def test_conventions_are_ordered(seed, tied):
    detections, lesions = draw(seed, tied=tied)
    lesions[0] = np.array([BOX])
    lenient = froc(detections, lesions, fppi=(0.2, 1, 3))
    strict = froc(detections, lesions, fppi=(0.2, 1, 3), duplicates="false_positive")
    tight = froc(detections, lesions, fppi=(0.2, 1, 3), overlap=0.7)
    assert list(lenient.sensitivity) == sorted(lenient.sensitivity)
    assert all(b <= a for a, b in zip(lenient.sensitivity, strict.sensitivity, strict=True))
    assert all(b <= a for a, b in zip(lenient.sensitivity, tight.sensitivity, strict=True))
    scaled = [(boxes, scores * 7 - 3) for boxes, scores in detections]
    assert froc(scaled, lesions, fppi=(0.2, 1, 3)).sensitivity == lenient.sensitivity
    assert (np.diff(lenient.curve_fppi) >= 0).all()
    assert (np.diff(lenient.curve_sensitivity) >= 0).all()


def test_the_interval_contains_the_value_and_is_seeded():
    detections, lesions = draw(1, images=61)
    result = froc(detections, lesions)
    patients = [f"p{i // 2}" for i in range(61)]
    interval = result.interval(groups=patients, samples=300)
    assert (interval.num_groups, interval.level, interval.fppi) == (31, 0.95, (0.5, 1.0, 2.0))
    for low, value, high in zip(interval.low, result.sensitivity, interval.high, strict=True):
        assert 0 <= low < value < high <= 1
    assert interval.mean[0] < result.mean < interval.mean[1]
    assert result.interval(groups=patients, samples=300) == interval
    assert result.interval(groups=np.arange(61) // 2, samples=300) == interval
    assert result.interval(groups=patients, samples=300, seed=1) != interval
    narrow = result.interval(groups=patients, samples=300, level=0.5)
    assert narrow.mean[1] - narrow.mean[0] < interval.mean[1] - interval.mean[0]


def test_a_resample_is_the_sensitivity_of_the_images_drawn():
    detections, lesions = draw(2, images=11, tied=True)
    result = froc(detections, lesions)
    group = np.arange(11) // 2
    drawn = result._resample(group, 20, 5)
    rng = np.random.default_rng(5)
    for row in drawn:
        chosen = [i for g in rng.integers(6, size=6) for i in np.flatnonzero(group == g)]
        again = froc([detections[i] for i in chosen], [lesions[i] for i in chosen])
        np.testing.assert_array_equal(row, again.sensitivity)


def test_patients_not_images_are_resampled():
    # Each patient is one image eight times over: 184 images know no more than 23 patients.
    detections, lesions = draw(8, images=23)
    result = froc([d for d in detections for _ in range(8)], [each for each in lesions for _ in range(8)])
    assert result.sensitivity == froc(detections, lesions).sensitivity
    by_patient = result.interval(groups=np.repeat(np.arange(23), 8), samples=400)
    by_image = result.interval(groups=range(184), samples=400)
    assert by_patient.mean[1] - by_patient.mean[0] > 2 * (by_image.mean[1] - by_image.mean[0])
    single = froc(detections, lesions).interval(groups=range(23), samples=400)
    assert single == by_patient


def test_the_interval_of_a_difference_draws_patients_alike():
    detections, lesions = draw(4, images=41)
    result = froc(detections, lesions)
    same = result.interval(groups=range(41), samples=50, minus=result)
    assert same.mean == (0.0, 0.0)
    worse = froc([(boxes[:0], scores[:0]) for boxes, scores in detections], lesions)
    assert result.interval(groups=range(41), samples=50, minus=worse) == result.interval(groups=range(41), samples=50)
    with pytest.raises(ValueError, match="both results must be of the same images, lesions and FPPI"):
        result.interval(groups=range(41), minus=froc(detections[:-1], lesions[:-1]))


def test_intervals_of_nothing():
    nothing = froc([found((BOX, 0.5))] * 3, [[]] * 3)
    assert all(
        math.isnan(end) for end in (*nothing.interval(groups=range(3)).low, *nothing.interval(groups="abc").mean)
    )
    result = froc([found((BOX, 0.5))] * 3, [[BOX]] * 3)
    assert result.interval(groups="abc").mean == (1.0, 1.0)
    with pytest.raises(ValueError, match="the patient of each of the 3 images, got 2"):
        result.interval(groups="ab")
    with pytest.raises(ValueError, match="at least two patients, got 1"):
        result.interval(groups="aaa")
    with pytest.raises(ValueError, match="level between 0 and 1, got 1000 and 95"):
        result.interval(groups="abc", level=95)


@pytest.mark.parametrize(
    ("detections", "lesions", "message"),
    [
        ([found()], [[], []], "every image needs its detections and lesions, got 1 and 2 images"),
        ([found(), ([BOX], [0.5, 0.6])], [[], []], r"image 1: 1 detections need scores \(1,\), got \(2,\)"),
        ([found(), ([BOX[:3]], [0.5])], [[], []], r"image 1: detection boxes must be of shape .* got \(1, 3\)"),
        ([found()], [BOX], r"image 0: lesion boxes must be of shape .* got \(4,\)"),
        ([([[9.0, 0, 5, 5]], [0.5])], [[]], r"image 0: detection box \[9.0, 0.0, 5.0, 5.0\] is invalid: .*x y width height"),
        ([found()], [[[0, 0, math.nan, 1]]], r"image 0: lesion box \[0.0, 0.0, nan, 1.0\] is invalid"),
        ([found((BOX, math.nan))], [[]], "image 0: a score must be a finite number, got nan"),
        ([{"boxes": [BOX]}], [[]], r"image 0: detections must be a mapping with 'boxes' and 'scores'.* the keys \['boxes'\]"),
        ([np.zeros((3, 5))], [[]], "image 0: detections must be a mapping .* got ndarray"),
        ([found()], [{"box": [BOX]}], r"image 0: lesion boxes must be under the key 'boxes', got the keys \['box'\]"),
        ([found()], [["one"]], "image 0: lesion boxes must be a tensor or an array of numbers"),
        ([found((BOX, 1))], [[[0, 0, 0, 1, 1, 1]]], "image 0: boxes of detections have 4 numbers, boxes of lesions 6"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_image(detections, lesions, message):
    with pytest.raises(ValueError, match=message):
        froc(detections, lesions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fppi": ()}, r"fppi must be one or more numbers of 0 or above, got \[\]"),
        ({"fppi": (1, -1)}, r"fppi must be one or more numbers .* got \[1.0, -1.0\]"),
        ({"overlap": 0}, "overlap must be above 0 and at most 1, got 0"),
        ({"box_offset": -1}, "box_offset must be 0 or above, got -1"),
        ({"duplicates": "count"}, "duplicates must be 'ignore' or 'false_positive', got 'count'"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        froc([], [], **settings)


def labelled(boxes, labels, scores=None):
    """A mapping as torchvision's detectors return and take it."""
    mapping = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return mapping if scores is None else mapping | {"scores": torch.tensor(scores)}


def test_one_curve_per_class_by_hand():
    # Class 1 has a hit at 0.9, and at 0.8 a false positive on a lesion of class 2, which gets no detection of its own.
    detections = [labelled([BOX, FAR], [1, 1], [0.9, 0.8]), labelled([FAR], [2], [0.3])]
    lesions = [labelled([BOX, FAR], [1, 2]), labelled([], [])]
    curves = froc_per_class(detections, lesions, {1: "nodule", 2: "cyst", 7: "other"}, fppi=(0, 0.5))
    assert list(curves) == ["nodule", "cyst", "other"]
    assert curves["nodule"].sensitivity == (1.0, 1.0)
    assert curves["nodule"].false_positives.scores.tolist() == pytest.approx([0.8])
    assert curves["nodule"].curve_fppi.tolist() == [0, 0, 0.5]  # of all images
    assert curves["cyst"].sensitivity == (0.0, 0.0)
    assert curves["cyst"].false_positives.images.tolist() == [1]
    assert all(math.isnan(value) for value in curves["other"].sensitivity)
    assert np.nanmean([curve.mean for curve in curves.values()]) == 0.5
    assert froc(detections, lesions, fppi=(0.0,)).sensitivity == (1.0,)  # which looks at no label


@given(st.integers(0, 10_000))
def test_the_curve_of_a_class_is_that_of_its_boxes(seed):
    rng = np.random.default_rng(seed)
    detections, lesions = draw(seed)
    found_labels, true_labels = ([rng.integers(0, 3, len(each)) for each in boxes] for boxes in (
        [scores for _, scores in detections], lesions))  # fmt: skip
    marked = [{"boxes": b, "scores": s, "labels": c} for (b, s), c in zip(detections, found_labels, strict=True)]
    true = [{"boxes": b, "labels": c} for b, c in zip(lesions, true_labels, strict=True)]
    curves = froc_per_class(marked, true, {0: "a", 1: "b", 2: "c"}, box_offset=0, duplicates="false_positive")
    for label, name in enumerate("abc"):
        of_class = [(b[c == label], s[c == label]) for (b, s), c in zip(detections, found_labels, strict=True)]
        boxes = [b[c == label] for b, c in zip(lesions, true_labels, strict=True)]
        expected = froc(of_class, boxes, box_offset=0, duplicates="false_positive")
        np.testing.assert_array_equal(curves[name].sensitivity, expected.sensitivity)
    assert sum(curve.num_lesions for curve in curves.values()) == sum(map(len, lesions))


def test_labels_are_checked():
    right = labelled([BOX], [1]), labelled([BOX], [1], [0.5])
    refused = {
        r"image 0: a detection needs a mapping with 'boxes' and 'labels', got tuple": (right[0], found((BOX, 0.5))),
        r"image 0: a lesion needs a mapping .* got the keys \['boxes'\]": ({"boxes": [BOX]}, right[1]),
        r"image 0: lesion label 3 is not in names, which has \[1\]": (labelled([BOX], [3]), right[1]),
        r"image 0: 1 detections need labels \(1,\), got \(2,\)": (right[0], labelled([BOX], [1, 1], [0.5])),
        r"image 0: 0 lesions need labels \(0,\), got \(1,\)": (labelled([], [1]), right[1]),
    }
    for message, (lesion, detection) in refused.items():
        with pytest.raises(ValueError, match=message):
            froc_per_class([detection], [lesion], {1: "nodule"})
    for names in ({}, {1: "nodule", 2: "nodule"}):
        with pytest.raises(ValueError, match="names must give each label its own name, got "):
            froc_per_class([right[1]], [right[0]], names)


def test_average_precision_by_hand():
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    # Two lesions; a hit, a miss, a hit: precision 1 up to a recall of 0.5, then 2/3. COCO reads 51 and 50 of 101 recalls.
    detections = [found((BOX, 0.9), (FAR, 0.8)), found((BOX, 0.7))]
    result = average_precision(detections, [[BOX], [BOX]])
    assert result["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6)
    assert result["AP"] == pytest.approx(result["AP75"], abs=1e-6)
    assert average_precision([found()], [[BOX]]) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    assert math.isnan(average_precision([found((BOX, 1))], [[]])["AP"])
    with pytest.raises(ValueError, match="got 1 and 2 images"):
        average_precision([found()], [[], []])
    with pytest.raises(ValueError, match="image 0: average precision takes boxes of 4 numbers, got 6"):
        average_precision([([[0, 0, 0, 1, 1, 1]], [1])], [[BOX]])


def test_average_precision_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.detection", None)
    with pytest.raises(ImportError, match=r"pip install 'alignedfusion\[detection\]'"):
        average_precision([], [])
