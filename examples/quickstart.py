"""The idea in one minute: predict a class from an image and an incomplete report.

Needs nothing but alignedfusion itself; about a minute on two cores.

python quickstart.py

The data are drawn lesions with nine attributes each. A small model is trained on incomplete reports, then tested on reports
with more and more attributes missing. At each rate it predicts the class and the missing attributes.
"""

import argparse

import torch

from alignedfusion import UNKNOWN
from alignedfusion.datasets import phantom
from alignedfusion.datasets.missingness import drop_attributes
from alignedfusion.presets import Backbone, standard

TRAINING_CASES, TEST_CASES = 1500, 500
EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 64, 1e-3
IMAGE_SIZE = 64


def main() -> None:
    """Train, test at several rates of missing attributes, and predict one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=TRAINING_CASES, help=f"default: {TRAINING_CASES}")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    options = parser.parse_args()
    torch.manual_seed(0)

    # The schema lists the attributes and their values; the codes hold what each report mentions.
    schema = phantom.SCHEMA
    codes = schema.encode([{"border": "irregular", "age": 71}, {"growth": "stable"}])
    print(f"attributes: {', '.join(schema.names)}")
    print(f"two reports as codes, {UNKNOWN} where unmentioned: {codes.tolist()}\n")

    # "test_vit" is a tiny backbone. For your images leave out `backbone`: the default is a pretrained vit_small_patch16_224.
    model = standard(
        schema,
        phantom.CLASS_NAMES,
        backbone=Backbone("test_vit", pretrained=False, tune="whole", image_size=IMAGE_SIZE),
        depth=2,  # with two rounds of fusion, an unmentioned attribute is reconstructed from the image too
    )
    scale = {name: model.visual.preprocessing[name] for name in ("mean", "std")}
    train = phantom.make(options.cases, seed=0, image_size=IMAGE_SIZE, missing=0.2).cases(**scale)
    drawn = phantom.make(TEST_CASES, seed=1, image_size=IMAGE_SIZE)
    test = drawn.cases(**scale)

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=options.epochs * -(-len(train) // BATCH_SIZE)
    )
    for epoch in range(options.epochs):
        total = 0.0
        for rows in torch.randperm(len(train)).split(BATCH_SIZE):
            # In training the model hides some mentioned attributes and reconstructs them; the loss includes this.
            out = model(train.image[rows], train.codes[rows], labels=train.labels[rows])
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            schedule.step()
            total += out.loss.item() * len(rows)
        print(f"epoch {epoch + 1}: loss {total / len(train):.2f}")

    model.eval()
    most_frequent = test.labels.bincount().max().item() / len(test)
    print(f"\n{len(test)} test cases, most frequent class {most_frequent:.1%}")
    # An attribute that is right by its most frequent value needs no model, so each rate has this comparison.
    usual = test.codes.mode(0).values  # (A,)
    print(
        f"{'attributes missing':20}{'accuracy':>10}{'missing attributes right':>28}{'by the most frequent value':>30}"
    )
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        visible = drop_attributes(test.codes, rate, schema, seed=2)
        with torch.no_grad():
            out = model(test.image, visible)
        accuracy = (out.logits.argmax(1) == test.labels).float().mean().item()
        is_missing = visible == UNKNOWN
        right = [(guess == test.codes)[is_missing].float() for guess in (out.reconstruction.argmax(-1), usual)]
        reconstructed, most_often = (f"{x.mean().item():.1%}" if len(x) else "-" for x in right)
        print(f"{rate:<20.0%}{accuracy:10.1%}{reconstructed:>28}{most_often:>30}")

    # One case whose report mentions two attributes only.
    mentioned = {name: drawn.rows[0][name] for name in ("growth", "age")}
    with torch.no_grad():
        out = model(test.image[:1], schema.encode([mentioned]))
    print(f"one case, a {phantom.CLASS_NAMES[test.labels[0]]}, whose report mentions {mentioned}")
    for name, share in zip(phantom.CLASS_NAMES, out.logits[0].softmax(0).tolist(), strict=True):
        print(f"  {name:24}{share:6.1%}")
    print("most probable values of the unmentioned attributes")
    truth = schema.decode(test.codes[:1])[0]
    for attribute, logits in zip(schema, out.reconstruction[0], strict=True):
        if attribute.name not in mentioned:
            share, value = logits.softmax(0).max(0)
            print(f"  {attribute.name:16}{attribute.values[value]:16}{share:6.1%}   in truth {truth[attribute.name]}")

    # One case may be luck: the same for all test cases.
    is_missing = torch.tensor([name not in mentioned for name in schema.names])
    with torch.no_grad():
        out = model(test.image, test.codes.masked_fill(is_missing, UNKNOWN))
    right = [
        (guess == test.codes)[:, is_missing].sum(1).float().mean() for guess in (out.reconstruction.argmax(-1), usual)
    ]
    print(
        f"of these {is_missing.sum()}, {right[0]:.1f} are right in a mean case, and {right[1]:.1f} by the most frequent values"
    )


if __name__ == "__main__":
    main()
