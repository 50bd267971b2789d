# ruff: noqa: RUF001 (typographic characters are what is tested)
"""Kinds of errors on reports that the rules were not written for: six sentences of each kind, and traps beside them.

The last three sentences of each kind were written before the rule and were not looked at while it was written. A trap looks
like the kind and has to stay as it is.
"""

import pytest

from alignedfusion.reports import Lexicon, RuleExtractor

UN = None
EXTRACTORS = {
    name: RuleExtractor(Lexicon.load(name)) for name in ("chest_xray", "kidney_ct", "dermoscopy", "skin_lesion")
}
X, K, D, S = EXTRACTORS

KINDS = {
    "dimensions": [
        (K, "There is an enhancing lesion of 12 x 10 mm.", {"size": "12"}),
        (K, "A 10.3 × 9.3 × 8.8-cm mass arises from the left kidney.", {"size": "103"}),
        (D, "Pigmented lesion, 6 x 4 mm.", {"diameter": "6"}),
        (K, "Right renal mass, 45x38 mm.", {"size": "45"}),
        (S, "The plaque measures 8 mm by 1.5 cm.", {"diameter": "15"}),
        (K, "Solid renal mass measuring 3.1 (AP) x 4.2 (TR) x 2.8 (CC) cm.", {"size": "42"}),
    ],
    "dimensions: traps": [
        (X, "WBC 7.5 x 10^9/L.", {"leukocyte_count": "7.5"}),
        (X, "Leukocytes 4.1 x 109/L.", {"leukocyte_count": "4.1"}),
        (D, "Two lesions, 3 mm on the arm and 7 mm on the back.", {"diameter": "3"}),
    ],
    "non-": [
        (X, "Non-displaced fracture of the sixth rib.", {"fracture": "positive"}),
        (X, "A non-calcified nodule in the right upper lobe.", {"nodule": "positive"}),
        (K, "Non-obstructing stone in the left renal pelvis.", {"kidney_stone": "positive"}),
        (S, "Non-healing ulcer on the nose.", {"ulceration": "positive"}),
        (X, "Non specific interstitial opacities at the bases.", {"opacity": "positive"}),
        (K, "Non-dilated collecting system with non-occlusive renal vein thrombus.", {"vein_thrombus": "positive"}),
    ],
    "non-: traps": [
        (K, "The cyst is non-enhancing.", {"enhancement": "none"}),
        (S, "Non-smoker with a non-tender plaque.", {"smoke": "negative", "hurt": "negative"}),
        (X, "No non-calcified nodule.", {"nodule": "negative"}),
    ],
    "overlap of cue and term": [
        (S, "No history of skin cancer.", {"skin_cancer_history": "negative"}),
        (S, "No known history of skin cancer.", {"skin_cancer_history": "negative"}),
        (S, "Denies any prior skin cancer.", {"skin_cancer_history": "negative"}),
        (S, "She has never had skin cancer.", {"skin_cancer_history": "negative"}),
        (S, "There is no significant past history of melanoma.", {"skin_cancer_history": "negative"}),
        (S, "No personal or family history of melanoma.", {"skin_cancer_history": "negative"}),
    ],
    "overlap: traps": [
        (S, "History of skin cancer.", {"skin_cancer_history": "positive"}),
        (S, "Known history of melanoma.", {"skin_cancer_history": "positive"}),
        (S, "Family history of melanoma.", {"skin_cancer_history": UN}),
    ],
    "typography": [
        (S, "It wasn’t bleeding.", {"bleed": "negative"}),
        (S, "The mole didn’t itch.", {"itch": "negative"}),
        (X, "No\u00a0pleural\u00a0effusion.", {"pleural_effusion": "negative"}),
        (D, "Blue–white veil, ６ mm.", {"blue_whitish_veil": "present", "diameter": "6"}),
        (X, "Large e\ufb00usion; small in\ufb01ltrate.", {"pleural_effusion": "positive", "consolidation": "positive"}),
        (S, "She hasn‘t noticed any pru\u00adritus.", {"itch": "negative"}),
    ],
    "typography: traps": [
        (X, "Effusion – none.", {"pleural_effusion": "negative"}),
        (X, "Effusion — “small”.", {"pleural_effusion": "positive"}),
    ],
    "limits of the examination": [
        (X, "No pneumothorax, although the sensitivity for pneumothorax is limited.", {"pneumothorax": "negative"}),
        (X, "A fracture may not be demonstrated on this study.", {"fracture": UN}),
        (X, "Rotation may obscure small masses.", {"mass": UN}),
        (X, "CT to look for a nodule.", {"nodule": UN}),
        (X, "Supine films are insensitive for pneumothorax.", {"pneumothorax": UN}),
        (X, "Evaluation for subtle fracture is limited by osteopenia.", {"fracture": UN}),
    ],
    "limits: traps": [
        (X, "Examination limited by rotation; there is a left effusion.", {"pleural_effusion": "positive"}),
        (X, "The effusion obscures the left base.", {"pleural_effusion": "positive"}),
        (X, "Limited study. No pneumothorax.", {"pneumothorax": "negative"}),
    ],
    "a normal statement beside a finding": [
        (X, "Heart is enlarged, mediastinum normal.", {"cardiomegaly": "positive"}),
        (X, "Heart size is increased and mediastinal contours are normal.", {"cardiomegaly": "positive"}),
        (K, "Left kidney shows a renal cyst and is otherwise normal.", {"renal_cyst": "positive"}),
        (X, "Lungs show a small nodule but are otherwise clear.", {"nodule": "positive"}),
        (K, "Right kidney with simple cyst, left kidney unremarkable.", {"renal_cyst": "positive"}),
        (X, "The cardiac silhouette is enlarged with normal pulmonary vasculature.", {"cardiomegaly": "positive"}),
    ],
    "normal statement: traps": [
        (X, "The heart, mediastinum and hila are normal.", {"cardiomegaly": "negative"}),
        (X, "Heart size is normal.", {"cardiomegaly": "negative"}),
    ],
    "doubt that goes on": [
        (X, "Opacity possibly due to pneumonia.", {"pneumonia": "uncertain"}),
        (X, "Findings probably secondary to atelectasis.", {"atelectasis": "uncertain"}),
        (X, "Findings likely compatible with pulmonary edema.", {"pulmonary_edema": "uncertain"}),
        (X, "Pneumonia would be a consideration.", {"pneumonia": "uncertain"}),
        (X, "Changes presumably on account of pneumonia.", {"pneumonia": "uncertain"}),
        (X, "Haziness potentially in keeping with pulmonary edema.", {"pulmonary_edema": "uncertain"}),
    ],
    "doubt that goes on: traps": [
        (X, "Possible effusion, with opacity due to pneumonia.", {"pneumonia": "positive"}),
        (X, "Findings consistent with pneumonia.", {"pneumonia": "positive"}),
        (X, "No effusion; opacity compatible with pneumonia.", {"pneumonia": "positive"}),
    ],
    "doubt that was missed": [
        (X, "Left effusion is small, if any.", {"pleural_effusion": "uncertain"}),
        (X, "Atelectasis versus pneumonia.", {"atelectasis": "uncertain", "pneumonia": "uncertain"}),
        (X, "A small effusion is likely present.", {"pleural_effusion": "uncertain"}),
        (X, "Left base: pneumonia?", {"pneumonia": "uncertain"}),
        (X, "A small pneumothorax is difficult to exclude completely.", {"pneumothorax": "uncertain"}),
        (X, "Small, if any, effusion.", {"pleural_effusion": "uncertain"}),
        (X, "Infiltrate vs. atelectasis at the right base.", {"consolidation": "uncertain", "atelectasis": "uncertain"}),
    ],
    "doubt that was missed: traps": [
        (X, "Effusion is present.", {"pleural_effusion": "positive"}),
        (X, "No effusion, if any question remains please call.", {"pleural_effusion": "negative"}),
        (X, "Effusion (+).", {"pleural_effusion": "positive"}),
    ],
    "nearly gone": [
        (X, "Nearly resolved effusion.", {"pleural_effusion": "positive"}),
        (X, "Near complete resolution of the effusion.", {"pleural_effusion": "positive"}),
        (X, "Pneumonia has improved but not resolved.", {"pneumonia": "positive"}),
        (X, "Partial resolution of the effusion.", {"pleural_effusion": "positive"}),
        (X, "The effusion has almost completely cleared.", {"pleural_effusion": "positive"}),
        (X, "Incomplete clearing of the right lower lobe pneumonia.", {"pneumonia": "positive"}),
    ],
    "nearly gone: traps": [
        (X, "Resolved effusion.", {"pleural_effusion": "negative"}),
        (X, "The effusion has completely resolved.", {"pleural_effusion": "negative"}),
        (X, "Interval resolution of the pneumonia.", {"pneumonia": "negative"}),
    ],
    "findings that persist": [
        (X, "No enlargement of the mass.", {"mass": "positive"}),
        (X, "No evidence of worsening pneumonia.", {"pneumonia": "positive"}),
        (X, "No pneumothorax with small effusion.", {"pneumothorax": "negative", "pleural_effusion": "positive"}),
        (X, "There has been no growth of the nodule.", {"nodule": "positive"}),
        (X, "No interval increase in the size of the effusion.", {"pleural_effusion": "positive"}),
        (X, "No pneumothorax with trace residual effusion.", {"pneumothorax": "negative", "pleural_effusion": "positive"}),
    ],
    "findings that are new": [
        (X, "A 4 mm nodule, not seen previously.", {"nodule": "positive"}),
        (X, "Left effusion that was not present on the prior study.", {"pleural_effusion": "positive"}),
        (X, "Opacity not previously seen.", {"opacity": "positive"}),
        (X, "Negative for pneumothorax, positive for effusion.", {"pleural_effusion": "positive"}),
        (X, "The pneumonia has failed to resolve.", {"pneumonia": "positive"}),
        (X, "Nodule is new and was not identified on previous examinations.", {"nodule": "positive"}),
    ],
    "findings that are new: traps": [
        (X, "The previously seen nodule is not seen.", {"nodule": "negative"}),
        (X, "Nodule not identified.", {"nodule": "negative"}),
    ],
    "a size begins a clause": [
        (K, "No renal mass, 2 cm cyst.", {"renal_mass": "negative", "renal_cyst": "positive"}),
        (X, "No effusion, 6 mm nodule.", {"pleural_effusion": "negative", "nodule": "positive"}),
        (K, "No hydronephrosis, 3 mm stone in the left kidney.", {"kidney_stone": "positive"}),
        (X, "Without consolidation, 1.2 cm nodule at the left base.", {"nodule": "positive"}),
        (D, "No veil, 3 mm papule.", {"blue_whitish_veil": "absent", "elevation": "palpable"}),
        (S, "No itching, 5-mm papule.", {"itch": "negative", "elevation": "positive"}),
    ],
    "a size begins a clause: traps": [
        (X, "No nodule, mass, or effusion.", {"nodule": "negative", "mass": "negative", "pleural_effusion": "negative"}),
    ],
    "findings that persist: traps": [
        (X, "No prior pneumonia.", {"pneumonia": "negative"}),
        (X, "No recurrent or residual pneumothorax.", {"pneumothorax": "negative"}),
        (X, "No effusion with upright positioning.", {"pleural_effusion": "negative"}),
    ],
    "plurals inside groups": [
        (S, "Several papules and plaques.", {"elevation": "positive"}),
        (D, "Diameter about 5 millimeters.", {"diameter": "5"}),
        (S, "Crusts and erosions.", {"ulceration": "positive"}),
        (D, "Lesion on both arms.", {"location": "upper limbs"}),
        (S, "Pigmented spots on the ears.", {"region": "ear"}),
        (K, "Multiple parapelvic cysts.", {"renal_cyst": "positive"}),
    ],
    "a gap over a comma": [
        (X, "Aorta is normal, calcified granuloma in the left lung.", {"aortic_calcification": UN}),
        (X, "Lungs are hyperinflated, pleural spaces are clear.", {"pneumonia": UN}),
        (K, "Stone in the bladder, kidneys normal.", {"kidney_stone": "negative"}),
        (X, "The heart is large, the mediastinum is unremarkable.", {"cardiomegaly": "positive"}),
        (K, "Cyst in the liver, right kidney absent.", {"renal_cyst": UN}),
        (X, "Aorta is unremarkable, the spine is tortuous.", {"tortuous_aorta": UN}),
    ],
    "a gap over a comma: traps": [
        (X, "Heart, mediastinum and hila are unremarkable.", {"cardiomegaly": "negative"}),
        (K, "Cyst, left kidney.", {"renal_cyst": "positive"}),
    ],
    "history on one line": [
        (S, "Family history: mother had melanoma. The lesion on the nose is raised.", {"elevation": "positive"}),
        (X, "History: cough. Small effusion on the left.", {"pleural_effusion": "positive"}),
        (X, "INDICATION: Pneumonia in a patient with longstanding chronic illness and\nHIV, rule out effusion.\n"
            "FINDINGS: Clear lungs.", {"pleural_effusion": UN}),
        (S, "FH: negative. Plaque with crust.", {"elevation": "positive", "ulceration": "positive"}),
        (X, "Clinical history: fall. There is a rib fracture.", {"fracture": "positive"}),
        (X, "HISTORY: Chest pain, prior pneumonia. Prior effusion. FINDINGS: No acute disease.", {"pleural_effusion": UN}),
    ],
    "history on one line: traps": [
        (X, "History: pneumonia.\nFindings: Clear lungs.", {"pneumonia": "negative"}),
        (S, "Family history: melanoma.", {"skin_cancer_history": UN}),
    ],
    "a blank before the stop": [
        (X, "No effusion . Pneumonia at the left base .", {"pneumonia": "positive", "pleural_effusion": "negative"}),
        (X, "heart size is normal . there is a fracture", {"fracture": "positive", "cardiomegaly": "negative"}),
        (X, "no pneumothorax . scoliosis .", {"scoliosis": "positive"}),
        (X, "lungs without consolidation . nodule on the right .", {"nodule": "positive"}),
        (K, "no hydronephrosis . 4 mm renal stone .", {"kidney_stone": "positive", "hydronephrosis": "negative"}),
        (X, "no fracture . enlarged heart .", {"cardiomegaly": "positive", "fracture": "negative"}),
    ],
    "a list that splits a term": [
        (K, "No enlarged retroperitoneal, hilar, or pelvic lymph nodes.", {"lymphadenopathy": "negative"}),
        (X, "No pleural or pericardial effusion.", {"pleural_effusion": "negative"}),
        (X, "No enlarged mediastinal, hilar, or axillary lymph nodes.", {"lymphadenopathy": "negative"}),
        (K, "No renal, ureteral, or bladder calculi.", {"kidney_stone": "negative"}),
        (D, "Irregular dots and streaks.", {"streaks": "irregular", "dots_and_globules": "irregular"}),
        (K, "Bilateral renal and hepatic cysts.", {"renal_cyst": "positive"}),
    ],
    "a list that splits a term: traps": [
        (K, "Bladder stone.", {"kidney_stone": UN}),
        (X, "Pericardial effusion.", {"pleural_effusion": UN}),
    ],
    "forms": [
        (X, "PLEURA: Normal", {"pleural_effusion": "negative"}),
        (X, "Fracture: ---", {"fracture": "negative"}),
        (X, "[ ] Fracture\n[x] Effusion", {"fracture": "negative", "pleural_effusion": "positive"}),
        (X, "Age: 65\nPneumothorax (-)\nPneumonia (?)", {"age": "65", "pneumothorax": "negative", "pneumonia": "uncertain"}),
        (X, "Effusion: nil\nLungs: clear\nHeart: normal", {"pleural_effusion": "negative", "pneumonia": "negative",
                                                           "cardiomegaly": "negative"}),
        (X, "( ) Pneumothorax  (x) Scoliosis\nFracture? No", {"pneumothorax": "negative", "scoliosis": "positive",
                                                                "fracture": "negative"}),
    ],
    "forms: traps": [
        (X, "Effusion: small", {"pleural_effusion": "positive"}),
        (X, "Effusion (+)", {"pleural_effusion": "positive"}),
        (X, "Nodule [ref 3] in the right lung.", {"nodule": "positive"}),
    ],
    "another organ": [
        (X, "A breast mass is noted.", {"mass": UN}),
        (X, "Thyroid nodule on the left.", {"nodule": UN}),
        (X, "Mass of the left chest wall.", {"mass": UN}),
        (X, "2 cm nodule in the right adrenal gland.", {"nodule": UN}),
        (K, "Left adrenal nodule, 2 cm.", {"renal_mass": UN}),
        (K, "Simple cyst of the liver.", {"renal_cyst": UN}),
    ],
    "another organ: traps": [
        (X, "Mass in the left upper lobe.", {"mass": "positive"}),
        (K, "Exophytic mass of the right kidney next to the liver.", {"renal_mass": "positive"}),
    ],
    "words of the shipped lexicons": [
        (K, "The left kidney is small and atrophic.", {"atrophy": "positive"}),
        (K, "4 mm stone at the right UVJ.", {"kidney_stone": "positive"}),
        (X, "Reticulonodular opacities bilaterally.", {"opacity": "positive"}),
        (D, "Bluish-white veil over the centre.", {"blue_whitish_veil": "present"}),
        (X, "Fibronodular scarring and haziness at the left apex.", {"opacity": "positive", "nodule": "positive"}),
        (K, "Obstructing calculus in the proximal left ureter.", {"kidney_stone": "positive"}),
        (X, "Collapse of the left lower lobe.", {"atelectasis": "positive"}),
        (S, "A growth on the cheek.", {"grew": UN, "region": "face"}),
        (S, "The growth on her nose has been growing.", {"grew": "positive"}),
    ],
    "numbers": [
        (X, "WBC 12,000.", {"leukocyte_count": "12"}),
        (X, "CRP 150,5 mg/L.", {"crp": "150.5"}),
        (X, "CRP of 0.4 mg/L.", {"crp": "0.4"}),
        (X, "White blood cell count 11,400/µL.", {"leukocyte_count": "11.4"}),
        (X, "WBC was 9.8.", {"leukocyte_count": "9.8"}),
        (X, "CRP 1,250 mg/L.", {"crp": "1250"}),
    ],
}  # fmt: skip
CASES = [(kind, *case) for kind, cases in KINDS.items() for case in cases]


@pytest.mark.parametrize(("kind", "lexicon", "text", "cells"), CASES, ids=lambda value: str(value)[:50])
def test_kind(kind, lexicon, text, cells):
    row = EXTRACTORS[lexicon].extract(text)
    assert {name: row[name].value for name in cells} == cells
    for cell in row.values():
        for span in (cell.evidence.target, cell.evidence.sentence) if cell.evidence else ():
            assert 0 <= span[0] < span[1] <= len(text)
