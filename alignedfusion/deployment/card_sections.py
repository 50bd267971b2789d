"""The sections of a model card in Markdown; a section is empty if its content is unknown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from torch import nn

from alignedfusion import __version__
from alignedfusion.attributes import REPORT
from alignedfusion.evaluation.intervals import Metrics
from alignedfusion.evaluation.metrics import format_cell, heading
from alignedfusion.evaluation.subgroups import few_cases, subgroup_rows, unpack_subgroups
from alignedfusion.modules.fusions import describe_fusion
from alignedfusion.modules.tokenizers import VisualTokenizer

if TYPE_CHECKING:
    from alignedfusion.attributes import Attribute
    from alignedfusion.modules.classifier import AlignedFusionClassifier

LOAD = "model = AlignedFusionClassifier.from_pretrained"
FOLDER = '"."'  # the folder of the card
_SPLITS = {"train": "training", "valid": "validation", "test": "test"}
_SHOWN = 12  # number of values shown per attribute; config.json has all of them


def title(model: AlignedFusionClassifier, settings: Mapping[str, Any]) -> str:
    """The name of the model, one line."""
    reads = ["images"] * bool(model.image_modalities) + ["incomplete reports"] * (REPORT in model.modalities)
    subject = f"{' '.join(str(settings['label']).split())} from" if settings.get("label") else "Classifier of"
    return f"{subject} {' and '.join(reads)}"


def what_it_is(model: AlignedFusionClassifier, settings: Mapping[str, Any]) -> str:
    """The classes, the inputs and the parts of the model."""
    count = len(model.schema)
    images = model.image_modalities
    reads = ["an image"] if len(images) == 1 else [f"{len(images)} images ({names(images)})"] if images else []
    if REPORT in model.modalities:
        reads.append(f"{count} attribute{'s' * (count != 1)} of a report, any of which may be unmentioned")
    guesses = ". It also predicts the values of unmentioned attributes" if model.reconstructor is not None else ""
    lines = [f"- Images: {text}." for text in dict.fromkeys(map(_describe, model.visuals.values()))]
    lines.append(f"- Fusion: `{type(model.fusion).__name__}`, tokens of width {model.tokenizer.dim}.")
    lines.append(f"- Parameters: {sum(p.numel() for p in model.parameters()):,}.")
    if (trained := settings.get("training")) is not None:
        values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in trained.items())
        lines.append(f"- Training: {values}.")
    has_backbone = any(getattr(visual, "backbone", None) is not None for visual in model.visuals.values())
    if has_backbone and (start := settings.get("model", {}).get("backbone", {}).get("pretrained")) is not None:
        known = {"True": "timm's pretrained weights", "False": "random weights"}
        lines.append(f"- The backbone started from {known.get(start, 'the weights in a local file')}.")
    return (
        f"Classifies a case into {model.num_classes} classes ({names(model.class_names)}) from {' and '.join(reads)}{guesses}. "
        f"Made with alignedfusion, which fuses medical images with the attributes that a report mentions.\n\n"
        + "\n".join(lines)
    )


def intended_use() -> str:
    """Intended and out-of-scope uses."""
    return (
        "## Intended use\n\n"
        "Research on cases like the training cases: images of the same kind, acquired and prepared in the same way, and "
        "reports whose attributes have the same meaning.\n\n"
        "Out of scope:\n\n"
        "- Diagnosis, triage or treatment of a patient: this is not a medical device.\n"
        "- Other populations, scanners or reporting styles, unless the model was tested on them first.\n"
        "- Cases of a class that is not listed above: the model always predicts one of the listed classes.\n"
        "- Reconstructed attributes as facts: they are estimates from the rest of the case."
    )


def how_to_use(model: AlignedFusionClassifier) -> str:
    """Code that runs in the folder of the weights, with random noise as the image."""
    visuals = dict.fromkeys(model.visuals.values())
    own = [f"visual={type(visual).__name__}(...)" for visual in visuals if type(visual) is not VisualTokenizer]
    own += [] if not describe_fusion(model.fusion).get("own") else [f"fusion={type(model.fusion).__name__}(...)"]
    example = dict(_example(attribute) for attribute in list(model.schema)[:2])
    lines = [
        "import torch",
        "from alignedfusion import AlignedFusionClassifier",
        "",
        f"{LOAD}({', '.join([FOLDER, *own])})",
        f"codes = model.schema.encode([{example!r}])  # attributes in the report; all others are unmentioned",
        f"image = {_image(model)}",
        "with torch.inference_mode():",
        "    output = model(image, codes)",
        "dict(zip(model.class_names, output.logits[0].softmax(-1).tolist()))  # probability of each class",
    ]
    if model.reconstructor is not None:
        lines.append("output.reconstruction  # logits over the values of each attribute, mentioned or not")
    note = (
        "\n\nThe model has modules of its owner, of which only the weights are here: pass modules of the same classes."
    )
    code = "\n".join(lines)
    fence = "```" if "```" not in code else "~~~"
    return f"## How to use\n\n{fence}python\n{code}\n{fence}" + (note if own else "")


def attributes(model: AlignedFusionClassifier, report: Mapping[str, Any]) -> str:
    """The attributes of the schema as a table."""
    mentioned = report.get("training_data", {}).get("mentioned")
    rows = []
    for attribute in model.schema:
        row = [attribute.name, _values(attribute), attribute.units]
        rows.append(row if mentioned is None else [*row, f"{100 * mentioned[attribute.name]:.0f} %"])
    head = ["attribute", "values", "unit", *(["training cases that mention it"] if mentioned is not None else [])]
    return (
        "## Attributes\n\nAn empty cell, or `UN`, means that the report does not mention the attribute. It never means absent: "
        f"a reported absence is a value of its own.\n\n{table(head, rows)}"
    )


def training_data(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The number of cases per split and class."""
    cases = report.get("cases", {})
    if "train" not in cases:
        return ""
    data = report.get("training_data", {})
    source = f" of the table {code(data['source'])}" if data.get("source") else ""
    label = f", labelled by the column {code(settings['label'])}" if settings.get("label") else ""
    counts = ", ".join(f"{cases[split]:,} {name}" for split, name in _SPLITS.items() if split in cases)
    text = (
        f"## Training data\n\n{counts} cases{source}{label}. The validation cases were used to calibrate the model, the test "
        f"cases only to test it."
    )
    if (classes := data.get("classes")) is None:
        return text
    rows = [[name, *(str(classes[split][name]) for split in _SPLITS)] for name in classes["train"]]
    return f"{text}\n\n{table(['class', *_SPLITS.values()], rows)}"


def metrics(report: Mapping[str, Any]) -> str:
    """All metrics of the test cases with their intervals, and those of each class."""
    if "test" not in report:
        return ""
    found = Metrics.from_dict(report["test"])
    drawn = "cases" if found.groups is None else f"{found.groups:,} groups"
    overall = [[heading(name), *(format_cell(name, x) for x in interval)] for name, interval in found.overall.items()]
    classes = [
        [name, f"{found.support[name]:,}", *(format_cell(key, interval.value) for key, interval in row.items())]
        for name, row in found.classes.items()
    ]
    head = ["class", "cases", *(heading(key) for key in next(iter(found.classes.values())))]
    return (
        f"## Metrics\n\n{found.cases:,} test cases as they are; low and high are the ends of the {found.level:.0%} interval "
        f"(bootstrap of {drawn}).\n\n{table(['metric', 'value', 'low', 'high'], overall)}\n\n{table(head, classes)}"
    )


def results(report: Mapping[str, Any]) -> str:
    """The metrics at each share of missing attributes."""
    if not (rows := report.get("missing")):
        return ""
    shares = ("accuracy", "balanced_accuracy", "calibration_error")
    cells = [[_whole(row["missing"]), *(_share(row[name]) for name in shares), _auc(row["macro_auc"])] for row in rows]
    head = ["attributes missing", "accuracy", "balanced accuracy", "expected calibration error", "macro AUC"]
    notes = [
        "A share of the attributes that the test reports mention was removed at random; metrics are means over the draws."
    ]
    if "unmentioned" in rows[0]:
        notes.append(f"Where none was removed, {_share(rows[0]['unmentioned'])} of all cells are unmentioned already.")
    if (chance := report.get("most_frequent_class")) is not None:
        notes.append(f"Chance level: the most frequent class is {_share(chance)} of the test cases.")
    return f"## Metrics by missing attributes\n\n{' '.join(notes)}\n\n{table(head, cells)}"


def subgroups(report: Mapping[str, Any]) -> str:
    """The metrics of subgroups of the test cases."""
    if not (found := unpack_subgroups(report.get("subgroups", {}))):
        return ""
    rows = subgroup_rows(found)
    warning = few_cases(found)
    return (
        "## Subgroups\n\nMetrics of the test cases as they are, with their intervals. "
        + (f"{plain(warning[0].upper() + warning[1:])}.\n\n" if warning else "\n\n")
        + table([heading(name) for name in rows[0]], [list(row.values()) for row in rows])
    )


def calibration(model: AlignedFusionClassifier, report: Mapping[str, Any]) -> str:
    """The calibration error of the probabilities, and the weights of the branches."""
    lines = []
    if rows := report.get("missing"):
        first, last = rows[0], rows[-1]
        lines.append(
            f"On the test cases above, the probability of the predicted class differs from the share of correct predictions by "
            f"{_share(first['calibration_error'])} (expected calibration error) with {_whole(first['missing'])} of the "
            f"attributes missing, and by {_share(last['calibration_error'])} with {_whole(last['missing'])}. Measure it again "
            f"on your own cases."
        )
    if len(model.branches) > 1:
        weights = ", ".join(
            f"{branch} {weight:.2f}"
            for branch, weight in zip(model.branches, model.branch_weights.tolist(), strict=True)
        )
        is_fitted = not model.branch_weights.cpu().allclose(model.initial_branch_weights(), rtol=1e-3)
        source = (
            "fitted to validation cases" if is_fitted and rows else "fitted" if is_fitted else "not fitted to any cases"
        )
        lines.append(
            f"The logits are the log prior plus the contribution of each branch times its weight ({source}): {weights}."
        )
    return "## Calibration\n\n" + "\n\n".join(lines) if lines else ""


def limits() -> str:
    """Limitations of the model and of its metrics."""
    lines = [
        "Not a medical device; not validated for clinical use.",
        "An empty cell (`UN`) does not show why the attribute is unmentioned. Reports often leave out negative findings, so "
        "metrics for attributes missing at random need not hold for attributes that are missing for a reason.",
        "A value that the training cases did not have cannot be encoded; it is an error or counts as unmentioned.",
        "An attribute that is recorded after the diagnosis, or follows from it, makes these metrics too optimistic.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def versions() -> str:
    """Versions of the packages that saved the model."""
    packages = [f"alignedfusion {__version__}", f"Python {platform.python_version()}"]
    for package in ("torch", "timm", "transformers"):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"## Versions\n\n{', '.join(packages)}"


def _describe(visual: nn.Module) -> str:
    if type(visual) is not VisualTokenizer:
        return f"encoded by `{type(visual).__name__}`, a module of the owner"
    if visual.preprocessing is None:
        return f"precomputed tokens of width {visual.num_features}"
    size = " x ".join(map(str, visual.preprocessing["input_size"]))
    return f"encoded by `{visual.backbone_name}`{' (frozen)' if visual.frozen else ''}, input {size}"


def _image(model: AlignedFusionClassifier) -> str:
    """Code of the image or images of one case: noise, and a comment with the code for a real image."""
    if not model.image_modalities:
        return "None  # this model uses reports only"
    code, comments = zip(*(_noise(visual, f"model.visuals[{m!r}]") for m, visual in model.visuals.items()), strict=True)
    if len(code) == 1:
        return f"{code[0]}  # {comments[0]}"
    entries = [f"{m!r}: {tensor}" for m, tensor in zip(model.visuals, code, strict=True)]
    return f"{{{', '.join(entries)}}}  # {comments[0]}"


def _noise(visual: Any, where: str) -> tuple[str, str]:
    if type(visual) is not VisualTokenizer:
        return "torch.rand(...)", f"the input of {type(visual).__name__}"
    if visual.preprocessing is None:
        return f"torch.rand(1, 49, {visual.num_features})", "for a real image: its tokens (1, N, F)"
    channels, height, width = visual.preprocessing["input_size"]
    mode = "L" if channels == 1 else "RGB"
    return (
        f"torch.rand(1, {channels}, {height}, {width})",
        f'for a real image: {where}.transform()(Image.open("case.png").convert("{mode}"))[None]',
    )


def _example(attribute: Attribute) -> tuple[str, str | float]:
    """The name of an attribute and one of its values, as in a table of reports."""
    if attribute.kind == "categorical":
        return attribute.name, attribute.values[0]
    return attribute.name, attribute.edges[0] if attribute.edges else 1.0


def _values(attribute: Attribute) -> str:
    if attribute.kind == "numeric":
        edges = ", ".join(f"{edge:g}" for edge in attribute.edges)
        return f"a number, divided at {edges}" if edges else "a number, recorded or not"
    more = len(attribute.values) - _SHOWN
    return ", ".join(attribute.values[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _whole(value: float) -> str:
    return f"{100 * value:.0f} %"


def _auc(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"  # nan: only one class among the test cases


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold any text."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text on one line, with all characters that are special in Markdown escaped."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "&#92;")
    for sign in "|`*_[]#~":
        text = text.replace(sign, f"\\{sign}")
    return text


def code(text: str) -> str:
    """Text as inline code, on one line."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def names(items: Iterable[str]) -> str:
    """Names separated by commas, escaped by `plain`."""
    return ", ".join(plain(name) for name in items)
