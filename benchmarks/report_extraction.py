"""Quality and speed of report extraction against hand-coded findings; medspaCy and negspacy too, where they are installed.

python benchmarks/report_extraction.py --indiana reports.csv
python benchmarks/report_extraction.py --negex Annotations-1-120.txt

--indiana: reports of the Indiana University collection with the columns MeSH, findings and impression (Demner-Fushman et al.
2016). Gold is positive where the MeSH coding names a finding; a report without it either denies it or is silent, so only
"positive" can be scored. --negex: the sentences of the NegEx kit (number, phrase, sentence and "Negated" or "Affirmed",
separated by tabs); scored is "Negated".

Engines without a lexicon get the words of TERMS; "same terms" is ours with these words and nothing else. "All attributes"
reads all attributes of the shipped lexicon, as `alignedfusion extract` does, and is scored on the same findings. Rates are
reports per second of processor time, on one core.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from alignedfusion.reports import Lexicon, RuleExtractor, assertion
from alignedfusion.reports.rules.lexicon import LexiconAttribute
from alignedfusion.reports.rules.terms import compile_term

States = dict[str, str | None]
Engine = Callable[[str], States]

GOLD: dict[str, set[str]] = {
    "cardiomegaly": {"cardiomegaly"},
    "pleural_effusion": {"pleural effusion"},
    "pneumothorax": {"pneumothorax", "hydropneumothorax"},
    "consolidation": {"airspace disease", "consolidation", "infiltrate"},
    "pulmonary_edema": {"pulmonary edema"},
    "atelectasis": {"pulmonary atelectasis"},
    "opacity": {"opacity"},
    "nodule": {"nodule"},
    "granuloma": {"granuloma", "calcified granuloma", "granulomatous disease"},
    "emphysema": {"emphysema", "pulmonary emphysema", "bullous emphysema", "pulmonary disease, chronic obstructive"},
    "fracture": {"fractures, bone"},
    "pneumonia": {"pneumonia"},
    "hiatal_hernia": {"hernia, hiatal"},
    "scoliosis": {"scoliosis"},
    "any_opacity": {"opacity", "airspace disease", "consolidation", "infiltrate", "pneumonia", "density"},
}
"""Findings, and the MeSH head terms that code them."""

POOLED = ("opacity", "consolidation", "pneumonia")
"""Findings that make "any_opacity"."""

TERMS: dict[str, list[str]] = {
    "cardiomegaly": [
        "cardiomegaly",
        "enlarged heart",
        "cardiac enlargement",
        "heart is enlarged",
        "enlarged cardiac silhouette",
    ],
    "pleural_effusion": ["pleural effusion", "pleural effusions", "effusion", "effusions", "pleural fluid"],
    "pneumothorax": ["pneumothorax", "pneumothoraces", "hydropneumothorax"],
    "consolidation": [
        "consolidation",
        "consolidations",
        "airspace disease",
        "air space disease",
        "infiltrate",
        "infiltrates",
    ],
    "pulmonary_edema": ["pulmonary edema", "interstitial edema", "edema"],
    "atelectasis": ["atelectasis", "atelectatic", "volume loss"],
    "opacity": ["opacity", "opacities", "opacification"],
    "nodule": ["nodule", "nodules", "nodular density"],
    "granuloma": ["granuloma", "granulomas", "granulomatous disease", "calcified nodule"],
    "emphysema": ["emphysema", "emphysematous", "copd", "chronic obstructive pulmonary disease"],
    "fracture": ["fracture", "fractures"],
    "pneumonia": ["pneumonia", "pneumonias"],
    "hiatal_hernia": ["hiatal hernia", "hiatus hernia"],
    "scoliosis": ["scoliosis", "dextroscoliosis", "levoscoliosis"],
}


def main() -> None:
    """Score every engine that is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indiana", type=Path, metavar="CSV")
    parser.add_argument("--negex", type=Path, metavar="FILE")
    options = parser.parse_args()
    if not (options.indiana or options.negex):
        parser.error("give --indiana, --negex or both")
    if options.indiana:
        _indiana(options.indiana)
    if options.negex:
        _negex(options.negex)


def ours(lexicon: Lexicon, *, is_whole: bool = False) -> Engine:
    """The library's rules, for the findings that are scored or for the whole lexicon."""
    extractor = RuleExtractor(lexicon if is_whole else lexicon.subset([name for name in lexicon.names if name in GOLD]))
    return lambda text: {name: cell.state for name, cell in extractor.extract(text).items()}


def same_terms() -> Lexicon:
    """A lexicon of TERMS only: no statements of normality, no exceptions."""
    return Lexicon([LexiconAttribute(name, terms=tuple(map(compile_term, words))) for name, words in TERMS.items()])


def medspacy() -> Engine:
    """ConText of medspaCy, a target counting as negative or uncertain by its modifiers."""
    import loguru

    loguru.logger.remove()  # its sentence splitter writes every word to the terminal, and that takes most of its time
    import medspacy
    from medspacy.ner import TargetRule

    nlp = medspacy.load(enable=["medspacy_pyrush", "medspacy_target_matcher", "medspacy_context"])
    nlp.get_pipe("medspacy_target_matcher").add(
        [TargetRule(word, name) for name, words in TERMS.items() for word in words]
    )
    return lambda text: _best(
        (e.label_, "negative" if e._.is_negated else "uncertain" if e._.is_uncertain else "positive")
        for e in nlp(text).ents
    )


def negspacy() -> Engine:
    """NegEx of negspacy."""
    import spacy
    from negspacy.negation import Negex  # noqa: F401 (registers the pipe)

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
    ruler.add_patterns([{"label": name, "pattern": word} for name, words in TERMS.items() for word in words])
    nlp.add_pipe("negex", config={"ent_types": list(TERMS)})
    return lambda text: _best((e.label_, "negative" if e._.negex else "positive") for e in nlp(text).ents)


def _best(mentions: Iterable[tuple[str, str]]) -> States:
    rank = {"negative": 0, "uncertain": 1, "positive": 2}
    states: States = {}
    for name, state in mentions:
        if rank[state] >= rank.get(states.get(name) or "", -1):
            states[name] = state
    return states


def _indiana(path: Path) -> None:
    engines: dict[str, Engine] = {
        "ours, shipped lexicon": ours(Lexicon.load("chest_xray")),
        "ours, all attributes": ours(Lexicon.load("chest_xray"), is_whole=True),
        "ours, same terms": ours(same_terms()),
    }
    for name, make in (("medspacy", medspacy), ("negspacy", negspacy)):
        if importlib.util.find_spec(name):
            engines[name] = make()
    rows = _load(path)
    print(f"{len(rows)} reports, {len(GOLD)} findings\n")
    print(f"{'':24}{'headers':>8}{'P':>8}{'R':>8}{'F1':>8}{'macro F1':>10}{'reports/s':>11}")
    detail = ""
    for name, engine in engines.items():
        for headers in (False, True):
            score = evaluate(engine, rows, headers=headers)
            print(f"{name:24}{'yes' if headers else 'no':>8}" + "".join(f"{score[k]:8.3f}" for k in ("P", "R", "F1"))
                  + f"{score['macro']:10.3f}{score['rate']:11.0f}")  # fmt: skip
            detail = detail or score["table"]
    print(f"\nours, shipped lexicon, no headers\n{detail}")


def _load(path: Path) -> list[tuple[list[str], set[str]]]:
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            heads = {term.split("/")[0].strip().lower() for term in row["MeSH"].split(";")}
            parts = [f"{row[key]}" for key in ("findings", "impression")]
            if any(parts) and "no indexing" not in heads:
                rows.append((parts, heads))
    return rows


def evaluate(engine: Engine, rows: list[tuple[list[str], set[str]]], *, headers: bool) -> dict:
    """Precision, recall and F1 of "positive", over all findings and as a mean over them, and reports per second."""
    names = ("FINDINGS: ", "IMPRESSION: ") if headers else ("", "")
    texts = ["\n".join(n + part for n, part in zip(names, parts, strict=True) if part) for parts, _ in rows]
    engine(texts[0])
    start = time.process_time()
    said = [engine(text) for text in texts]
    rate = len(texts) / (time.process_time() - start)
    total, lines, scores = (
        [0, 0, 0],
        [f"{'':20}{'gold':>6}{'F1':>8}{'positive':>10}{'negative':>10}{'uncertain':>11}{'UN':>8}"],
        [],
    )
    for finding, heads in GOLD.items():
        states = [_state(each, finding) for each in said]
        gold = [bool(heads & coded) for _, coded in rows]
        hits = sum(s == "positive" and g for s, g in zip(states, gold, strict=True))
        counts = (hits, states.count("positive"), sum(gold))
        total = [a + b for a, b in zip(total, counts, strict=True)]
        scores.append(_f1(*counts)[2])
        shares = "".join(
            f"{states.count(s) / len(states):{width}.1%}"
            for s, width in (("positive", 10), ("negative", 10), ("uncertain", 11), (None, 8))
        )
        lines.append(f"{finding:20}{sum(gold):6d}{scores[-1]:8.3f}{shares}")
    p, r, f = _f1(*total)
    return {"P": p, "R": r, "F1": f, "macro": sum(scores) / len(scores), "rate": rate, "table": "\n".join(lines)}


def _state(states: States, finding: str) -> str | None:
    if finding != "any_opacity":
        return states.get(finding)
    said = [states.get(name) for name in POOLED]
    return next((state for state in ("positive", "uncertain", "negative") if state in said), None)


def _negex(path: Path) -> None:
    cases = []
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        for fields in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            gold = next((each.strip() for each in fields[3:] if each.strip() in ("Negated", "Affirmed")), None)
            if gold is not None and (at := fields[2].lower().find(fields[1].strip().lower())) >= 0:
                cases.append((fields[2], at, at + len(fields[1].strip()), gold == "Negated"))
    if not cases:
        raise SystemExit(
            f"{path} holds no line with number, phrase, sentence and Negated or Affirmed, separated by tabs"
        )
    start = time.process_time()
    said = [assertion(text, first, last) == "negative" for text, first, last, _ in cases]
    rate = len(cases) / (time.process_time() - start)
    gold = [case[3] for case in cases]
    p, r, f = _f1(sum(s and g for s, g in zip(said, gold, strict=True)), sum(said), sum(gold))
    print(
        f"\nNegEx kit: {len(cases)} phrases, {sum(gold)} negated: P {p:.3f}, R {r:.3f}, F1 {f:.3f}, {rate:.0f} phrases/s"
    )


def _f1(hits: int, said: int, gold: int) -> tuple[float, float, float]:
    p, r = hits / max(said, 1), hits / max(gold, 1)
    return p, r, 2 * p * r / max(p + r, 1e-12)


if __name__ == "__main__":
    main()
