# ruff: noqa: E501, RUF001 (reports are kept on one line, with their characters)
"""Reports in the styles of the shipped lexicons, with every cell that a reader fills in and no other."""

import pytest

from alignedfusion.reports import RuleExtractor

MAMMOGRAPHY = [
    (
        "The breast tissue is heterogeneously dense, which may obscure small masses. No suspicious masses, calcifications, or architectural distortion. BI-RADS 1: Negative.",
        {
            "breast_density": "c",
            "mass": "negative",
            "calcification": "negative",
            "architectural_distortion": "negative",
            "birads": "1",
        },
    ),
    (
        "There are scattered areas of fibroglandular density. In the upper outer quadrant of the left breast there is an irregular, spiculated, high-density mass measuring 1.8 x 1.5 cm with associated pleomorphic microcalcifications. BI-RADS category 5.",
        {
            "breast_density": "b",
            "quadrant": "upper outer",
            "side": "left",
            "mass": "positive",
            "mass_shape": "irregular",
            "mass_margin": "spiculated",
            "mass_density": "high",
            "size": "18",
            "calcification": "positive",
            "calcification_morphology": "fine pleomorphic",
            "birads": "5",
        },
    ),
    (
        "Breasts are almost entirely fatty. Benign-appearing calcifications bilaterally. Assessment: BI-RADS 2, benign.",
        {
            "breast_density": "a",
            "calcification": "positive",
            "calcification_morphology": "typically benign",
            "birads": "2",
        },
    ),
    (
        "Extremely dense breasts. Grouped amorphous calcifications in the right breast at 10 o'clock, 5 cm from the nipple. ACR BI-RADS 4B.",
        {
            "breast_density": "d",
            "calcification": "positive",
            "calcification_morphology": "amorphous",
            "calcification_distribution": "grouped",
            "side": "right",
            "clock_position": "10",
            "birads": "4b",
        },
    ),
    (
        "Oval circumscribed mass in the right breast, 8 mm, stable. BI-RADS 3.",
        {
            "mass": "positive",
            "mass_shape": "oval",
            "mass_margin": "circumscribed",
            "side": "right",
            "size": "8",
            "birads": "3",
        },
    ),
    (
        "Developing asymmetry in the lower inner left breast. Category 0: Incomplete, additional imaging needed.",
        {
            "asymmetry": "positive",
            "asymmetry_type": "developing",
            "quadrant": "lower inner",
            "side": "left",
            "birads": "0",
        },
    ),
    (
        "No dominant mass, suspicious microcalcifications or skin thickening. Nipple retraction is not seen. Axillary lymph nodes are unremarkable.",
        {
            "mass": "negative",
            "calcification": "negative",
            "skin_thickening": "negative",
            "nipple_retraction": "negative",
            "lymphadenopathy": "negative",
        },
    ),
    (
        "52-year-old with a palpable lump in the left breast. Focal asymmetry at 2 o'clock. Enlarged left axillary lymph nodes.",
        {
            "age": "52",
            "palpable": "positive",
            "side": "left",
            "asymmetry": "positive",
            "asymmetry_type": "focal",
            "clock_position": "2",
            "lymphadenopathy": "positive",
        },
    ),
    (
        "Post-lumpectomy changes with surgical clips. Bilateral silicone implants.",
        {"surgical_change": "positive", "implant": "positive"},
    ),
    (
        "Coarse heterogeneous calcifications in a segmental distribution; architectural distortion is present.",
        {
            "calcification": "positive",
            "calcification_morphology": "coarse heterogeneous",
            "calcification_distribution": "segmental",
            "architectural_distortion": "positive",
        },
    ),
    (
        "Round mass with indistinct margins. Possible distortion in the subareolar region.",
        {
            "mass": "positive",
            "mass_shape": "round",
            "mass_margin": "indistinct",
            "architectural_distortion": "uncertain",
            "quadrant": "central",
        },
    ),
    (
        "Breast composition: ACR type C. Fine linear branching calcifications, linear distribution.",
        {
            "breast_density": "c",
            "calcification": "positive",
            "calcification_morphology": "fine linear",
            "calcification_distribution": "linear",
        },
    ),
    (
        "No mammographic evidence of malignancy. BI-RADS: 2.",
        {
            "mass": "negative",
            "calcification": "negative",
            "architectural_distortion": "negative",
            "asymmetry": "negative",
            "birads": "2",
        },
    ),
    (
        "Skin retraction and thickening overlying the mass. The mass has a partially obscured margin.",
        {"skin_retraction": "positive", "skin_thickening": "positive", "mass": "positive", "mass_margin": "obscured"},
    ),
]
CHEST_CT = [
    (
        "14 mm part-solid nodule in the right upper lobe with surrounding ground-glass halo. Mild bronchial wall thickening.",
        {
            "nodule": "positive",
            "size": "14",
            "lobe": "right upper",
            "opacity": "positive",
            "ground_glass": "positive",
            "bronchial_wall_thickening": "positive",
        },
    ),
    (
        "No filling defect to suggest pulmonary embolism. Main pulmonary artery is enlarged. Coronary artery calcifications.",
        {
            "pulmonary_embolism": "negative",
            "enlarged_pulmonary_artery": "positive",
            "coronary_calcification": "positive",
        },
    ),
    (
        "Thick-walled cavity in the left lower lobe. Tree-in-bud opacities. Mucus plugging.",
        {
            "cavitation": "positive",
            "lobe": "left lower",
            "tree_in_bud": "positive",
            "opacity": "positive",
            "mucus_plugging": "positive",
        },
    ),
    (
        "Traction bronchiectasis and subpleural honeycombing in both lower lobes. Mosaic attenuation.",
        {"bronchiectasis": "positive", "honeycombing": "positive", "fibrosis": "positive", "air_trapping": "positive"},
    ),
    (
        "Trace pericardial effusion. Pleural plaques. Left adrenal adenoma. Hypodense liver lesion. Thyroid nodule.",
        {
            "pericardial_effusion": "positive",
            "pleural_thickening": "positive",
            "adrenal_lesion": "positive",
            "liver_lesion": "positive",
            "thyroid_nodule": "positive",
        },
    ),
    (
        "Ascending aorta is aneurysmal, 4.6 cm. No lytic or sclerotic osseous lesion.",
        {"aortic_aneurysm": "positive", "osseous_lesion": "negative"},
    ),
    (
        "Smooth interlobular septal thickening with bilateral pleural effusions.",
        {"septal_thickening": "positive", "interstitial_markings": "positive", "pleural_effusion": "positive"},
    ),
]
KIDNEY_CT = [
    (
        "CT abdomen and pelvis without and with contrast. There is a 4.2 x 3.8 cm heterogeneously enhancing solid mass in the upper pole of the left kidney, partially exophytic. No renal vein or IVC thrombus. No retroperitoneal lymphadenopathy.",
        {
            "renal_mass": "positive",
            "size": "42",
            "enhancement": "heterogeneous",
            "side": "left",
            "pole": "upper",
            "growth": "exophytic",
            "vein_thrombus": "negative",
            "lymphadenopathy": "negative",
        },
    ),
    (
        "The right kidney demonstrates mild hydroureteronephrosis secondary to a 5 mm obstructing calculus at the right ureterovesical junction.",
        {"hydronephrosis": "positive", "kidney_stone": "positive", "side": "right"},
    ),
    (
        "Bosniak 2F cyst in the interpolar region of the right kidney.",
        {"renal_cyst": "positive", "bosniak": "IIF", "side": "right", "pole": "interpolar"},
    ),
    (
        "Large right renal mass with central necrosis invading the renal vein with tumor thrombus extending into the infrahepatic IVC.",
        {"renal_mass": "positive", "side": "right", "necrosis": "positive", "vein_thrombus": "positive"},
    ),
    (
        "No nephrolithiasis or hydronephrosis. Perinephric fat is clear.",
        {"kidney_stone": "negative", "hydronephrosis": "negative", "perinephric_stranding": "negative"},
    ),
    ("The left kidney is atrophic with marked cortical thinning.", {"atrophy": "positive", "side": "left"}),
    ("Cortical scarring and volume loss of the right kidney.", {"atrophy": "positive", "side": "right"}),
    (
        "Fat-containing lesion in the left upper pole, consistent with angiomyolipoma.",
        {"fat": "positive", "side": "left", "pole": "upper", "renal_mass": "positive"},
    ),
    (
        "A 1.8 cm exophytic lesion arises from the lower pole of the left kidney; it does not enhance and is compatible with a hemorrhagic cyst.",
        {
            "renal_cyst": "positive",
            "growth": "exophytic",
            "pole": "lower",
            "side": "left",
            "size": "18",
            "enhancement": "none",
            "renal_mass": "positive",
        },
    ),
    (
        "63-year-old man with gross hematuria and right flank pain. Creatinine 1.4 mg/dL.",
        {"age": "63", "sex": "male", "hematuria": "positive", "flank_pain": "positive", "creatinine": "1.4"},
    ),
    (
        "Staghorn calculus filling the right renal pelvis. Pelvicaliectasis.",
        {"kidney_stone": "positive", "side": "right", "hydronephrosis": "positive"},
    ),
    (
        "No suspicious renal lesion. A subcentimeter hypodensity in the left kidney is too small to characterize, likely a cyst.",
        {"renal_mass": "negative", "renal_cyst": "uncertain", "side": "left"},
    ),
    (
        "Solid enhancing mass with punctate calcification, 7 cm, highly suspicious for renal cell carcinoma. Pulmonary nodules concerning for metastases.",
        {"renal_mass": "positive", "calcification": "positive", "size": "70", "metastasis": "uncertain"},
    ),
    (
        "There is no evidence of macroscopic fat. Homogeneous enhancement is seen.",
        {"fat": "negative", "enhancement": "homogeneous"},
    ),
    (
        "Non-obstructing 3 mm calculus in the lower pole calyx of the left kidney; the right kidney is unremarkable.",
        {"kidney_stone": "positive", "pole": "lower", "side": "left"},
    ),
    (
        "The mass abuts but does not invade the renal vein. The inferior vena cava is patent.",
        {"renal_mass": "positive", "vein_thrombus": "negative"},
    ),
    (
        "Left adrenal nodule, 1.5 cm. Liver cyst. Gallstones. Kidneys are unremarkable.",
        {
            "renal_mass": "negative",
            "renal_cyst": "negative",
            "kidney_stone": "negative",
            "hydronephrosis": "negative",
            "atrophy": "negative",
        },
    ),
    (
        "No pathologically enlarged lymph nodes. No distant metastasis.",
        {"lymphadenopathy": "negative", "metastasis": "negative"},
    ),
    (
        "The collecting systems are not dilated. No calculi in either kidney or ureter.",
        {"hydronephrosis": "negative", "kidney_stone": "negative"},
    ),
    (
        "Mild fullness of the right collecting system without frank hydronephrosis.",
        {"hydronephrosis": "negative", "side": "right"},
    ),
    (
        "Endophytic mass in the mid pole of the right kidney with avid enhancement, 3.0 cm in greatest dimension.",
        {"renal_mass": "positive", "growth": "endophytic", "pole": "interpolar", "side": "right", "size": "30"},
    ),
    (
        "Patient denies hematuria. Left loin pain for 2 days. Serum creatinine is 0.9.",
        {"hematuria": "negative", "flank_pain": "positive", "creatinine": "0.9"},
    ),
    (
        "Small shrunken kidneys bilaterally in keeping with end-stage renal disease.",
        {"atrophy": "positive", "side": "both"},
    ),
    ("Calcifications of the abdominal aorta. No renal calculi.", {"kidney_stone": "negative"}),
    (
        "A 2 mm stone is seen in the distal right ureter with mild proximal hydroureter.",
        {"kidney_stone": "positive", "hydronephrosis": "positive", "side": "right"},
    ),
    (
        "Ill-defined perirenal fat infiltration around the mass suggests invasion.",
        {"perinephric_stranding": "positive", "renal_mass": "positive"},
    ),
    (
        "Indication: Rule out renal mass. Findings: Both kidneys enhance symmetrically. No mass.",
        {"renal_mass": "negative", "side": "both"},
    ),
    (
        "The tumor shows heterogenous contrast enhancement with areas of necrosis. No calcification.",
        {"renal_mass": "positive", "enhancement": "heterogeneous", "necrosis": "positive", "calcification": "negative"},
    ),
    ("Renal veins and IVC are patent without thrombus.", {"vein_thrombus": "negative"}),
    ("History of kidney stones. No stones today.", {"kidney_stone": "negative"}),
    (
        "55 yo female, microscopic haematuria. Normal kidneys.",
        {
            "age": "55",
            "sex": "female",
            "hematuria": "positive",
            "renal_mass": "negative",
            "renal_cyst": "negative",
            "kidney_stone": "negative",
            "hydronephrosis": "negative",
            "atrophy": "negative",
        },
    ),
    (
        "A hypodense nonenhancing lesion in the left kidney, 12 mm, most consistent with a simple cyst.",
        {"renal_cyst": "positive", "enhancement": "none", "side": "left", "size": "12", "renal_mass": "positive"},
    ),
    ("No perinephric fluid or stranding.", {"perinephric_stranding": "negative"}),
    (
        "Stable 1.1 cm right renal angiomyolipoma containing gross fat.",
        {"fat": "positive", "side": "right", "size": "11", "renal_mass": "positive"},
    ),
    (
        "The lesion in the left kidney has grown from 2.1 cm to 2.9 cm.",
        {"renal_mass": "positive", "side": "left", "size": "21"},
    ),
    (
        "No renal calculus is identified, although tiny stones may be obscured by excreted contrast.",
        {"kidney_stone": "negative"},
    ),
    (
        "Kidneys/ureters: Symmetric nephrograms. There is a heterogeneous, partially necrotic mass centered in the interpolar left kidney which measures 6.8 x 5.9 x 6.1 cm. It is predominantly endophytic. The left renal vein is expanded by enhancing thrombus. Two enlarged left para-aortic nodes.",
        {
            "necrosis": "positive",
            "renal_mass": "positive",
            "pole": "interpolar",
            "side": "left",
            "size": "68",
            "growth": "endophytic",
            "vein_thrombus": "positive",
            "lymphadenopathy": "positive",
        },
    ),
    (
        "RIGHT KIDNEY: No stones, no hydronephrosis. LEFT KIDNEY: 7 mm stone in the renal pelvis with moderate hydronephrosis and perinephric fat stranding.",
        {"kidney_stone": "positive", "hydronephrosis": "positive", "perinephric_stranding": "positive", "side": "left"},
    ),
    (
        "Incidental 9 mm hyperattenuating lesion at the posterior aspect of the right lower pole, probably a proteinaceous cyst.",
        {"renal_mass": "positive", "side": "right", "pole": "lower", "size": "9", "renal_cyst": "uncertain"},
    ),
    (
        "There is no CT evidence of urolithiasis. No obstructive uropathy.",
        {"kidney_stone": "negative", "hydronephrosis": "negative"},
    ),
    (
        "The kidneys are normal in size and contour. No solid renal mass is appreciated.",
        {"atrophy": "negative", "renal_mass": "negative"},
    ),
    (
        "Solid lesion of the left kidney, enhancing heterogeneously after contrast, without fat or calcification.",
        {
            "renal_mass": "positive",
            "side": "left",
            "enhancement": "heterogeneous",
            "fat": "negative",
            "calcification": "negative",
        },
    ),
    ("No evidence of tumour thrombus within the renal vein or inferior vena cava.", {"vein_thrombus": "negative"}),
    (
        "Right-sided nephrolithiasis with a 4-mm nonobstructing lower pole calculus.",
        {"kidney_stone": "positive", "side": "right", "pole": "lower"},
    ),
    (
        "Both kidneys contain several small cortical cysts. None show septation or enhancement.",
        {"renal_cyst": "positive", "side": "both", "enhancement": "none"},
    ),
    ("Minimally complex cyst with thin septations, category II according to Bosniak.", {"renal_cyst": "positive"}),
    (
        "Bosniak classification: IV. Nodular enhancing component is identified.",
        {"bosniak": "IV", "renal_cyst": "positive"},
    ),
    (
        "The mass is well circumscribed and demonstrates homogeneous low-level enhancement, suggesting papillary RCC.",
        {"renal_mass": "positive", "enhancement": "homogeneous"},
    ),
    (
        "Bilateral renal cortical thinning. Several bilateral punctate non-obstructing calculi.",
        {"atrophy": "positive", "kidney_stone": "positive", "side": "both"},
    ),
    (
        "Mild left hydroureter down to a tiny UVJ stone. Some periureteral stranding.",
        {"hydronephrosis": "positive", "kidney_stone": "positive", "side": "left", "perinephric_stranding": "positive"},
    ),
    ("Hydronephrosis has resolved following stent placement.", {"hydronephrosis": "negative"}),
    (
        "There may be a small stone in the left kidney, but evaluation is limited by motion.",
        {"kidney_stone": "uncertain", "side": "left"},
    ),
    ("Macroscopic fat is seen within the lesion, diagnostic of AML.", {"fat": "positive", "renal_mass": "positive"}),
    (
        "Retroperitoneum: no adenopathy. Bones: no lytic or blastic lesion to suggest metastasis.",
        {"lymphadenopathy": "negative", "metastasis": "negative"},
    ),
    ("Pulmonary metastases and a left adrenal metastasis.", {"metastasis": "positive"}),
    (
        "48-year-old woman evaluated for haematuria. Cr 0.8 mg/dL. Findings: unremarkable kidneys.",
        {
            "age": "48",
            "sex": "female",
            "hematuria": "positive",
            "creatinine": "0.8",
            "renal_mass": "negative",
            "renal_cyst": "negative",
            "kidney_stone": "negative",
            "hydronephrosis": "negative",
            "atrophy": "negative",
        },
    ),
    (
        "Exophytic, avidly enhancing nodule from the superior pole of the right kidney, 2.2cm.",
        {"growth": "exophytic", "side": "right", "pole": "upper", "size": "22", "renal_mass": "positive"},
    ),
    (
        "Chronic left ureteropelvic junction obstruction with severe hydronephrosis and parenchymal atrophy.",
        {"hydronephrosis": "positive", "atrophy": "positive", "side": "left"},
    ),
    ("No renal, ureteral or bladder stone. Diverticulosis.", {"kidney_stone": "negative"}),
    (
        "The renal mass does not extend beyond Gerota's fascia; perinephric fat is preserved.",
        {"renal_mass": "positive", "perinephric_stranding": "negative"},
    ),
    (
        "Nonenhancing simple cysts bilaterally, largest 4 cm on the right.",
        {"renal_cyst": "positive", "enhancement": "none", "size": "40"},
    ),
    ("Enhancing tumor thrombus extends into the right atrium via the IVC.", {"vein_thrombus": "positive"}),
    ("No change in the 14 mm left renal lesion since 2019.", {"renal_mass": "positive", "side": "left", "size": "14"}),
    (
        "Flank pain, r/o stone. CT: No urinary calculi. Appendix is normal.",
        {"flank_pain": "positive", "kidney_stone": "negative"},
    ),
    (
        "Central calcifications in the mass; areas of haemorrhage.",
        {"calcification": "positive", "renal_mass": "positive"},
    ),
    (
        "EXAM: CT ABDOMEN/PELVIS WITH CONTRAST\nHISTORY: 66-year-old male with left flank pain and hematuria.\nFINDINGS:\nLiver: Normal. Gallbladder: Cholelithiasis. Spleen: Normal. Adrenals: Normal.\nKidneys: There is a 5.4 x 4.9 cm enhancing mass in the lower pole of the left kidney with heterogeneous enhancement. No extension into the renal vein. The right kidney is normal.\nLymph nodes: No retroperitoneal or pelvic lymphadenopathy.\nIMPRESSION: Left lower pole renal mass, suspicious for renal cell carcinoma. No metastatic disease.",
        {
            "age": "66",
            "sex": "male",
            "flank_pain": "positive",
            "hematuria": "positive",
            "renal_mass": "positive",
            "size": "54",
            "pole": "lower",
            "side": "left",
            "enhancement": "heterogeneous",
            "vein_thrombus": "negative",
            "lymphadenopathy": "negative",
            "metastasis": "negative",
        },
    ),
    (
        "Kidneys are unremarkable aside from a subcentimeter cyst on the left.",
        {
            "renal_cyst": "positive",
            "atrophy": "negative",
            "hydronephrosis": "negative",
            "kidney_stone": "negative",
            "renal_mass": "negative",
        },
    ),
    (
        "No suspicious enhancing renal lesions. Tiny bilateral hypodensities, statistically cysts.",
        {"renal_mass": "negative", "renal_cyst": "positive"},
    ),
    (
        "There is a well-defined exophytic lesion measuring 32 mm × 28 mm in the right kidney upper pole showing no significant enhancement (Bosniak I).",
        {
            "growth": "exophytic",
            "size": "32",
            "side": "right",
            "pole": "upper",
            "enhancement": "none",
            "bosniak": "I",
            "renal_mass": "positive",
            "renal_cyst": "positive",
        },
    ),
    ("Ureters are normal in course and caliber. No hydroureteronephrosis.", {"hydronephrosis": "negative"}),
    (
        "Moderate right hydronephrosis due to a 9-mm proximal ureteral stone. Left kidney is normal.",
        {"hydronephrosis": "positive", "kidney_stone": "positive", "side": "right"},
    ),
    (
        "The left kidney measures 7.8 cm with diffuse cortical thinning; right kidney measures 11.2 cm.",
        {"side": "left", "atrophy": "positive"},
    ),
    (
        "Tumor involves the perinephric fat but not the renal sinus. Renal vein: not involved.",
        {"renal_mass": "positive", "perinephric_stranding": "positive", "vein_thrombus": "negative"},
    ),
    ("Filling defect in the IVC consistent with tumor thrombus.", {"vein_thrombus": "positive"}),
    (
        "Questionable 2 mm calculus in the left upper pole.",
        {"kidney_stone": "uncertain", "side": "left", "pole": "upper"},
    ),
    (
        "No nephroureterolithiasis. Mild bilateral perinephric stranding is likely chronic.",
        {"kidney_stone": "negative", "perinephric_stranding": "positive", "side": "both"},
    ),
    (
        "Hyperdense cyst, right midpole, 15 mm, without appreciable enhancement.",
        {"renal_cyst": "positive", "pole": "interpolar", "size": "15", "enhancement": "none"},
    ),
    (
        "Lobulated mass with curvilinear calcification and no fat.",
        {"renal_mass": "positive", "calcification": "positive", "fat": "negative"},
    ),
    ("Renal cortical scarring, right greater than left.", {"atrophy": "positive"}),
    (
        "Stable appearance of known polycystic kidney disease. No obstructing calculus.",
        {"renal_cyst": "positive", "kidney_stone": "negative"},
    ),
    (
        "CT urogram to evaluate for stone or mass. No calculi. No masses.",
        {"kidney_stone": "negative", "renal_mass": "negative"},
    ),
    (
        "Denies flank pain; microscopic hematuria on urinalysis. eGFR 65, creatinine: 1.1.",
        {"flank_pain": "negative", "hematuria": "positive", "creatinine": "1.1"},
    ),
    (
        "The cystic lesion has irregular enhancing septa (Bosniak category 3).",
        {"renal_cyst": "positive", "bosniak": "III"},
    ),
    ("Splenic cyst. Hepatic hemangioma. Pancreas normal. Bladder calculus.", {}),
    (
        "Left kidney: 3.6 x 3.3 x 3.1 cm heterogeneously enhancing exophytic mass off the lower pole. No invasion of the renal sinus. Left renal vein patent.",
        {
            "renal_mass": "positive",
            "size": "36",
            "enhancement": "heterogeneous",
            "growth": "exophytic",
            "pole": "lower",
            "side": "left",
            "vein_thrombus": "negative",
        },
    ),
    (
        "No hydronephrosis. No renal or ureteral calculi. No perinephric fluid collections.",
        {"hydronephrosis": "negative", "kidney_stone": "negative", "perinephric_stranding": "negative"},
    ),
    (
        "Simple appearing cyst in the right kidney measures 5.1 cm. Additional smaller cysts bilaterally.",
        {"renal_cyst": "positive", "side": "right", "size": "51"},
    ),
    (
        "1. Obstructing 6 mm stone in the mid left ureter with mild hydronephrosis. 2. Additional nonobstructing stones in both kidneys.",
        {"kidney_stone": "positive", "hydronephrosis": "positive", "side": "left"},
    ),
    (
        "Enhancing solid right renal lesion, 19 mm, homogeneous, in the interpolar cortex; RCC or oncocytoma should be considered.",
        {"renal_mass": "positive", "side": "right", "size": "19", "pole": "interpolar"},
    ),
    (
        "No evidence of renal calculi or obstructive uropathy. A cyst is present in the upper pole of the right kidney.",
        {
            "kidney_stone": "negative",
            "hydronephrosis": "negative",
            "renal_cyst": "positive",
            "pole": "upper",
            "side": "right",
        },
    ),
    ("The kidneys are small with thinned parenchyma.", {"atrophy": "positive"}),
    (
        "Bilateral nephrolithiasis, largest stone on the left measures 11 mm. No ureteral stones.",
        {"kidney_stone": "positive", "side": "both"},
    ),
    (
        "Renal vein thrombosis on the left. Enlarged retroperitoneal nodes.",
        {"vein_thrombus": "positive", "lymphadenopathy": "positive"},
    ),
    (
        "61-year-old female. Gross hematuria. Cystic mass with mural nodule, Bosniak 4, right lower pole, 4.5 cm.",
        {
            "age": "61",
            "sex": "female",
            "hematuria": "positive",
            "renal_cyst": "positive",
            "bosniak": "IV",
            "side": "right",
            "pole": "lower",
            "size": "45",
            "renal_mass": "positive",
        },
    ),
    (
        "No definite enhancement within the lesion. Punctate calcification along its wall.",
        {"enhancement": "none", "calcification": "positive"},
    ),
    (
        "The perinephric fat is infiltrated. There is no adenopathy.",
        {"perinephric_stranding": "positive", "lymphadenopathy": "negative"},
    ),
    (
        "Both kidneys are normal. No stone, mass or hydronephrosis.",
        {
            "kidney_stone": "negative",
            "renal_mass": "negative",
            "hydronephrosis": "negative",
            "renal_cyst": "negative",
            "atrophy": "negative",
        },
    ),
    (
        "Suspicious for urothelial carcinoma in the left renal pelvis; hydronephrosis is mild.",
        {"renal_mass": "uncertain", "side": "left", "hydronephrosis": "positive"},
    ),
    ("No fat-containing lesion. No necrosis.", {"fat": "negative", "necrosis": "negative"}),
    (
        "The right kidney demonstrates a 2.6 cm partially exophytic hypoenhancing mass arising from the anterior lower pole.",
        {"side": "right", "size": "26", "growth": "exophytic", "renal_mass": "positive", "pole": "lower"},
    ),
    (
        "There are no radiopaque calculi. The ureters are not dilated.",
        {"kidney_stone": "negative", "hydronephrosis": "negative"},
    ),
    (
        "Left hydronephrosis, with transition at the ureteropelvic junction. The right collecting system is normal.",
        {"hydronephrosis": "positive", "side": "left"},
    ),
    (
        "Lymph nodes: No lymphadenopathy. Kidneys: Bilateral simple cysts. No suspicious mass. Vasculature: Renal veins are patent.",
        {
            "lymphadenopathy": "negative",
            "renal_cyst": "positive",
            "renal_mass": "negative",
            "vein_thrombus": "negative",
        },
    ),
    (
        "Heterogeneous mass replacing the left kidney, 11 cm, with necrotic center and coarse calcifications; tumor thrombus in the left renal vein.",
        {
            "renal_mass": "positive",
            "side": "left",
            "size": "110",
            "necrosis": "positive",
            "calcification": "positive",
            "vein_thrombus": "positive",
        },
    ),
    (
        "Atrophic right kidney with compensatory hypertrophy of the left kidney.",
        {"atrophy": "positive", "side": "right"},
    ),
    ("No macroscopic fat or calcification within the lesion.", {"fat": "negative", "calcification": "negative"}),
    (
        "Punctate nonobstructing stone in the interpolar right kidney. No hydronephrosis or perinephric stranding.",
        {
            "kidney_stone": "positive",
            "pole": "interpolar",
            "side": "right",
            "hydronephrosis": "negative",
            "perinephric_stranding": "negative",
        },
    ),
    (
        "Indeterminate 1.3 cm lesion in the left kidney, possibly a hyperdense cyst.",
        {"renal_mass": "positive", "size": "13", "side": "left", "renal_cyst": "uncertain"},
    ),
    (
        "70 year old woman, weight loss, no hematuria, creatinine 1.8 mg/dl. Large left renal tumour, likely RCC.",
        {
            "age": "70",
            "sex": "female",
            "hematuria": "negative",
            "creatinine": "1.8",
            "renal_mass": "positive",
            "side": "left",
        },
    ),
]
DERMOSCOPY = [
    (
        "Dermoscopy shows an atypical pigment network with irregular streaks at the periphery and a blue-white veil.",
        {"pigment_network": "atypical", "streaks": "irregular", "blue_whitish_veil": "present"},
    ),
    (
        "Regular reticular network, no dots or globules, no regression.",
        {"pigment_network": "typical", "dots_and_globules": "absent", "regression_structures": "absent"},
    ),
    (
        "Irregularly distributed brown dots and globules. No blue-whitish veil. Absent streaks.",
        {"dots_and_globules": "irregular", "blue_whitish_veil": "absent", "streaks": "absent"},
    ),
    (
        "Arborizing telangiectasias and ulceration. No pigment network.",
        {"vascular_structures": "arborizing", "pigment_network": "absent"},
    ),
    ("Homogeneous blue pigmentation, no other structures.", {"pigmentation": "diffuse regular"}),
    ("Scar-like depigmentation and peppering are visible centrally.", {"regression_structures": "combinations"}),
    ("Polymorphous vessels with dotted and linear irregular components.", {"vascular_structures": "linear irregular"}),
    ("Hairpin vessels at the periphery on a white halo; milia-like cysts.", {"vascular_structures": "hairpin"}),
    (
        "Comma vessels throughout a dome-shaped papule on the cheek.",
        {"vascular_structures": "comma", "elevation": "nodular", "location": "head neck"},
    ),
    ("The pigment network is prominent and irregular, fading abruptly at the border.", {"pigment_network": "atypical"}),
    ("Eccentric blotch; irregular blotches.", {"pigmentation": "localized irregular"}),
    ("Symmetric dots and globules, evenly distributed.", {"dots_and_globules": "regular"}),
    ("Pseudopods and radial streaming distributed asymmetrically.", {"streaks": "irregular"}),
    (
        "Flat pigmented macule on the left upper back, 7 x 5 mm, in a 45-year-old woman.",
        {"elevation": "flat", "location": "back", "diameter": "7", "age": "45", "sex": "female"},
    ),
    (
        "Slightly raised plaque on the right calf, 1.2 cm in diameter.",
        {"elevation": "palpable", "location": "lower limbs", "diameter": "12"},
    ),
    (
        "Nodular lesion of the scalp, male, 71 years old.",
        {"elevation": "nodular", "location": "head neck", "sex": "male", "age": "71"},
    ),
    ("No vessels are seen. Typical network.", {"vascular_structures": "absent", "pigment_network": "typical"}),
    (
        "Bluish-white structureless area covering the centre. White scar-like areas.",
        {"blue_whitish_veil": "present", "regression_structures": "white areas"},
    ),
    ("Grey-blue granules (peppering) consistent with regression.", {"regression_structures": "blue areas"}),
    (
        "Network absent. Globules regular. Streaks absent. Blue-white veil absent. Vessels absent. Regression absent.",
        {
            "pigment_network": "absent",
            "dots_and_globules": "regular",
            "streaks": "absent",
            "blue_whitish_veil": "absent",
            "vascular_structures": "absent",
            "regression_structures": "absent",
        },
    ),
    (
        "Blue-whitish veil: absent\nStreaks: irregular\nPigment network: atypical\nDots/globules: irregular\nVascular structures: dotted",
        {
            "blue_whitish_veil": "absent",
            "streaks": "irregular",
            "pigment_network": "atypical",
            "dots_and_globules": "irregular",
            "vascular_structures": "dotted",
        },
    ),
    ("Glomerular vessels in clusters on the shin.", {"vascular_structures": "dotted", "location": "lower limbs"}),
    ("There is a delicate, regular pigment network thinning toward the edges.", {"pigment_network": "typical"}),
    (
        "Diffuse irregular pigmentation with a negative pigment network.",
        {"pigmentation": "diffuse irregular", "pigment_network": "atypical"},
    ),
    ("Lesion on the sole of the foot, parallel ridge pattern. Size 9mm.", {"location": "acral", "diameter": "9"}),
    ("Subungual pigmentation of the thumb.", {"location": "acral"}),
    (
        "Wreath-like vessels around yellowish lobules on the forehead.",
        {"vascular_structures": "wreath", "location": "head neck"},
    ),
    ("A possible blue-whitish veil is present.", {"blue_whitish_veil": "uncertain"}),
    ("Regression structures are seen, both white and blue areas.", {"regression_structures": "combinations"}),
    ("No atypical network, no irregular streaks, no blue-white veil.", {"blue_whitish_veil": "absent"}),
    (
        "Peripheral globules in a symmetrical arrangement. Patient is a 23 year old female.",
        {"dots_and_globules": "regular", "age": "23", "sex": "female"},
    ),
    ("Papules on both forearms; macules on the trunk.", {"elevation": "palpable", "location": "upper limbs"}),
    (
        "The lesion is palpable, located over the abdomen, and lacks a pigment network.",
        {"elevation": "palpable", "location": "abdomen", "pigment_network": "absent"},
    ),
    ("Vessels within regression areas.", {"vascular_structures": "within regression"}),
    (
        "Irregular black dots off-centre. Streaks are focally present.",
        {"dots_and_globules": "irregular", "streaks": "irregular"},
    ),
    ("The lesion lacks globules and streaks.", {"dots_and_globules": "absent", "streaks": "absent"}),
    (
        "Multiple irregular brown globules; irregularly shaped blotch.",
        {"dots_and_globules": "irregular", "pigmentation": "localized irregular"},
    ),
    (
        "Asymmetric melanocytic lesion with a broadened, irregular pigment network, eccentric black blotch and peripheral streaks.",
        {"pigment_network": "atypical", "pigmentation": "localized irregular"},
    ),
    (
        "Dermatoscopy: typical reticular pattern, uniform brown color, no atypical features.",
        {"pigment_network": "typical"},
    ),
    (
        "No pigment network was observed. Multiple milia-like cysts and comedo-like openings; hairpin vessels.",
        {"pigment_network": "absent", "vascular_structures": "hairpin"},
    ),
    (
        "Central blue-white veil and irregularly sized globules at the periphery.",
        {"blue_whitish_veil": "present", "dots_and_globules": "irregular"},
    ),
    ("White scar-like areas with peppering suggest regression.", {"regression_structures": "combinations"}),
    (
        "Fine arborising vessels over a pearly nodule on the nose of an 80-year-old man.",
        {
            "vascular_structures": "arborizing",
            "elevation": "nodular",
            "location": "head neck",
            "age": "80",
            "sex": "male",
        },
    ),
    (
        "Globular pattern: brown globules of similar size and shape, symmetrically arranged.",
        {"dots_and_globules": "regular"},
    ),
    ("Starburst pattern with symmetrical streaks around the entire circumference.", {"streaks": "regular"}),
    (
        "Regression structures are not seen. A blue veil is absent.",
        {"regression_structures": "absent", "blue_whitish_veil": "absent"},
    ),
    ("There are neither streaks nor globules.", {"streaks": "absent", "dots_and_globules": "absent"}),
    (
        "Polymorphic vascular pattern, milky-red areas, blue-black pigmentation.",
        {"vascular_structures": "linear irregular"},
    ),
    (
        "Dotted vessels, regularly distributed, over a light red background on the lower leg.",
        {"vascular_structures": "dotted", "location": "lower limbs"},
    ),
    (
        "Pigment network: typical. Dots and globules: regular. Streaks: absent. Regression: none. Blue veil: no. Vessels: none.",
        {
            "pigment_network": "typical",
            "dots_and_globules": "regular",
            "streaks": "absent",
            "regression_structures": "absent",
            "blue_whitish_veil": "absent",
            "vascular_structures": "absent",
        },
    ),
    (
        "Slightly elevated brown lesion, 5x4 mm, on the left shoulder.",
        {"elevation": "palpable", "diameter": "5", "location": "upper limbs"},
    ),
    (
        "Lesion of the dorsum of the right foot, flat, 0.6 cm.",
        {"location": "acral", "elevation": "flat", "diameter": "6"},
    ),
    (
        "The network appears irregular with thickened lines. No evidence of blue-whitish veil.",
        {"pigment_network": "atypical", "blue_whitish_veil": "absent"},
    ),
    ("Focal radial streaming at the border.", {"streaks": "irregular"}),
    ("A homogeneous, steel-blue pigmentation is seen throughout.", {"pigmentation": "diffuse regular"}),
    ("Unremarkable network; few regular dots centrally.", {"dots_and_globules": "regular"}),
    ("Inverse network and shiny white streaks.", {"pigment_network": "atypical"}),
    ("Black dots, irregular in size and distribution.", {"dots_and_globules": "irregular"}),
    (
        "34 yo F, mole on abdomen. Dermoscopy: atypical network, no regression.",
        {
            "age": "34",
            "sex": "female",
            "location": "abdomen",
            "pigment_network": "atypical",
            "regression_structures": "absent",
        },
    ),
    (
        "Linear irregular vessels and a suspicion of blue-whitish veil.",
        {"vascular_structures": "linear irregular", "blue_whitish_veil": "uncertain"},
    ),
    (
        "Comma-shaped vessels in a skin-coloured, dome-shaped papule.",
        {"vascular_structures": "comma", "elevation": "nodular"},
    ),
    ("Crown vessels surrounding a central umbilication.", {"vascular_structures": "wreath"}),
    (
        "Pedunculated lesion of the axilla without specific vascular structures.",
        {"elevation": "nodular", "location": "upper limbs", "vascular_structures": "absent"},
    ),
    ("Pseudopods are present in an irregular distribution.", {"streaks": "irregular"}),
    ("Regular globules; irregular streaks.", {"dots_and_globules": "regular", "streaks": "irregular"}),
    ("The blotch is located off-center and irregular.", {"pigmentation": "localized irregular"}),
    (
        "Macular lesion on the ankle measuring 11 by 8 millimeters.",
        {"elevation": "flat", "location": "lower limbs", "diameter": "11"},
    ),
    (
        "The lesion displays a typical pigment network at the periphery and a central homogeneous area. Dots and globules are regular. There is no blue-whitish veil, and no regression structures or atypical vessels are seen.",
        {
            "pigment_network": "typical",
            "dots_and_globules": "regular",
            "blue_whitish_veil": "absent",
            "regression_structures": "absent",
        },
    ),
    (
        "Multicomponent pattern with atypical pigment network, irregular dots/globules, irregular streaks, blue-white veil and regression structures.",
        {
            "pigment_network": "atypical",
            "dots_and_globules": "irregular",
            "streaks": "irregular",
            "blue_whitish_veil": "present",
        },
    ),
    (
        "Dermoscopy revealed arborizing vessels, blue-gray ovoid nests and ulceration. No network.",
        {"vascular_structures": "arborizing", "pigment_network": "absent"},
    ),
    (
        "Absence of pigment network, streaks, or globules.",
        {"pigment_network": "absent", "streaks": "absent", "dots_and_globules": "absent"},
    ),
    ("Lesion without vascular structures.", {"vascular_structures": "absent"}),
    (
        "Pigment network absent, dots and globules absent, blotches irregular.",
        {"pigment_network": "absent", "dots_and_globules": "absent", "pigmentation": "localized irregular"},
    ),
    (
        "Diffuse, irregular pigmentation. Streaks not present.",
        {"pigmentation": "diffuse irregular", "streaks": "absent"},
    ),
    (
        "a 3 mm papule on the right thigh with dotted vessels",
        {"diameter": "3", "elevation": "palpable", "location": "lower limbs", "vascular_structures": "dotted"},
    ),
    (
        "Clinical: 51-year-old woman, nodular lesion, left buttock. Dermoscopic: blue-whitish veil, irregular blotches.",
        {
            "age": "51",
            "sex": "female",
            "elevation": "nodular",
            "location": "buttocks",
            "blue_whitish_veil": "present",
            "pigmentation": "localized irregular",
        },
    ),
    (
        "No blue whitish veil. Vascular structures: comma vessels. Regression structures: white areas.",
        {"blue_whitish_veil": "absent", "vascular_structures": "comma", "regression_structures": "white areas"},
    ),
    (
        "Reticular pattern with irregular meshes and thick lines; eccentric hyperpigmentation.",
        {"pigmentation": "localized irregular"},
    ),
    (
        "Melanocytic nevus of the abdomen in a 19-year-old boy, flat, 4 × 3 mm. Regular network.",
        {
            "location": "abdomen",
            "age": "19",
            "sex": "male",
            "elevation": "flat",
            "diameter": "4",
            "pigment_network": "typical",
        },
    ),
    ("Globules are irregular in shape, size, and distribution.", {"dots_and_globules": "irregular"}),
    (
        "Streaks: no. Veil: yes. Network: typical. Vessels: absent.",
        {
            "streaks": "absent",
            "blue_whitish_veil": "present",
            "pigment_network": "typical",
            "vascular_structures": "absent",
        },
    ),
    ("Red dots and a few hairpin vessels.", {"vascular_structures": "dotted"}),
    (
        "A few regular brown dots are seen within an otherwise typical network on the sole.",
        {"dots_and_globules": "regular", "pigment_network": "typical", "location": "acral"},
    ),
    ("No evidence of irregular streaks or pseudopods.", {"streaks": "absent"}),
    ("Bluish-grey regression areas.", {"regression_structures": "blue areas"}),
    ("Hardly any network; veil questionable.", {"blue_whitish_veil": "uncertain"}),
    (
        "Asymmetrical lesion with an atypical network and irregular brown dots; streaks are absent and there is no veil.",
        {
            "pigment_network": "atypical",
            "dots_and_globules": "irregular",
            "streaks": "absent",
            "blue_whitish_veil": "absent",
        },
    ),
    (
        "Regular, fine pigment network. Few globules, regularly spaced. 5 mm macule on the right arm of a 30-year-old man.",
        {
            "pigment_network": "typical",
            "dots_and_globules": "regular",
            "diameter": "5",
            "elevation": "flat",
            "location": "upper limbs",
            "age": "30",
            "sex": "male",
        },
    ),
    ("Regression with peppering occupies half of the lesion.", {"regression_structures": "blue areas"}),
    (
        "Blue-white veil centrally, irregular blotches, polymorphous vessels. Nodule on the lower back.",
        {
            "blue_whitish_veil": "present",
            "pigmentation": "localized irregular",
            "vascular_structures": "linear irregular",
            "elevation": "nodular",
            "location": "back",
        },
    ),
    (
        "Dermoscopy did not show any vascular structures or regression.",
        {"vascular_structures": "absent", "regression_structures": "absent"},
    ),
    (
        "Streaks irregularly distributed at the periphery; possible blue-whitish veil.",
        {"streaks": "irregular", "blue_whitish_veil": "uncertain"},
    ),
    (
        "Lesion of the left heel, palpable, 1.1 cm, with a regular pigmentation.",
        {"location": "acral", "elevation": "palpable", "diameter": "11", "pigmentation": "diffuse regular"},
    ),
    (
        "Bluish white veil and white scar-like depigmentation.",
        {"blue_whitish_veil": "present", "regression_structures": "white areas"},
    ),
    ("Globules absent, network typical, dots regular.", {"pigment_network": "typical", "dots_and_globules": "regular"}),
    (
        "Atypical pigmented network, blue-whitish veil present, regression absent, irregular vessels.",
        {
            "pigment_network": "atypical",
            "blue_whitish_veil": "present",
            "regression_structures": "absent",
            "vascular_structures": "linear irregular",
        },
    ),
    (
        "Symmetrical lesion with regular globules at the periphery and no streaks; no vessels.",
        {"dots_and_globules": "regular", "streaks": "absent", "vascular_structures": "absent"},
    ),
    (
        "Fine dotted vessels. The network is absent. A few brown globules.",
        {"vascular_structures": "dotted", "pigment_network": "absent"},
    ),
    (
        "Typical network centrally with irregular streaks along one edge.",
        {"pigment_network": "typical", "streaks": "irregular"},
    ),
]
SKIN_LESION = [
    (
        "72-year-old farmer with a slowly growing, itchy plaque on the left cheek for two years. It bleeds occasionally. Never smoked. Skin type II.",
        {
            "age": "72",
            "grew": "positive",
            "itch": "positive",
            "elevation": "positive",
            "region": "face",
            "bleed": "positive",
            "smoke": "negative",
            "fitzpatrick": "2",
            "sun_exposure": "positive",
        },
    ),
    ("The lesion does not itch, hurt or bleed.", {"itch": "negative", "hurt": "negative", "bleed": "negative"}),
    (
        "Asymptomatic papule on the nose, 6 mm, pearly with telangiectasia. No prior skin cancer.",
        {
            "hurt": "negative",
            "elevation": "positive",
            "region": "nose",
            "diameter": "6",
            "skin_cancer_history": "negative",
        },
    ),
    (
        "A 55-year-old woman presents with a mole on her back that has changed colour and become larger over 6 months.",
        {"age": "55", "sex": "female", "region": "back", "changed": "positive", "grew": "positive"},
    ),
    (
        "He drinks alcohol socially and quit smoking ten years ago.",
        {"sex": "male", "drink": "positive", "smoke": "positive"},
    ),
    (
        "Denies pruritus, pain, or bleeding. No change in size or colour.",
        {"itch": "negative", "hurt": "negative", "bleed": "negative", "changed": "negative", "grew": "negative"},
    ),
    (
        "Works outdoors without sun protection; exposed to pesticides.",
        {"sun_exposure": "positive", "pesticide": "positive"},
    ),
    (
        "Ulcerated nodule on the lower lip with crusting, tender to touch.",
        {"ulceration": "positive", "elevation": "positive", "region": "lip", "hurt": "positive"},
    ),
    (
        "Flat brown macule on the forearm, stable for years.",
        {"elevation": "negative", "region": "forearm", "changed": "negative"},
    ),
    ("The growth on the right ear has doubled in size.", {"region": "ear", "grew": "positive"}),
    (
        "History of basal cell carcinoma excised in 2015. Breast cancer 2010.",
        {"skin_cancer_history": "positive", "cancer_history": "positive"},
    ),
    (
        "Lesion on scalp, 1.5 cm x 1.2 cm, raised and crusted, bleeding when combing.",
        {"region": "scalp", "diameter": "15", "elevation": "positive", "ulceration": "positive", "bleed": "positive"},
    ),
    (
        "No sewage system at home, but piped water is available.",
        {"sewage_system": "negative", "piped_water": "positive"},
    ),
    (
        "Fitzpatrick phototype III. Non-smoker, abstains from alcohol.",
        {"fitzpatrick": "3", "smoke": "negative", "drink": "negative"},
    ),
    (
        "Itching: yes. Bleeding: no. Pain: no. Growth: yes. Changed: no. Elevation: yes.",
        {
            "itch": "positive",
            "bleed": "negative",
            "hurt": "negative",
            "grew": "positive",
            "changed": "negative",
            "elevation": "positive",
        },
    ),
    (
        "Non-tender, non-ulcerated nodule on the dorsum of the hand.",
        {"hurt": "negative", "ulceration": "negative", "elevation": "positive", "region": "hand"},
    ),
    ("It hasn't grown, but it has started to itch.", {"grew": "negative", "itch": "positive"}),
    (
        "The patient has noticed no bleeding; the lesion occasionally hurts when shaving.",
        {"bleed": "negative", "hurt": "positive"},
    ),
    (
        "Smokes 20 cigarettes per day. Drinks 2 beers daily. Sunburns in childhood.",
        {"smoke": "positive", "drink": "positive", "sun_exposure": "positive"},
    ),
    ("Ex-smoker; no alcohol.", {"smoke": "positive", "drink": "negative"}),
    (
        "Rough scaly patch on the forehead, painful when scratched, increasing in size.",
        {"region": "face", "hurt": "positive", "grew": "positive"},
    ),
    (
        "Lesion on the chest, not elevated, not painful, no itching.",
        {"region": "chest", "elevation": "negative", "hurt": "negative", "itch": "negative"},
    ),
    (
        "He had squamous cell carcinoma removed from his ear last year.",
        {"sex": "male", "skin_cancer_history": "positive", "region": "ear"},
    ),
    ("She has never had cancer of any kind.", {"sex": "female", "cancer_history": "negative"}),
    (
        "Verrucous papules on the thighs and lower legs. Mild pruritus.",
        {"elevation": "positive", "region": "thigh", "itch": "positive"},
    ),
    ("Size has remained the same. No ulceration or erosion.", {"grew": "negative", "ulceration": "negative"}),
    (
        "A bleeding ulcer on the foot that fails to heal; diameter 22 millimetres.",
        {"bleed": "positive", "ulceration": "positive", "region": "foot", "diameter": "22"},
    ),
    (
        "Patient is a 40 y/o man, smoker, denies alcohol use.",
        {"age": "40", "sex": "male", "smoke": "positive", "drink": "negative"},
    ),
    ("The spot got bigger and darker; its shape has become irregular.", {"grew": "positive", "changed": "positive"}),
    (
        "Occasional itch, no pain, no bleeding; enlarging over the last year.",
        {"itch": "positive", "hurt": "negative", "bleed": "negative", "grew": "positive"},
    ),
    (
        "Slightly raised lesion of the neck with an eroded surface.",
        {"elevation": "positive", "region": "neck", "ulceration": "positive"},
    ),
    ("Patient unsure whether the lesion has grown.", {"grew": "uncertain"}),
    ("No history of melanoma or other skin cancers. Mother had breast cancer.", {"skin_cancer_history": "negative"}),
    (
        "Possible bleeding after trauma. Uses tap water, sewer connection present.",
        {"bleed": "uncertain", "piped_water": "positive", "sewage_system": "positive"},
    ),
    (
        "Pedunculated lesion in the left armpit. Unchanged since childhood.",
        {"elevation": "positive", "changed": "negative"},
    ),
    (
        "Dome-shaped, skin-coloured papule on the chin that bled once after shaving.",
        {"elevation": "positive", "region": "face", "bleed": "positive"},
    ),
    ("Patient reports that the lesion neither itches nor bleeds.", {"itch": "negative", "bleed": "negative"}),
    ("Fitzpatrick skin type: 4. Lesion on the abdomen.", {"fitzpatrick": "4", "region": "abdomen"}),
    (
        "58-year-old fair-skinned (Fitzpatrick I) retired sailor with a 3-month history of a rapidly enlarging, crusted nodule on the left ear. Reports tenderness and intermittent bleeding. Smoker (20 pack-years).",
        {
            "age": "58",
            "fitzpatrick": "1",
            "grew": "positive",
            "ulceration": "positive",
            "elevation": "positive",
            "region": "ear",
            "hurt": "positive",
            "bleed": "positive",
            "smoke": "positive",
            "sun_exposure": "positive",
        },
    ),
    (
        "Lesion is pruritic. Denies growth. Denies pain. Has bled twice.",
        {"itch": "positive", "grew": "negative", "hurt": "negative", "bleed": "positive"},
    ),
    ("No itch/pain/bleeding.", {"itch": "negative", "hurt": "negative", "bleed": "negative"}),
    (
        "Erythematous scaly plaque on the shin; not ulcerated.",
        {"elevation": "positive", "region": "thigh", "ulceration": "negative"},
    ),
    (
        "Lesion has been slowly growing; however there has been no bleeding, itching or pain.",
        {"grew": "positive", "bleed": "negative", "itch": "negative", "hurt": "negative"},
    ),
    ("History of melanoma (2012) and multiple BCCs. Father died of lung cancer.", {"skin_cancer_history": "positive"}),
    (
        "PMH: hypertension, prostate cancer. Never had skin cancer.",
        {"cancer_history": "positive", "skin_cancer_history": "negative"},
    ),
    ("Patient is a non-smoker and drinks alcohol occasionally.", {"smoke": "negative", "drink": "positive"}),
    ("Does not drink or smoke.", {"drink": "negative", "smoke": "negative"}),
    (
        "Rural worker with frequent exposure to pesticides and intense sun exposure.",
        {"pesticide": "positive", "sun_exposure": "positive"},
    ),
    (
        "Lives in a house with piped water but without a sewage system.",
        {"piped_water": "positive", "sewage_system": "negative"},
    ),
    ("4mm flat tan macule, forearm, no symptoms.", {"diameter": "4", "elevation": "negative", "region": "forearm"}),
    (
        "She noticed that the mole became darker and itchy, but it has not increased in size.",
        {"changed": "positive", "itch": "positive", "grew": "negative", "sex": "female"},
    ),
    ("Biopsy site on the back healed. New lesion on upper back, raised.", {"region": "back", "elevation": "positive"}),
    (
        "Ulcerated lesion at the tip of the nose, 0.9 x 0.7 cm, bleeds on contact.",
        {"ulceration": "positive", "region": "nose", "diameter": "9", "bleed": "positive"},
    ),
    ("Unknown whether it has changed. It might be growing.", {"changed": "uncertain", "grew": "uncertain"}),
    ("There is no family or personal history of skin cancer.", {"skin_cancer_history": "negative"}),
    ("Painful to palpation; burning sensation at night; no pruritus.", {"hurt": "positive", "itch": "negative"}),
    (
        "Phototype IV. Lesion on the dorsal hand. Change in shape noted.",
        {"fitzpatrick": "4", "region": "hand", "changed": "positive"},
    ),
    (
        "Hyperkeratotic papule on the neck; patient says it doesn't itch or hurt, and never bleeds.",
        {"elevation": "positive", "region": "neck", "itch": "negative", "hurt": "negative", "bleed": "negative"},
    ),
    (
        "Size stable at 8 mm. Mild itching. Occasional alcohol.",
        {"grew": "negative", "diameter": "8", "itch": "positive", "drink": "positive"},
    ),
    ("Patient quit drinking. Current smoker.", {"drink": "positive", "smoke": "positive"}),
    ("Itch +, bleeding -, pain -.", {"itch": "positive", "bleed": "negative", "hurt": "negative"}),
    (
        "A non-pruritic, painless, slow-growing lump on the thigh.",
        {"itch": "negative", "hurt": "negative", "grew": "positive", "elevation": "positive", "region": "thigh"},
    ),
    (
        "Skin type 3, 29-year-old male. Mole on chest: stable in size, color darker than before.",
        {"fitzpatrick": "3", "age": "29", "sex": "male", "region": "chest", "grew": "negative", "changed": "positive"},
    ),
    (
        "Former smoker. Denies EtOH. Lip lesion with a scab.",
        {"smoke": "positive", "drink": "negative", "region": "lip", "ulceration": "positive"},
    ),
    ("Lesion not raised. No history of cancer.", {"elevation": "negative", "cancer_history": "negative"}),
    (
        "CC: Growth on left cheek. HPI: 67 y/o M with a 6 month history of a bleeding, non-healing lesion on the left cheek, enlarging, not painful. PMH: BCC of the nose 2018. SH: former smoker, denies alcohol. FH: mother - melanoma. PE: 8 x 6 mm pearly papule with central ulceration, left cheek.",
        {
            "age": "67",
            "sex": "male",
            "bleed": "positive",
            "grew": "positive",
            "hurt": "negative",
            "region": "face",
            "smoke": "positive",
            "drink": "negative",
            "diameter": "8",
            "elevation": "positive",
            "ulceration": "positive",
        },
    ),
    (
        "Patient noticed the lesion 2 years ago; no itching, no bleeding and no change in size.",
        {"itch": "negative", "bleed": "negative", "grew": "negative"},
    ),
    (
        "Lesion with itch and pain but without bleeding or growth.",
        {"itch": "positive", "hurt": "positive", "bleed": "negative", "grew": "negative"},
    ),
    (
        "Hypertensive patient, ex-smoker, social drinker. Lesion in the dorsum, non-pruritic.",
        {"smoke": "positive", "drink": "positive", "itch": "negative"},
    ),
    (
        "Elevated: yes\nBleed: no\nItch: yes\nHurt: no\nGrew: unknown\nRegion: forearm\nDiameter: 7 mm\nFitzpatrick: 2",
        {
            "elevation": "positive",
            "bleed": "negative",
            "itch": "positive",
            "hurt": "negative",
            "region": "forearm",
            "diameter": "7",
            "fitzpatrick": "2",
        },
    ),
    (
        "Asymptomatic flat lesion of the left thigh; patient unaware of any growth.",
        {"hurt": "negative", "elevation": "negative", "region": "thigh"},
    ),
    (
        "There was no pain, itching, or bleeding associated with the lesion.",
        {"hurt": "negative", "itch": "negative", "bleed": "negative"},
    ),
    (
        "He reports occasional pruritus. He denies any change in colour. Growing slowly.",
        {"itch": "positive", "changed": "negative", "grew": "positive", "sex": "male"},
    ),
    (
        "Lesion on hand increased in size over the past year and occasionally bleeds when bumped. Skin phototype II.",
        {"region": "hand", "grew": "positive", "bleed": "positive", "fitzpatrick": "2"},
    ),
    (
        "No ulceration. The surface is smooth. Lesion slightly elevated.",
        {"ulceration": "negative", "elevation": "positive"},
    ),
    (
        "History of squamous cell carcinoma on the scalp and of prostate cancer.",
        {"skin_cancer_history": "positive", "region": "scalp", "cancer_history": "positive"},
    ),
    (
        "No previous history of skin cancer, but has a history of leukemia.",
        {"skin_cancer_history": "negative", "cancer_history": "positive"},
    ),
    (
        "She does not smoke, and she drinks a glass of wine daily.",
        {"smoke": "negative", "drink": "positive", "sex": "female"},
    ),
    ("Macular lesion 5mm on the right breast.", {"elevation": "negative", "diameter": "5", "region": "chest"}),
    ("Possible growth in the last months. Painless.", {"grew": "uncertain", "hurt": "negative"}),
    (
        "The lesion didn't change, didn't hurt and never bled.",
        {"changed": "negative", "hurt": "negative", "bleed": "negative"},
    ),
    (
        "Exposed to agrotoxics for 30 years; washing with running water; no sewage.",
        {"pesticide": "positive", "piped_water": "positive", "sewage_system": "negative"},
    ),
    (
        "Crusty plaque on the lower leg; the patient scratches it because it is itchy.",
        {"ulceration": "positive", "elevation": "positive", "region": "thigh", "itch": "positive"},
    ),
    ("Nonulcerated dome-shaped nodule, upper lip.", {"elevation": "positive", "region": "lip"}),
    (
        "Ulcer of the foot, 2 x 3 cm, tender, with no history of bleeding.",
        {"ulceration": "positive", "region": "foot", "diameter": "30", "hurt": "positive", "bleed": "negative"},
    ),
    (
        "45-year-old man, skin type III, with an itchy raised lesion on his back that has grown over six months and bled once. Non-smoker.",
        {
            "age": "45",
            "sex": "male",
            "fitzpatrick": "3",
            "itch": "positive",
            "elevation": "positive",
            "region": "back",
            "grew": "positive",
            "bleed": "positive",
            "smoke": "negative",
        },
    ),
    (
        "Nodule on the nose without itching, pain or bleeding.",
        {"elevation": "positive", "region": "nose", "itch": "negative", "hurt": "negative", "bleed": "negative"},
    ),
    (
        "Patient has no history of skin cancer. Smokes a pack a day and drinks alcohol on weekends.",
        {"skin_cancer_history": "negative", "smoke": "positive", "drink": "positive"},
    ),
    (
        "Flat 6 mm lesion on the neck. No growth, no change in color.",
        {"elevation": "negative", "diameter": "6", "region": "neck", "grew": "negative", "changed": "negative"},
    ),
    (
        "Ulcerated plaque of the scalp, 25 x 18 mm. Sun-damaged skin. Previous basal cell carcinoma.",
        {
            "ulceration": "positive",
            "elevation": "positive",
            "region": "scalp",
            "diameter": "25",
            "sun_exposure": "positive",
            "skin_cancer_history": "positive",
        },
    ),
    (
        "The lesion has become painful and has started to bleed. It has not changed colour.",
        {"hurt": "positive", "bleed": "positive", "changed": "negative"},
    ),
    (
        "Lesion neither painful nor pruritic; no ulceration seen.",
        {"hurt": "negative", "itch": "negative", "ulceration": "negative"},
    ),
    (
        "Denies smoking. No alcohol consumption. Worked with pesticides on a farm.",
        {"smoke": "negative", "drink": "negative", "pesticide": "positive"},
    ),
    (
        "Patient's sister had melanoma. She denies personal skin cancer.",
        {"sex": "female", "skin_cancer_history": "negative"},
    ),
    ("It may have grown slightly. Occasionally tender.", {"grew": "uncertain", "hurt": "positive"}),
    (
        "The patient complains of a painful, ulcerated lesion on the lower leg of 4 months' duration.",
        {"hurt": "positive", "ulceration": "positive", "region": "thigh"},
    ),
    (
        "Lesion grew rapidly over the last 3 months; it is itchy and bleeds easily.",
        {"grew": "positive", "itch": "positive", "bleed": "positive"},
    ),
    (
        "No change in the lesion. Denies itching and bleeding.",
        {"changed": "negative", "itch": "negative", "bleed": "negative"},
    ),
    (
        "Pigmented macule, right cheek, 4 x 3 mm, 62 y/o female, Fitzpatrick skin type II.",
        {"elevation": "negative", "region": "face", "diameter": "4", "age": "62", "sex": "female", "fitzpatrick": "2"},
    ),
    (
        "Has a history of multiple basal cell carcinomas. Never a smoker. Occasional alcohol use.",
        {"skin_cancer_history": "positive", "smoke": "negative", "drink": "positive"},
    ),
    (
        "Raised, not ulcerated, not tender. Stable for 5 years.",
        {"elevation": "positive", "ulceration": "negative", "hurt": "negative", "changed": "negative"},
    ),
]
CHEST_CT_AS_XRAY = [
    (
        "There is a 14 x 11 mm spiculated nodule in the right upper lobe. No pleural effusion or pneumothorax. No mediastinal or hilar lymphadenopathy.",
        {
            "nodule": "positive",
            "pleural_effusion": "negative",
            "pneumothorax": "negative",
            "lymphadenopathy": "negative",
        },
    ),
    (
        "Ground-glass opacities in both lower lobes with patchy consolidation. Small bilateral pleural effusions.",
        {"opacity": "positive", "consolidation": "positive", "pleural_effusion": "positive"},
    ),
    (
        "Centrilobular and paraseptal emphysema with an upper lobe predominance. Dependent atelectasis.",
        {"emphysema": "positive", "atelectasis": "positive"},
    ),
    (
        "Lungs: No consolidation, nodule or mass. Pleura: No effusion. Heart: Normal in size. No pericardial effusion. Bones: No acute fracture.",
        {
            "consolidation": "negative",
            "nodule": "negative",
            "mass": "negative",
            "pleural_effusion": "negative",
            "cardiomegaly": "negative",
            "fracture": "negative",
        },
    ),
    (
        "Subpleural reticulation and honeycombing consistent with UIP.",
        {"fibrosis": "positive", "interstitial_markings": "positive"},
    ),
    (
        "4 mm noncalcified nodule in the left lower lobe, unchanged. Calcified granuloma in the right apex.",
        {"nodule": "positive", "granuloma": "positive"},
    ),
    (
        "Mildly enlarged heart. Coronary artery calcifications. Tortuous aorta with atherosclerotic calcification.",
        {"cardiomegaly": "positive", "tortuous_aorta": "positive", "aortic_calcification": "positive"},
    ),
    (
        "No focal airspace disease. Mild bibasilar atelectasis. Moderate hiatal hernia.",
        {"consolidation": "negative", "atelectasis": "positive", "hiatal_hernia": "positive"},
    ),
    ("Enlarged subcarinal lymph node measuring 1.4 cm. No axillary adenopathy.", {"lymphadenopathy": "positive"}),
    ("The previously seen right lower lobe pneumonia has nearly resolved.", {"pneumonia": "positive"}),
    (
        "Interlobular septal thickening and bilateral effusions, likely pulmonary edema.",
        {"pleural_effusion": "positive", "pulmonary_edema": "uncertain", "interstitial_markings": "positive"},
    ),
    ("Findings may represent infection versus aspiration. No cavitation.", {}),
    (
        "Right-sided chest tube in place with small residual pneumothorax.",
        {"lines_and_tubes": "positive", "pneumothorax": "positive"},
    ),
    (
        "Old healed rib fractures. Mild degenerative changes of the thoracic spine. Mild scoliosis.",
        {"fracture": "positive", "degenerative_spine": "positive", "scoliosis": "positive"},
    ),
    (
        "Thyroid nodule. 2 cm liver lesion. Left adrenal mass. Lungs are clear.",
        {
            "consolidation": "negative",
            "pneumonia": "negative",
            "opacity": "negative",
            "atelectasis": "negative",
            "pulmonary_edema": "negative",
            "nodule": "negative",
            "mass": "negative",
            "fibrosis": "negative",
            "interstitial_markings": "negative",
        },
    ),
    (
        "Status post median sternotomy and CABG. Pacemaker leads in place.",
        {"median_sternotomy": "positive", "lines_and_tubes": "positive"},
    ),
    (
        "No evidence of pulmonary embolism. Trace left effusion. No consolidation to suggest pneumonia.",
        {"pleural_effusion": "positive", "consolidation": "negative", "pneumonia": "negative"},
    ),
    (
        "Large cavitary mass in the left upper lobe with mediastinal invasion, suspicious for malignancy.",
        {"mass": "positive"},
    ),
    ("Near complete collapse of the right middle lobe.", {"atelectasis": "positive"}),
    (
        "Small pulmonary nodules are too small to characterize. A small pneumothorax cannot be excluded.",
        {"nodule": "positive", "pneumothorax": "uncertain"},
    ),
    ("Tree-in-bud nodularity and bronchial wall thickening suggest infectious bronchiolitis.", {"nodule": "positive"}),
    (
        "Lungs are well expanded without focal opacity. The heart is not enlarged.",
        {"opacity": "negative", "cardiomegaly": "negative"},
    ),
    ("No enlarged mediastinal, hilar, or axillary lymph nodes by CT criteria.", {"lymphadenopathy": "negative"}),
    ("Mosaic attenuation with air trapping. Hyperinflated lungs.", {"hyperinflation": "positive"}),
    ("Compression deformity of T8, age indeterminate. Osteopenia.", {"fracture": "positive"}),
    (
        "Cardiac size is normal. There is no pericardial effusion. There is a small right pleural effusion with adjacent compressive atelectasis.",
        {"cardiomegaly": "negative", "pleural_effusion": "positive", "atelectasis": "positive"},
    ),
    ("Soft tissue nodule in the right breast. No lung nodules.", {"nodule": "negative"}),
    (
        "Right hilar mass with post-obstructive pneumonitis and volume loss.",
        {"mass": "positive", "pneumonia": "positive", "atelectasis": "positive"},
    ),
    (
        "The effusion has decreased. Pneumothorax no longer seen.",
        {"pleural_effusion": "positive", "pneumothorax": "negative"},
    ),
    ("No acute osseous abnormality. Thoracic spondylosis.", {"fracture": "negative", "degenerative_spine": "positive"}),
    ("Diffuse haziness with crazy-paving. Hepatic steatosis.", {"opacity": "positive"}),
    (
        "Basilar predominant fibrosis with traction bronchiectasis. Esophageal hiatus hernia.",
        {"fibrosis": "positive", "hiatal_hernia": "positive"},
    ),
    (
        "Endotracheal tube terminates 3 cm above the carina. PICC with tip in the SVC.",
        {"lines_and_tubes": "positive", "intubated": "positive"},
    ),
    (
        "The patient is a 67 year old male, former smoker, with shortness of breath and cough.",
        {"age": "67", "sex": "male", "smoker": "positive", "dyspnea": "positive", "cough": "positive"},
    ),
    (
        "Scattered calcified granulomas. No suspicious nodule or mass.",
        {"granuloma": "positive", "nodule": "negative", "mass": "negative"},
    ),
    ("Bilateral infiltrates have improved but not resolved.", {"consolidation": "positive"}),
    (
        "Elevated right hemidiaphragm with right basilar subsegmental atelectasis. Low lung volumes.",
        {"atelectasis": "positive", "low_lung_volumes": "positive"},
    ),
    (
        "Cardiomediastinal silhouette within normal limits. No vascular congestion.",
        {"cardiomegaly": "negative", "vascular_congestion": "negative"},
    ),
    ("Mediastinal mass, possibly thymoma. No lymphadenopathy.", {"mass": "positive", "lymphadenopathy": "negative"}),
    (
        "LUNGS: There is a 2.3 cm spiculated mass in the LUL. Several sub-5 mm nodules bilaterally. Mild centrilobular emphysema. PLEURA: No effusion or thickening. MEDIASTINUM: No lymphadenopathy. HEART: Normal size, no pericardial effusion.",
        {
            "mass": "positive",
            "nodule": "positive",
            "emphysema": "positive",
            "pleural_effusion": "negative",
            "lymphadenopathy": "negative",
            "cardiomegaly": "negative",
        },
    ),
    (
        "No pulmonary embolus. Bibasilar dependent atelectasis. The heart is mildly enlarged with trace pericardial effusion.",
        {"atelectasis": "positive", "cardiomegaly": "positive"},
    ),
    (
        "Interval development of patchy airspace opacities in the RUL, compatible with pneumonia. Reactive mediastinal nodes, not enlarged by size criteria.",
        {"opacity": "positive", "pneumonia": "positive", "lymphadenopathy": "negative"},
    ),
    (
        "The lungs are clear without nodule, mass, or consolidation. Airways are patent.",
        {
            "nodule": "negative",
            "mass": "negative",
            "consolidation": "negative",
            "pneumonia": "negative",
            "opacity": "negative",
            "atelectasis": "negative",
            "pulmonary_edema": "negative",
            "fibrosis": "negative",
            "interstitial_markings": "negative",
        },
    ),
    (
        "Unchanged loculated left pleural effusion with adjacent passive atelectasis. Pneumothorax has resolved.",
        {"pleural_effusion": "positive", "atelectasis": "positive", "pneumothorax": "negative"},
    ),
    (
        "There is diffuse groundglass with superimposed septal thickening. Differential includes edema, hemorrhage and atypical infection.",
        {"opacity": "positive", "interstitial_markings": "positive", "pulmonary_edema": "uncertain"},
    ),
    (
        "No focal consolidation, pleural effusion, pneumothorax, or suspicious pulmonary nodule.",
        {"consolidation": "negative", "pleural_effusion": "negative", "pneumothorax": "negative", "nodule": "negative"},
    ),
    ("Mediastinal and hilar lymph nodes are not pathologically enlarged.", {"lymphadenopathy": "negative"}),
    (
        "Minimally displaced fractures of the left 5th through 7th ribs. No pneumothorax or hemothorax.",
        {"fracture": "positive", "pneumothorax": "negative", "pleural_effusion": "negative"},
    ),
    ("Bronchiectasis and scarring in the lingula. No acute infiltrate.", {"consolidation": "negative"}),
    (
        "Evaluation of the lung parenchyma is limited by respiratory motion; no gross consolidation.",
        {"consolidation": "negative"},
    ),
    ("A small pleural effusion on the left is questioned.", {"pleural_effusion": "uncertain"}),
    (
        "No thoracic lymphadenopathy. Calcified left hilar nodes compatible with prior granulomatous disease.",
        {"lymphadenopathy": "negative", "granuloma": "positive"},
    ),
    (
        "The endotracheal tube is in satisfactory position. Nasogastric tube courses below the diaphragm.",
        {"lines_and_tubes": "positive", "intubated": "positive"},
    ),
    (
        "Multilevel degenerative disc disease. Dextroscoliosis of the thoracic spine.",
        {"degenerative_spine": "positive", "scoliosis": "positive"},
    ),
    (
        "Peripheral reticular opacities with honeycombing, in keeping with pulmonary fibrosis; no ground-glass.",
        {"interstitial_markings": "positive", "fibrosis": "positive", "opacity": "positive"},
    ),
    (
        "Heart size upper limits of normal. Pulmonary vascular congestion with mild interstitial edema.",
        {"cardiomegaly": "negative", "vascular_congestion": "positive", "pulmonary_edema": "positive"},
    ),
    ("Right upper lobe collapse due to an obstructing hilar mass.", {"atelectasis": "positive", "mass": "positive"}),
    ("2 mm subpleural nodule along the fissure is likely an intrapulmonary lymph node.", {"nodule": "positive"}),
    ("Indeterminate nodule in the left thyroid lobe. Hypodense lesion in the liver.", {}),
    ("Chest wall: 3 cm lipomatous mass in the subcutaneous tissues.", {}),
    (
        "Emphysematous changes. No mass. Consolidation in the lingula has cleared.",
        {"emphysema": "positive", "mass": "negative", "consolidation": "negative"},
    ),
    (
        "Moderate-sized bilateral effusions, right greater than left, have slightly increased since the prior.",
        {"pleural_effusion": "positive"},
    ),
    (
        "Possible early infiltrate at the right base; atelectasis is favored.",
        {"consolidation": "uncertain", "atelectasis": "uncertain"},
    ),
    (
        "History: lung cancer, s/p lobectomy. Findings: Post-surgical volume loss. No new nodules. No effusions.",
        {"atelectasis": "positive", "nodule": "negative", "pleural_effusion": "negative"},
    ),
    ("No CT evidence of pulmonary fibrosis or interstitial lung disease.", {"fibrosis": "negative"}),
    ("Kyphosis with multiple vertebral compression fractures.", {"fracture": "positive"}),
    ("Low lung volumes with crowding of the bronchovascular markings.", {"low_lung_volumes": "positive"}),
    (
        "TECHNIQUE: Axial images were obtained with 1.25 mm slices.\nFINDINGS:\nNo pulmonary nodules or masses. Minimal dependent atelectasis bilaterally. No pleural effusion. No mediastinal, hilar, or axillary adenopathy. The heart is not enlarged. No pericardial effusion. Bones demonstrate mild degenerative changes without suspicious lesions.\nIMPRESSION:\nNo evidence of metastatic disease in the chest.",
        {
            "nodule": "negative",
            "mass": "negative",
            "atelectasis": "positive",
            "pleural_effusion": "negative",
            "lymphadenopathy": "negative",
            "cardiomegaly": "negative",
            "degenerative_spine": "positive",
        },
    ),
    (
        "Stable 6 mm right lower lobe nodule. No new nodules. Emphysema. Coronary calcifications.",
        {"nodule": "positive", "emphysema": "positive"},
    ),
    (
        "There is near-complete opacification of the left hemithorax due to a large pleural effusion with compressive atelectasis.",
        {"opacity": "positive", "pleural_effusion": "positive", "atelectasis": "positive"},
    ),
    (
        "Previously noted ground-glass opacities have nearly completely resolved. No new consolidation.",
        {"opacity": "positive", "consolidation": "negative"},
    ),
    (
        "Mild cardiomegaly with small bilateral pleural effusions and interlobular septal thickening suggesting pulmonary edema.",
        {
            "cardiomegaly": "positive",
            "pleural_effusion": "positive",
            "interstitial_markings": "positive",
            "pulmonary_edema": "uncertain",
        },
    ),
    (
        "No acute pulmonary process. Old granulomatous disease. Tortuous thoracic aorta.",
        {
            "granuloma": "positive",
            "tortuous_aorta": "positive",
            "consolidation": "negative",
            "pneumonia": "negative",
            "opacity": "negative",
            "atelectasis": "negative",
            "pulmonary_edema": "negative",
            "nodule": "negative",
            "mass": "negative",
            "fibrosis": "negative",
            "interstitial_markings": "negative",
        },
    ),
    (
        "Spiculated right upper lobe mass (3.2 x 2.8 cm) with satellite nodules; enlarged right paratracheal and subcarinal lymph nodes.",
        {"mass": "positive", "nodule": "positive", "lymphadenopathy": "positive"},
    ),
    (
        "Pneumothorax: none. Effusion: trace on the right. Nodules: none. Consolidation: left lower lobe.",
        {"pneumothorax": "negative", "pleural_effusion": "positive", "nodule": "negative", "consolidation": "positive"},
    ),
    (
        "Lungs are without focal consolidation or suspicious nodule. Mild biapical scarring.",
        {"consolidation": "negative", "nodule": "negative"},
    ),
    (
        "Post-thoracotomy changes with small hydropneumothorax. Right-sided PICC.",
        {"pleural_effusion": "positive", "pneumothorax": "positive", "lines_and_tubes": "positive"},
    ),
    (
        "Dense consolidation with air bronchograms in the right middle lobe consistent with lobar pneumonia; no cavitation or abscess.",
        {"consolidation": "positive", "pneumonia": "positive"},
    ),
    ("Limited evaluation for pulmonary nodules due to motion artifact. No effusion.", {"pleural_effusion": "negative"}),
    (
        "Subsegmental atelectasis at both bases. Otherwise the lungs are clear.",
        {
            "atelectasis": "positive",
            "consolidation": "negative",
            "pneumonia": "negative",
            "opacity": "negative",
            "pulmonary_edema": "negative",
            "nodule": "negative",
            "mass": "negative",
            "fibrosis": "negative",
            "interstitial_markings": "negative",
        },
    ),
    (
        "A 12mm thyroid nodule is incidentally noted. There is no axillary or supraclavicular lymphadenopathy.",
        {"lymphadenopathy": "negative"},
    ),
    (
        "Aspiration pneumonitis cannot be excluded. Hiatal hernia is noted.",
        {"pneumonia": "uncertain", "hiatal_hernia": "positive"},
    ),
    (
        "No rib fracture is identified, although a nondisplaced fracture could be missed on this study.",
        {"fracture": "negative"},
    ),
    (
        "Chronic interstitial lung disease with basilar honeycombing, unchanged. Superimposed pneumonia is not excluded.",
        {"fibrosis": "positive", "interstitial_markings": "positive", "pneumonia": "uncertain"},
    ),
    ("Trachea and main bronchi are patent. Lung volumes are low.", {"low_lung_volumes": "positive"}),
    (
        "Cardiac silhouette is at the upper limits of normal. Atherosclerotic aorta.",
        {"cardiomegaly": "negative", "aortic_calcification": "positive"},
    ),
    ("No pneumothorax status post biopsy of left lower lobe mass.", {"pneumothorax": "negative", "mass": "positive"}),
    (
        "There are multiple bilateral pulmonary nodules, the largest measuring 9 mm. No pleural or pericardial effusion. No enlarged lymph nodes.",
        {"nodule": "positive", "pleural_effusion": "negative", "lymphadenopathy": "negative"},
    ),
    (
        "Patchy ground-glass opacity in the lingula, likely infectious. Small hiatal hernia.",
        {"opacity": "positive", "hiatal_hernia": "positive"},
    ),
    (
        "Lungs clear. No pleural effusion or pneumothorax. Heart size within normal limits. No lymphadenopathy.",
        {
            "consolidation": "negative",
            "pneumonia": "negative",
            "opacity": "negative",
            "atelectasis": "negative",
            "pulmonary_edema": "negative",
            "nodule": "negative",
            "mass": "negative",
            "fibrosis": "negative",
            "interstitial_markings": "negative",
            "pleural_effusion": "negative",
            "pneumothorax": "negative",
            "cardiomegaly": "negative",
            "lymphadenopathy": "negative",
        },
    ),
    (
        "Severe upper lobe predominant emphysema with bullae. No suspicious nodules. Right basilar scarring versus atelectasis.",
        {"emphysema": "positive", "nodule": "negative", "atelectasis": "uncertain"},
    ),
    (
        "Increased right effusion with near complete collapse of the right lower lobe. No pneumothorax.",
        {"pleural_effusion": "positive", "atelectasis": "positive", "pneumothorax": "negative"},
    ),
    (
        "Acute nondisplaced fractures of the right 4th and 5th ribs. Otherwise no acute finding.",
        {"fracture": "positive"},
    ),
    (
        "Cardiomegaly. Pulmonary edema has improved. Bibasilar consolidations, pneumonia not excluded.",
        {
            "cardiomegaly": "positive",
            "pulmonary_edema": "positive",
            "consolidation": "positive",
            "pneumonia": "uncertain",
        },
    ),
    (
        "No new consolidation. Unchanged calcified granulomas. Moderate atherosclerosis of the aorta.",
        {"consolidation": "negative", "granuloma": "positive", "aortic_calcification": "positive"},
    ),
    (
        "Tracheostomy tube and right PICC are in place. Low lung volumes with bibasilar atelectasis.",
        {"lines_and_tubes": "positive", "low_lung_volumes": "positive", "atelectasis": "positive"},
    ),
    (
        "Large anterior mediastinal mass without effusion; enlarged axillary nodes.",
        {"mass": "positive", "pleural_effusion": "negative", "lymphadenopathy": "positive"},
    ),
    (
        "A few scattered subcentimeter pulmonary nodules, stable. No consolidation. No pleural fluid.",
        {"nodule": "positive", "consolidation": "negative", "pleural_effusion": "negative"},
    ),
    (
        "Mild dependent opacities likely represent atelectasis. No evidence of pneumonia. Borderline cardiomegaly.",
        {"opacity": "positive", "atelectasis": "uncertain", "pneumonia": "negative", "cardiomegaly": "positive"},
    ),
    (
        "Healing right rib fractures with adjacent pleural thickening; small right pneumothorax has resolved.",
        {"fracture": "positive", "pneumothorax": "negative"},
    ),
    (
        "Left lower lobe consolidation with volume loss, concerning for pneumonia or aspiration.",
        {"consolidation": "positive", "atelectasis": "positive", "pneumonia": "uncertain"},
    ),
]
LEXICONS = {
    "mammography": MAMMOGRAPHY,
    "chest_ct": CHEST_CT,
    "kidney_ct": KIDNEY_CT,
    "dermoscopy": DERMOSCOPY,
    "skin_lesion": SKIN_LESION,
    "chest_xray": CHEST_CT_AS_XRAY,
}
EXTRACTORS = {name: RuleExtractor(name) for name in LEXICONS}
CASES = [(name, text, cells) for name, cases in LEXICONS.items() for text, cells in cases]


@pytest.mark.parametrize(("name", "text", "cells"), CASES, ids=[f"{name}: {text[:40]}" for name, text, _ in CASES])
def test_a_report_fills_these_cells_and_no_others(name, text, cells):
    row = EXTRACTORS[name].extract(text)
    assert {attribute: cell.value for attribute, cell in row.items() if cell.state is not None} == cells
