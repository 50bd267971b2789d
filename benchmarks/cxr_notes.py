"""Prepare chest X-rays with clinical notes: one table with the notes, one with the other columns.

python benchmarks/cxr_notes.py --data FOLDER -o OUT

FOLDER has metadata.csv and images/ of the COVID-19 image data collection (Cohen et al. 2020). The task is COVID-19 against all
other findings. Words that name a diagnosis are replaced by XXXX in the notes. The script writes OUT/notes.csv (notes only) and
OUT/columns.csv (the other columns only). These commands train a model on the notes:

alignedfusion extract OUT/notes.csv --text clinical_notes other_notes --lexicon chest_xray -o OUT/table.csv
alignedfusion train OUT/table.csv --image filename --label finding --group patientid --max-unreadable 1 \
    -o OUT/run

This command compares the methods on them (docs/reports.md has the complete commands):

python benchmarks/paper_tables.py --table 1b --source manifest --data OUT/table.csv ... --protocol cv
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from real_data import CXR_ATTRIBUTES

from alignedfusion.tables.files import read_table

DIAGNOSES = re.compile(
    r"""\b(?: covid (?:[-\s]?19)? | corona\s?virus\w* | sars (?:[-\s]?cov (?:[-\s]?2)? )? | (?:2019[-\s]?)? ncov | pneumocystis
      | (?:p[.]\s)? (?:jirovecii|jiroveci|carinii) | pcp | pjp | klebsiella | legionella | legionnaires? | mycoplasma | strep\w*
      | pneumococ\w* | varicella | chicken\s?pox | influenza | h1n1 | flu | e[.]?\s?coli | lip(?:o)?id | ards
      | acute\srespiratory\sdistress\ssyndrome | mers (?:[-\s]?cov)? )\b""",
    re.VERBOSE | re.IGNORECASE,
)


def main() -> None:
    """Write the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    options = parser.parse_args()
    frame = read_table(options.data / "metadata.csv", missing_values=("?",))
    frame = frame[frame["finding"].notna() & ~frame["finding"].astype(str).str.lower().str.contains("todo")].copy()
    frame["finding"] = np.where(frame["finding"].str.contains("COVID-19"), "COVID-19", "other")
    replaced = 0
    for column in ("clinical_notes", "other_notes"):
        notes = frame[column].fillna("")
        replaced += int(notes.str.count(DIAGNOSES.pattern, flags=DIAGNOSES.flags).sum())
        frame[column] = [DIAGNOSES.sub("XXXX", note) for note in notes]
    frame["filename"] = [str((options.data / "images" / name).resolve()) for name in frame["filename"]]
    options.output.mkdir(parents=True, exist_ok=True)
    case = ["filename", "patientid", "finding"]
    frame[[*case, "clinical_notes", "other_notes"]].to_csv(options.output / "notes.csv", index=False)
    columns = [name for name in CXR_ATTRIBUTES if frame[name].notna().sum() > 20]
    frame[[*case, *columns]].to_csv(options.output / "columns.csv", index=False)
    print(
        f"{len(frame)} images of {frame['patientid'].nunique()} patients; {replaced} names of diagnoses replaced in the notes"
    )


if __name__ == "__main__":
    main()
