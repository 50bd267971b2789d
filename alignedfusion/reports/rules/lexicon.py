"""Lexicons: which attributes a cohort's reports mention, and in which words. YAML files that a clinician can read.

```yaml
attributes:
  pleural_effusion:                      # a finding: positive, negative or uncertain
    terms: [pleural effusion, effusion, (blunting|blunted) ... costophrenic]
    normal: [pleural spaces are clear]   # says that there is none
    except: [pericardial effusion]       # looks like it and is something else
  elevation:                             # one of several values
    values:
      flat: [flat, macule]
      nodular: [nodular, nodule]
  fever:
    terms: [fever, febrile]
    history: true                        # counts under "History:" and after "history of", too
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
    """The attributes of a cohort and the words for them.

    Args:
        attributes: In the order of the table's columns.
    """

    def __init__(self, attributes: Sequence[LexiconAttribute]) -> None:
        self.attributes = tuple(attributes)
        self.names = tuple(attribute.name for attribute in self.attributes)

    @classmethod
    def load(cls, name: str | Path) -> Lexicon:
        """Read a lexicon: one that comes with the library (see `shipped`), or a YAML file.

        Raises:
            FileNotFoundError: If there is neither.
            ValueError: For a mistake in the file, with its line and key.
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
        """The candidate values of every attribute. A number without `edges` has one interval: its being there."""
        from alignedfusion.attributes import Attribute, AttributeSchema  # brings torch, which reading does without

        return AttributeSchema(
            Attribute(a.name, kind="numeric", units=a.unit, edges=a.edges)
            if a.is_numeric
            else Attribute(a.name, values=a.candidates())
            for a in self.attributes
        )


_FOLDER = resources.files("alignedfusion.reports") / "lexicons"


def shipped() -> list[str]:
    """Names of the lexicons that come with the library."""
    return sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))
