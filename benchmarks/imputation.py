"""Imputation of hidden attributes: the reconstructor compared with common imputers, on the full PAD-UFES-20 table.

python benchmarks/imputation.py --data pad_ufes_20 -o runs/imputation

Rows are split by patient. Of the mentioned cells of the test rows 30 % are hidden, and each method predicts them from the
other cells. Numbers (age, diameters) are intervals for all methods. The script writes OUT/imputation.md, .csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from alignedfusion import AlignedFusionClassifier, AttributeTokenizer, MaskedTokenReconstructor, hide_attributes
from alignedfusion.attributes import REPORT, UNKNOWN, AttributeSchema
from alignedfusion.baselines import JointSelfAttention
from alignedfusion.baselines.tables import one_hot
from alignedfusion.datasets import pad_ufes_20
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.evaluation import calibration_error, outputs
from alignedfusion.modules.masking import HideAttributes
from alignedfusion.tables.files import read_table
from alignedfusion.training import TrainingSettings, fit

OURS = "reconstructor"
HIDDEN = 0.3
Scores = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # per attribute: confidence, correctness, log-likelihood
Guess = list[np.ndarray]  # per attribute: probabilities (n, values)


def mode(schema: AttributeSchema, train: Tensor, test: Tensor, seed: int) -> Guess:
    """The shares of the values among the training rows."""
    shares = one_hot(train, schema).sum(0) + 1.0
    return [np.tile(block / block.sum(), (len(test), 1)) for block in _blocks(shares[None], schema)]


def iterative(schema: AttributeSchema, train: Tensor, test: Tensor, seed: int) -> Guess:
    """scikit-learn's IterativeImputer on one-hot columns; imputed values are clipped and scaled to sum to one.

    It uses ridge regression, because the default's singular value decomposition does not converge on columns that sum to one.
    """
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer
    from sklearn.linear_model import Ridge

    imputer = IterativeImputer(Ridge(), max_iter=10, random_state=seed).fit(_with_gaps(train, schema))
    filled = np.clip(imputer.transform(_with_gaps(test, schema)), 1e-3, 1.0)
    return [block / block.sum(1, keepdims=True) for block in _blocks(filled, schema)]


def random_forest(schema: AttributeSchema, train: Tensor, test: Tensor, seed: int) -> Guess:
    """A forest per attribute on the one-hot columns of all others, trained with cells hidden as in the reconstructor."""
    from sklearn.ensemble import RandomForestClassifier

    generator = torch.Generator().manual_seed(seed)
    visible = torch.cat([hide_attributes(train, HIDDEN, generator=generator)[0] for _ in range(3)])
    truth = train.repeat(3, 1)
    guesses = []
    for a, number in enumerate(schema.num_values):
        known = (truth[:, a] != UNKNOWN).numpy()
        forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=seed)
        forest.fit(_others(visible, a, schema)[known], truth[known, a].numpy())
        guess = np.full((len(test), number), 1e-6)
        guess[:, forest.classes_] += forest.predict_proba(_others(test, a, schema))
        guesses.append(guess / guess.sum(1, keepdims=True))
    return guesses


def reconstructor(schema: AttributeSchema, train: Tensor, test: Tensor, seed: int) -> Guess:
    """Two rounds of self-attention on the attribute tokens, then `MaskedTokenReconstructor`; no class is predicted."""
    torch.manual_seed(seed)
    model = AlignedFusionClassifier(
        None,
        AttributeTokenizer(schema, 64),
        JointSelfAttention(64, modalities=(REPORT,), num_heads=2, dropout=0.1),
        MaskedTokenReconstructor(64),
        num_classes=1,
        hiding=HideAttributes(HIDDEN),
        unimodal_heads=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        fit(model, _cases(train), None, scratch, TrainingSettings(epochs=60, seed=seed), progress=False)
    logits = outputs(model, _cases(test), [test], "reconstruction", batch_size=256, progress=False)[0]  # (n, A, V_max)
    return [logits[:, a, :number].softmax(-1).numpy() for a, number in enumerate(schema.num_values)]


METHODS: dict[str, Callable[[AttributeSchema, Tensor, Tensor, int], Guess]] = {
    "mode": mode,
    "IterativeImputer": iterative,
    "random forest": random_forest,
    OURS: reconstructor,
}


def _cases(codes: Tensor) -> TensorCases:
    return TensorCases(torch.zeros(len(codes), 0), codes, torch.zeros(len(codes), dtype=torch.int64))


def _blocks(columns: np.ndarray, schema: AttributeSchema) -> list[np.ndarray]:
    return np.split(columns, np.cumsum(schema.num_values)[:-1], axis=1)


def _with_gaps(codes: Tensor, schema: AttributeSchema) -> np.ndarray:
    columns = one_hot(codes, schema).astype(float)
    columns[np.repeat((codes == UNKNOWN).numpy(), schema.num_values, axis=1)] = np.nan
    return columns


def _others(codes: Tensor, attribute: int, schema: AttributeSchema) -> np.ndarray:
    blocks = _blocks(one_hot(codes, schema), schema)
    return np.concatenate([block for a, block in enumerate(blocks) if a != attribute], axis=1)


def run_seed(frame: object, seed: int) -> dict[str, Scores]:
    """The scores of each method on the hidden cells."""
    from sklearn.model_selection import GroupShuffleSplit

    splitter = GroupShuffleSplit(1, test_size=0.3, random_state=seed)
    rows, held_out = next(splitter.split(frame, groups=frame["patient_id"]))  # type: ignore[index]
    schema = AttributeSchema.from_table(frame.iloc[rows], list(pad_ufes_20.ATTRIBUTES))  # type: ignore[attr-defined]
    codes = schema.encode(frame, unseen="unknown")
    train, truth = codes[rows], codes[held_out]
    test = drop_attributes(truth, HIDDEN, schema, cases=held_out.tolist(), seed=seed)
    is_hidden = ((test == UNKNOWN) & (truth != UNKNOWN)).numpy()
    scores = {}
    for name, method in METHODS.items():
        guesses = method(schema, train, test, seed)
        scores[name] = [
            (
                guess[hidden].max(1),
                guess[hidden].argmax(1) == value[hidden],
                np.log(guess[hidden, value[hidden]]),
            )
            for guess, hidden, value in zip(guesses, is_hidden.T, truth.T.numpy(), strict=True)
        ]
    return scores


def main() -> None:
    """Compare the methods, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with metadata.csv")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    frame = read_table(options.data / "metadata.csv", missing_values=("UNK",))
    runs = [run_seed(frame, seed) for seed in tqdm(range(options.seeds), desc="splits")]
    options.output.mkdir(parents=True, exist_ok=True)
    write(runs, options.output)


def write(runs: list[dict[str, Scores]], output: Path) -> None:
    """Accuracy per attribute, its mean, the cross-entropy, and the calibration error over all hidden cells."""
    rows = []
    for a, attribute in enumerate(pad_ufes_20.ATTRIBUTES):
        rows.append([attribute, *(np.mean([run[name][a][1].mean() for run in runs]) for name in METHODS)])
    means = {name: [np.mean([right.mean() for _, right, _ in run[name]]) for run in runs] for name in METHODS}
    entropies = {name: [-np.mean([log.mean() for *_, log in run[name]]) for run in runs] for name in METHODS}
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    for run in runs:
        for name in METHODS:
            confidence, right, _ = (np.concatenate(arrays) for arrays in zip(*run[name], strict=True))
            errors[name].append(calibration_error(confidence, right))
    lines = [f"| accuracy of hidden cells, % | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    lines += [f"| {row[0]} | {' | '.join(f'{100 * cell:.1f}' for cell in row[1:])} |" for row in rows]
    for title, values in (("**mean over attributes**", means), ("calibration error", errors)):
        cells = [f"{100 * np.mean(numbers):.1f} ± {100 * np.std(numbers, ddof=1):.1f}" for numbers in values.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    cells = [f"{np.mean(numbers):.3f} ± {np.std(numbers, ddof=1):.3f}" for numbers in entropies.values()]
    lines.append(f"| cross-entropy, mean over attributes | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (output / "imputation.md").write_text(text, "utf-8")
    with (output / "imputation.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["attribute", *METHODS], *rows])
    _draw(rows, output / "imputation.png")
    print(text)


def _draw(rows: list[list], path: Path) -> None:
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: row[-1])
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for i, (name, marker) in enumerate(zip(METHODS, "|xso", strict=True)):
        axes.plot(
            [100 * row[i + 1] for row in rows],
            range(len(rows)),
            marker,
            label=name,
            color="black" if name == OURS else f"C{i}",
        )
    axes.set_yticks(range(len(rows)), [row[0].replace("_", " ") for row in rows])
    axes.set_xlabel("accuracy of hidden cells (%)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
