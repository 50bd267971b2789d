"""Missing attributes in experiments, drawn reproducibly: at random (MCAR, MAR) or not at random (MNAR)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alignedfusion.attributes import UNKNOWN, AttributeSchema, check_probability

DENIALS = frozenset({"absent", "no", "none", "false", "negative", "denied"})
"""Values that deny an attribute."""


Mechanism = Callable[[Tensor, float, AttributeSchema], Tensor]
"""Function from codes (B, A), a rate and a schema to the probability (B, A) that a cell goes missing. A higher rate must not
lower a probability."""


def mcar(codes: Tensor, rate: float, schema: AttributeSchema) -> Tensor:
    """Missing completely at random: every cell has the same probability."""
    return torch.full(codes.shape, rate, dtype=torch.float64, device=codes.device)


def mar(driver: str) -> Mechanism:
    """Missing at random: the probability of a cell depends on the value of another attribute, `driver`.

    It grows from zero at the first value of `driver` to twice the rate at its last. The driver itself is always kept. Where it
    is unmentioned, the other cells go missing at the rate.
    """

    def mechanism(codes: Tensor, rate: float, schema: AttributeSchema) -> Tensor:
        column = _column(driver, schema)
        position = codes[:, column].double() / max(schema.num_values[column] - 1, 1)  # 0 to 1 along the driver's values
        factor = torch.where(codes[:, column] == UNKNOWN, 1.0, 2.0 * position)
        probability = (rate * factor)[:, None].repeat(1, codes.shape[1]).clamp(max=1.0)
        probability[:, column] = 0.0
        return probability

    return mechanism


def mnar(
    *, denials: float | Mapping[str, float], others: float | Mapping[str, float], names: Collection[str] = DENIALS
) -> Mechanism:
    """Missing not at random: the probability of a cell depends on its own value, as in real reports.

    `mnar(denials=0, others=1)` keeps every denial and drops other values. `mnar(denials=1, others=0)` drops denials only. In
    chest X-ray reports, an absent finding is left out in 24 % (pleural effusion), 30 % (pneumothorax) and 100 %
    (cardiomegaly) of the cases, and a present one hardly ever.

    Args:
        denials: Factor on the rate for cells that deny, one for all attributes or a mapping by attribute; attributes without
            a factor are kept.
        others: Factor on the rate for all other cells, likewise.
        names: The values that deny, in lower case.
    """

    def mechanism(codes: Tensor, rate: float, schema: AttributeSchema) -> Tensor:
        for factors in (denials, others):
            for name in factors if isinstance(factors, Mapping) else ():
                _column(name, schema)
        columns = []
        for name, attribute, column in zip(schema.names, schema, codes.unbind(1), strict=True):
            factor = [_factor(denials if label.lower() in names else others, name) for label in attribute.values]
            table = torch.tensor(
                [*factor, 0.0], dtype=torch.float64, device=codes.device
            )  # the last entry is for UNKNOWN = -1
            columns.append((rate * table[column]).clamp(max=1.0))
        return torch.stack(columns, dim=1)

    return mechanism


def drop_attributes(
    codes: Tensor,
    rate: float | Mapping[str, float],
    schema: AttributeSchema,
    *,
    mechanism: Mechanism = mcar,
    cases: Iterable[object] | None = None,
    seed: int = 0,
) -> Tensor:
    """Set cells to `UNKNOWN`, reproducibly.

    The draw of a cell depends only on the seed, the case and the name of the attribute. It is the same for all epochs, methods
    and orders of rows and columns, and a cell that is missing at one rate is missing at every higher rate.

    Args:
        codes: (B, A), one column per attribute of `schema`.
        rate: Share of cells to drop, 0 to 1; or a mapping of shares by attribute, in which absent attributes are kept.
        schema: The attributes.
        mechanism: The mechanism of missingness; a rate per attribute takes `mcar` only.
        cases: A name or number per row; the position of the row by default.
        seed: Seed of the draw.

    Returns:
        (B, A) codes, `UNKNOWN` where dropped.
    """
    schema.check_codes(codes)
    rows = list(range(len(codes))) if cases is None else list(cases)
    if len(rows) != len(codes):
        raise ValueError(f"cases must name every row: got {len(rows)} names for {len(codes)} rows")
    case_keys = np.array([_key(f"{seed}/{case}") for case in rows], dtype=np.uint64)
    name_keys = np.array([_key(name) for name in schema.names], dtype=np.uint64)
    draw = _mix(case_keys[:, None] ^ name_keys[None, :]).astype(np.float64) / 2.0**64  # (B, A), uniform
    probability = _probability(codes, rate, schema, mechanism)
    return codes.masked_fill(torch.from_numpy(draw).to(codes.device) < probability, UNKNOWN)


@dataclass(frozen=True)
class Scenario:
    """How much is missing in each split of the data.

    `Scenario(train=0.2)` is the paper's M-Tr+C-Te at 20 %, `Scenario(test=0.2)` its C-Tr+M-Te, and
    `Scenario(train=0.5, test=0.2)` its M-Tr+M-Te. Its C-Tr rows keep the validation cases complete, "Miss Val." does not.

    Args:
        train: Rate in the training cases.
        valid: Rate in the validation cases.
        test: Rate in the test cases.
        mechanism: The mechanism of missingness.
        seed: Seed of the draw.
    """

    train: float = 0.0
    valid: float = 0.0
    test: float = 0.0
    mechanism: Mechanism = mcar
    seed: int = 0

    def apply(self, split: str, codes: Tensor, schema: AttributeSchema, cases: Iterable[object]) -> Tensor:
        """The codes (B, A) of the split "train", "valid" or "test" after dropping cells at its rate."""
        rates = {"train": self.train, "valid": self.valid, "test": self.test}
        if split not in rates:
            raise ValueError(f"split must be one of {sorted(rates)}, got {split!r}")
        return drop_attributes(codes, rates[split], schema, mechanism=self.mechanism, cases=cases, seed=self.seed)


def _probability(
    codes: Tensor, rate: float | Mapping[str, float], schema: AttributeSchema, mechanism: Mechanism
) -> Tensor:
    if not isinstance(rate, Mapping):
        check_probability("rate", rate)
        return mechanism(codes, rate, schema)
    if mechanism is not mcar:
        raise ValueError("a rate per attribute takes no mechanism; give one rate for all attributes")
    shares = torch.zeros(len(schema), dtype=torch.float64, device=codes.device)
    for name, share in rate.items():
        check_probability(f"rate[{name!r}]", share)
        shares[_column(name, schema)] = share
    return shares.expand(codes.shape)


def _column(name: str, schema: AttributeSchema) -> int:
    if name not in schema.names:
        raise ValueError(f"no attribute {name!r} in the schema; it has {list(schema.names)}")
    return list(schema.names).index(name)


def _factor(factors: float | Mapping[str, float], name: str) -> float:
    return factors.get(name, 0.0) if isinstance(factors, Mapping) else factors


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(keys: np.ndarray) -> np.ndarray:
    # The finaliser of SplitMix64: keys that differ in one bit become uncorrelated.
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
