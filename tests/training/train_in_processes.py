"""Training jobs that test_distributed.py runs in one and in several processes: `train_in_processes.py FOLDER JOB...`.

Every job divides batches of 16 cases among the processes, and returns results that can be compared.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from alignedfusion import (
    AlignedFusionClassifier,
    Attribute,
    AttributeSchema,
    AttributeTokenizer,
    IntermediateTokenFusion,
    MaskedTokenReconstructor,
    VisualTokenizer,
)
from alignedfusion.commands import main as cli
from alignedfusion.datasets.cases import TensorCases
from alignedfusion.modules.masking import hide_attributes
from alignedfusion.training import TrainingSettings, fit, parameter_groups
from alignedfusion.training.distributed import loss_over_processes, must_use_cpu, num_processes

BATCH = 16
SCHEMA = AttributeSchema(
    [
        Attribute("elevation", values=("flat", "palpable", "nodular")),
        Attribute("ulceration", values=("absent", "present")),
        Attribute("age", kind="numeric", units="years", edges=(30.0, 45.0, 60.0, 75.0)),
    ]
)


class Cases(TensorCases):
    """Cases with given hidden cells: none in the first 24, some in the rest. Raises KeyboardInterrupt after `reads`."""

    def __init__(self, n, *, empty=False, gappy=False, reads=None):
        generator = torch.Generator().manual_seed(n)
        codes = torch.stack([torch.randint(-1, k, (n,), generator=generator) for k in SCHEMA.num_values], dim=1)
        labels = codes[:, 0] + 1
        super().__init__(torch.randn(n, 5, 13, generator=generator), codes, labels)
        self.is_hidden = hide_attributes(codes, 0.0 if empty else 0.5, generator=generator)[1]
        self.is_hidden[:24] = False
        self.is_present = torch.rand(n, 2, generator=generator) < 0.6 if gappy else None
        self.left = reads

    def __getitem__(self, index):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        case = {**super().__getitem__(index), "is_hidden": self.is_hidden[index]}
        if self.is_present is not None:
            case["is_present"] = dict(zip(("image", "report"), self.is_present[index], strict=True))
        return case


def build():
    torch.manual_seed(0)
    return AlignedFusionClassifier(
        VisualTokenizer(None, 38, num_features=13),
        AttributeTokenizer(SCHEMA, 38),
        IntermediateTokenFusion(38, depth=2, num_heads=2),
        MaskedTokenReconstructor(38),
        num_classes=7,
        dropout=0.0,
    )


def step_by_step(folder, *, cases=None):
    """A custom training loop with cases in order: the loss and the norm of the gradient at each step of two epochs."""
    accelerator = Accelerator(cpu=must_use_cpu())
    model = build()
    loader = DataLoader(Cases(53) if cases is None else cases, BATCH // num_processes())
    optimizer = torch.optim.AdamW(parameter_groups(model, TrainingSettings(learning_rate=3e-3)))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    steps = []
    for _ in range(2):
        for batch in loader:
            loss, _ = loss_over_processes(accelerator, model, batch)
            optimizer.zero_grad()
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps.append([accelerator.reduce(loss.detach(), "mean").item(), norm.item()])
    return {"steps": steps}


def nothing_hidden(folder):
    return step_by_step(folder, cases=Cases(20, empty=True))


def absent_images_and_reports(folder):
    return step_by_step(folder, cases=Cases(53, gappy=True))


def fewer_cases_than_processes(folder):
    return step_by_step(folder, cases=Cases(1))


def trainer(folder):
    """`fit` with shuffling, validation, checkpoints and calibration."""
    model = build()
    held = []
    # Sharded weights are not gathered before the first step.
    model.register_forward_pre_hook(lambda module, _: held.append(sum(_local(p) for p in module.parameters())))
    log = _fit(model, Cases(53), folder / "trainer")
    model.save_pretrained(folder / f"model-{os.environ.get('RANK', 'alone')}")
    training, validation = ([entry for entry in log if key in entry] for key in ("loss", "eval_loss"))
    return {
        "loss": [entry["loss"] for entry in training],
        "rate": [entry["learning_rate"] for entry in training],
        "norm": [entry["grad_norm"] for entry in training],
        "accuracy": [entry["eval_accuracy"] for entry in validation],
        "cross_entropy": [entry["eval_cross_entropy"] for entry in validation],
        "weights": model.branch_weights.tolist(),
        "logits": logits(model),
        "held": held[0] / sum(p.numel() for p in model.parameters()),
        "left": sorted(path.name for path in (folder / "trainer").iterdir()),
    }


def interrupted(folder):
    """`fit` as above, interrupted in its third epoch and started again."""
    halted = Cases(53, reads=4 * 2 * BATCH // num_processes() + 5)
    try:
        _fit(build(), halted, folder / "interrupted")
    except KeyboardInterrupt:
        Accelerator(cpu=must_use_cpu()).wait_for_everyone()  # as in a new call of the command
        checkpoints = len(list((folder / "interrupted").iterdir()))
    log = _fit(build(), Cases(53), folder / "interrupted")
    return {"checkpoints": checkpoints, "loss": [entry["loss"] for entry in log if "loss" in entry]}


def sharded(folder):
    """`trainer` with sharded weights. accelerate shards on GPUs only: here it takes the CPU for them."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from alignedfusion.training import fitting as training

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    training.must_use_cpu = lambda: False
    return trainer(folder)


def drawn(folder):
    """`fit` with hidden cells drawn in training: which cells this process hides in the first step, and its labels there."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(k, (48,), generator=generator) for k in SCHEMA.num_values], dim=1)
    cases = TensorCases(torch.randn(48, 5, 13, generator=generator), codes, torch.arange(48) % 7)
    model = build()
    calls = []
    model.register_forward_pre_hook(lambda module, args, call: calls.append(call), with_kwargs=True)
    log = fit(
        model,
        cases,
        None,
        folder / "drawn",
        TrainingSettings(epochs=1, batch_size=BATCH // num_processes()),
        progress=False,
    )
    hidden = calls[0].get("is_hidden")
    return {
        "loss": [entry["loss"] for entry in log if "loss" in entry],
        "hidden": None if hidden is None else hidden.tolist(),
        "labels": calls[0]["labels"].tolist(),
    }


def command(folder):
    """`alignedfusion train` on a table."""
    columns = ["--image", "file", "--label", "kind", "--dim", "64", "--batch-size", "8", "--learning-rate", "3e-3"]
    line = ["train", str(folder / "cases.csv"), *columns, "--epochs", "8", "-o", str(folder / "run")]
    return {"status": cli.main(line)}


def _fit(model, train, folder):
    return fit(
        model, train, Cases(29), folder, TrainingSettings(epochs=3, batch_size=BATCH // num_processes()), progress=False
    )


def _local(parameter):
    return (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()


def logits(model):
    cases = Cases(31)
    with torch.no_grad():
        return model.eval()(cases.image, cases.codes).logits.tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in sys.argv[2:]:
        folder = Path(sys.argv[1])
        result = globals()[job](folder)
        (folder / f"{job}-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(result))
