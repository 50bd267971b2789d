"""The card of a model, README.md beside its weights, from what the model holds; `deployment` adds what a run measured."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from alignedfusion import __version__
from alignedfusion.attributes import REPORT, Attribute
from alignedfusion.modules.checkpoint import CARD
from alignedfusion.modules.fusions import describe_fusion
from alignedfusion.modules.tokenizers import VisualTokenizer
from alignedfusion.modules.tuning import parse_tune

LOAD = "model = AlignedFusionClassifier.from_pretrained"
FOLDER = '"."'  # the folder of the card
_SHOWN = 12  # number of values shown per attribute; config.json has all of them
# The last line has a digest of the text above it, which shows whether somebody edited the card.
SEAL = re.compile(
    r"(.*)<!-- Written by alignedfusion; once edited it is never overwritten\. ([0-9a-f]{64}) -->\n", re.DOTALL
)


def write(text: str, folder: str | Path) -> Path:
    """Write a card into the folder of a model. A card that somebody wrote or edited is kept."""
    path = Path(folder) / CARD
    if not path.is_file() or is_generated(path.read_text(encoding="utf-8")):
        path.write_text(text, encoding="utf-8")
    return path


def render(
    model: Any,
    *,
    report: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    front: str = "",
    measured: Sequence[str] = (),
) -> str:
    """The text of a card: YAML for model hubs, then Markdown.

    Args:
        model: An `AlignedFusionClassifier`.
        report: Content of a run's `metrics.json`.
        settings: Content of a run's `settings.json`.
        front: YAML that replaces the default.
        measured: Sections of a run, before the limits; empty ones are left out.
    """
    report, settings = report or {}, settings or {}
    body = [
        f"# {plain(title(model, settings))}",
        what_it_is(model, settings),
        intended_use(model.task),
        how_to_use(model),
        attributes(model, report),
        *measured,
        limits(),
        versions(),
    ]
    front = front or yaml.safe_dump(head(model, settings), sort_keys=False, allow_unicode=True)
    licence = "# The owner of the model chooses its licence: add a line such as `license: apache-2.0`.\n"
    return seal(f"---\n{front}{licence}---\n\n" + "\n\n".join(part for part in body if part) + "\n\n")


def head(model: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a model hub reads of a card."""
    kind = "regression" if model.task == "regression" else "classification"
    pipeline = f"{'image' if model.image_modalities else 'tabular'}-{kind}"
    return {
        "library_name": "alignedfusion",
        **({} if pipeline == "image-regression" else {"pipeline_tag": pipeline}),  # hubs have no such kind
        "tags": ["medical", "multimodal", "missing-data"],
        "model_name": title(model, settings),
    }


def is_generated(text: str) -> bool:
    """Whether this library wrote a card and nobody edited it."""
    match = SEAL.fullmatch(text)
    return match is not None and _digest(match[1]) == match[2]


def seal(body: str) -> str:
    """A card with the line that shows whether somebody edited it."""
    return f"{body}<!-- Written by alignedfusion; once edited it is never overwritten. {_digest(body)} -->\n"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def title(model: Any, settings: Mapping[str, Any]) -> str:
    """The name of the model, one line."""
    reads = ["images"] * bool(model.image_modalities) + ["incomplete reports"] * (REPORT in model.modalities)
    label = settings.get("label")
    label = ", ".join(label) if isinstance(label, (list, tuple)) else label
    kind = "Regression from" if model.task == "regression" else "Classifier of"
    subject = f"{' '.join(str(label).split())} from" if label else kind
    return f"{subject} {' and '.join(reads)}"


def what_it_is(model: Any, settings: Mapping[str, Any]) -> str:
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
        f"{_PREDICTS[model.task].format(count=model.num_classes, names=names(model.class_names))} from "
        f"{' and '.join(reads)}{guesses}. "
        f"Made with alignedfusion, which fuses medical images with the attributes that a report mentions.\n\n"
        + "\n".join(lines)
    )


_PREDICTS = {
    "multiclass": "Classifies a case into {count} classes ({names})",
    "multilabel": "Predicts for each of {count} labels ({names}) whether a case has it",
    "regression": "Predicts {count} numbers ({names})",
}
_BEYOND = {
    "multiclass": "Cases of a class that is not listed above: the model always predicts one of the listed classes.",
    "multilabel": "Findings that are not listed above: no label of the model shows them.",
    "regression": "Values outside the range of the training cases.",
}


def intended_use(task: str) -> str:
    """Intended and out-of-scope uses of a model for a task."""
    return (
        "## Intended use\n\n"
        "Research on cases like the training cases: images of the same kind, acquired and prepared in the same way, and "
        "reports whose attributes have the same meaning.\n\n"
        "Out of scope:\n\n"
        "- Diagnosis, triage or treatment of a patient: this is not a medical device.\n"
        "- Other populations, scanners or reporting styles, unless the model was tested on them first.\n"
        f"- {_BEYOND[task]}\n"
        "- Reconstructed attributes as facts: they are estimates from the rest of the case."
    )


_OUTPUTS = {
    "multiclass": "probability of each class",
    "multilabel": "probability of each label",
    "regression": "each number in its unit",
}


def how_to_use(model: Any) -> str:
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
        f"dict(zip(model.class_names, model.activate(output.logits)[0].tolist()))  # {_OUTPUTS[model.task]}",
    ]
    if model.reconstructor is not None:
        lines.append("output.reconstruction  # logits over the values of each attribute, mentioned or not")
    note = (
        "\n\nThe model has modules of its owner, of which only the weights are here: pass modules of the same classes."
    )
    code = "\n".join(lines)
    fence = "```" if "```" not in code else "~~~"
    return f"## How to use\n\n{fence}python\n{code}\n{fence}" + (note if own else "")


def attributes(model: Any, report: Mapping[str, Any]) -> str:
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
    return f"encoded by `{visual.backbone_name}`{_tuning(visual.tune)}, input {size}"


def _tuning(tune: str) -> str:
    kind, number = parse_tune(tune)
    stages = "last stage" if number == 1 else f"last {number} stages"
    return {"none": " (frozen)", "last": f" ({stages} trained)", "lora": " (adapted by LoRA)"}.get(kind, "")


def _image(model: Any) -> str:
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
