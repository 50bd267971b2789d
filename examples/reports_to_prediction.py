"""From report text to a prediction: extract a table with rules, train on it, predict a new case.

Needs nothing but alignedfusion itself; half a minute on two cores.

python reports_to_prediction.py
python reports_to_prediction.py --text "A 70-year-old farmer. The spot on his cheek itches but has not grown."

The script writes reports about drawn lesions, in varying words and with omissions. A lexicon of the package extracts their
attributes. For your own reports see: alignedfusion extract --help.
"""

import argparse
import random

import torch

from alignedfusion import UNKNOWN, AlignedFusionClassifier
from alignedfusion.datasets import phantom
from alignedfusion.presets import Backbone, standard
from alignedfusion.reports import Lexicon, RuleExtractor, encode_rows

LEXICON, ATTRIBUTES = "skin_lesion", ["grew", "itch", "region", "age", "diameter"]
TRAINING_CASES, TEST_CASES = 1000, 500
EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 64, 1e-3
IMAGE_SIZE, OMISSION = 64, 0.35  # OMISSION: probability that a report omits an attribute

GROWTH = {
    "growing": ["It has been growing.", "Getting bigger since spring.", "The lesion has increased in size."],
    "stable": ["It is not growing.", "It has not grown.", "Stable in size."],
}
ITCHING = {
    "present": ["Itching at night.", "The patient reports pruritus."],
    "absent": ["No itching.", "Denies pruritus."],
}
SITE = {
    "face": ["Seen on the cheek.", "Located on the forehead."],
    "trunk": ["Found on the upper back.", "A spot on the abdomen."],
    "limb": ["On the left forearm.", "A spot on the thigh."],
}
NEW_REPORT = "A 47-year-old patient. The mole on the thigh keeps getting bigger."


def write_report(row: dict, rng: random.Random) -> str:
    """A report of a drawn case; any sentence may be omitted."""
    sentences = [
        f"{row['age']}-year-old patient.",
        rng.choice(GROWTH[row["growth"]]),
        rng.choice(ITCHING[row["itching"]]),
        rng.choice(SITE[row["site"]]),
        f"It measures {row['size']} mm.",
    ]
    rng.shuffle(sentences)
    return " ".join(sentence for sentence in sentences if rng.random() > OMISSION) or "Skin lesion."


def train(
    model: AlignedFusionClassifier, images: torch.Tensor, codes: torch.Tensor, labels: torch.Tensor, epochs: int
) -> None:
    """Train in a plain loop; the model hides attributes itself."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
            loss = model(images[rows], codes[rows], labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / len(labels):.2f}")
    model.eval()


def main() -> None:
    """Extract, train, test, and predict one new case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default=NEW_REPORT, help=f"report of the new case (default: {NEW_REPORT!r})")
    parser.add_argument("--cases", type=int, default=TRAINING_CASES, help=f"default: {TRAINING_CASES}")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    options = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(0)
    drawn = phantom.make(options.cases + TEST_CASES, image_size=IMAGE_SIZE)
    reports = [write_report(row, rng) for row in drawn.rows]

    # From text to a table with one value per cell, None where unmentioned; then from the table to codes.
    lexicon = Lexicon.load(LEXICON).subset(ATTRIBUTES)
    extractor, schema = RuleExtractor(lexicon), lexicon.schema()
    table = [extractor.extract(report) for report in reports]
    for report, row in zip(reports[:3], table, strict=False):
        print(report + "\n  " + ", ".join(f"{name}: {cell.value or 'UN'}" for name, cell in row.items()))
    codes = encode_rows(table, schema)

    model = standard(
        schema,
        phantom.CLASS_NAMES,
        backbone=Backbone("test_vit", pretrained=False, tune="whole", image_size=IMAGE_SIZE),
    )
    images = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    training, testing = slice(options.cases), slice(options.cases, None)
    print()
    train(model, images[training], codes[training], drawn.labels[training], options.epochs)

    labels = drawn.labels[testing]
    print(f"\naccuracy on {TEST_CASES} test cases (most frequent class {labels.bincount().max() / len(labels):.1%})")
    with torch.no_grad():
        for name, visible in (("with reports", codes[testing]), ("without", torch.full_like(codes[testing], UNKNOWN))):
            is_correct = model(images[testing], visible).logits.argmax(1) == labels
            print(f"  {name:16}{is_correct.float().mean().item():.1%}")

    cells = extractor.extract(options.text)
    words = [
        f"{name} {c.value} ({options.text[slice(*c.evidence.target)]!r})" for name, c in cells.items() if c.evidence
    ]
    print(f"\nnew case: {options.text}\n  read: {', '.join(words) or 'nothing'}")
    with torch.no_grad():
        out = model(images[-1:], encode_rows([cells], schema))
    shares = dict(zip(phantom.CLASS_NAMES, out.logits[0].softmax(0).tolist(), strict=True))
    print(
        "  prediction, with the last test image: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    )


if __name__ == "__main__":
    main()
