import numpy as np
import pytest
import torch
from PIL import Image

from alignedfusion.detection import froc, plot_detections, plot_froc

ORANGE, GREEN = (255, 127, 14), (44, 160, 44)
BOX, FAR = [10.0, 10, 19, 19], [30.0, 12, 36, 18]


def count(path, color):
    """Pixels of about this colour in the left and in the right half of a file."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    is_near = (abs(pixels - color) < 40).all(-1)
    return np.array([half.sum() for half in np.array_split(is_near, 2, axis=1)])


@pytest.mark.parametrize("log", [False, True])
def test_curves_are_plotted(tmp_path, log):
    first = froc([([BOX, FAR], [0.9, 0.4]), ([BOX], [0.5])], [[BOX], []], fppi=(0.25, 1))
    nothing = froc([([], [])], [[]], fppi=(0.5,))
    path = tmp_path / "froc.png"
    plot_froc({"image only": first, "fused": first, "nothing": nothing}, path, title="discs in noise", log=log)
    assert count(path, ORANGE).sum() > 100
    with pytest.raises(ValueError, match="there is no result to plot"):
        plot_froc({}, path, title="")


@pytest.mark.parametrize("shape", [(32, 48), (1, 32, 48), (3, 32, 48)])
def test_detections_are_drawn_with_and_without_the_report(tmp_path, shape):
    found = {
        "without report": {"boxes": torch.tensor([BOX, FAR]), "scores": torch.tensor([0.3, 0.4])},
        "with report": {"boxes": torch.tensor([BOX, FAR]), "scores": torch.tensor([0.3, 0.8])},
    }
    path = tmp_path / "detections.png"
    captions = {"with report": "smoker: yes"}
    plot_detections(torch.full(shape, 0.5), found, path, lesions={"boxes": torch.tensor([BOX])}, captions=captions)
    left, right = count(path, ORANGE)
    assert left == 0  # both scores are below 0.5
    assert right > 100
    assert (count(path, GREEN) > 100).all()  # the lesion, in both panels
    plot_detections(np.zeros((32, 48)), found, path, min_score=0.0)
    assert (count(path, ORANGE) > 100).all()
    assert (count(path, GREEN) == 0).all()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    found, path = {"alone": ([BOX], [0.9])}, tmp_path / "detections.png"
    refused = {
        r"image must be of shape \(H, W\), .* got \(7, 32, 48\)": {"image": torch.zeros(7, 32, 48)},
        r"detections must name at least one panel": {"detections": {}},
        r"for one panel, pass \{'detections': found\}": {"detections": {"boxes": [BOX], "scores": [0.9]}},
        r"captions has \['with'\], which detections does not name; it names \['alone'\]": {"captions": {"with": ""}},
        r"boxes must have 4 numbers to be drawn on a slice, got 6": {"lesions": [[0, 0, 0, 1, 1, 1]]},
        r"image 0: a score must be a finite number": {"detections": {"alone": ([BOX], [float("nan")])}},
    }
    for message, changed in refused.items():
        with pytest.raises(ValueError, match=message):
            plot_detections(**{"image": torch.zeros(32, 48), "detections": found, "path": path, **changed})
    assert not path.exists()
