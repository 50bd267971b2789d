"""Lexicons: attributes and the terms for them, in YAML files that a clinician can read and write.

```yaml
attributes:
  pleural_effusion:                      # a finding: positive, negative or uncertain
    terms: [pleural effusion, effusion, (blunting|blunted) ... costophrenic]
    normal: [pleural spaces are clear]   # denies the finding
    except: [pericardial effusion]       # contains a term but means something else
  elevation:                             # one of several values
    values:
      flat: [flat, macule]
      nodular: [nodular, nodule]
  fever:
    terms: [fever, febrile]
    history: true                        # also counts under "History:" and after "history of"
  age:                                   # a number
    unit: years
    numbers: [<number> year(s) old, aged <number>]
    between: [0, 120]
```

The language of the terms is that of `alignedfusion.reports.rules.terms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from alignedfusion.reports.rules.lexicon_file import KEYS, LexiconAttribute, LexiconReader, did_you_mean, write_entry

if TYPE_CHECKING:
    from alignedfusion.attributes import AttributeSchema

__all__ = ["KEYS", "Lexicon", "LexiconAttribute", "shipped"]


class Lexicon:
    """Attributes and the terms for them.

    Args:
        attributes: The attributes, in the order of the table's columns.
    """

    def __init__(self, attributes: Sequence[LexiconAttribute]) -> None:
        self.attributes = tuple(attributes)
        self.names = tuple(attribute.name for attribute in self.attributes)

    @classmethod
    def load(cls, name: str | Path) -> Lexicon:
        """Read a lexicon by its name (see `shipped`) or from a YAML file.

        Raises:
            FileNotFoundError: If there is no such lexicon or file.
            ValueError: If the file has a mistake; the message contains its line and key.
        """
        if str(name) in shipped():
            return cls.parse((_FOLDER / f"{name}.yaml").read_text("utf-8"), source=f"{name}.yaml")
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no lexicon {str(name)!r}: neither a file nor one of those shipped, {', '.join(shipped())}"
            )
        return cls.parse(path.read_text("utf-8"), source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str = "lexicon") -> Lexicon:
        """Read a lexicon from YAML; errors name `source` and the line."""
        return cls(LexiconReader(source).attributes(text))

    def subset(self, names: Sequence[str]) -> Lexicon:
        """Some of the attributes, in this order."""
        by_name = {attribute.name: attribute for attribute in self.attributes}
        if unknown := [name for name in names if name not in by_name]:
            raise ValueError(f"the lexicon has no attribute {unknown[0]!r}{did_you_mean(unknown[0], self.names)}")
        return Lexicon([by_name[name] for name in names])

    def to_yaml(self) -> str:
        """The lexicon as a file that `parse` reads back."""
        entries = {attribute.name: write_entry(attribute) for attribute in self.attributes}
        text: str = yaml.safe_dump({"attributes": entries}, sort_keys=False, allow_unicode=True, width=120)
        return text

    def schema(self) -> AttributeSchema:
        """The schema with the candidate values of every attribute. Numbers without `edges` get the one value "recorded"."""
        from alignedfusion.attributes import Attribute, AttributeSchema  # imports torch, which extraction does not need

        return AttributeSchema(
            Attribute(a.name, kind="numeric", units=a.unit, edges=a.edges)
            if a.is_numeric
            else Attribute(a.name, values=a.candidates())
            for a in self.attributes
        )


_FOLDER = resources.files("alignedfusion.reports") / "lexicons"


def shipped() -> list[str]:
    """Names of the lexicons that are part of the library."""
    return sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))
