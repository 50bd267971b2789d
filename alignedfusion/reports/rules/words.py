"""Words that frame findings, grade them, or name places and techniques: what an attribute is not called by alone."""

SEVERITY = frozenset(
    """mild mildly moderate moderately severe severely minimal minimally small tiny trace large marked slight slightly stable
    unchanged persistent residual new worsening increased increasing decreased improved extensive multiple several
    scattered diffuse patchy subtle focal acute chronic old healed a an""".split()  # noqa: SIM905
)
FRAME = SEVERITY | frozenset(
    """and any are as at be been being both but by can cannot could did do does for from had has have he her his if in into
    is it its may might more most no nor not of on only or other our over per she should so some such than that the
    their there these this those through to under up upon was we were which while who will with within without would
    abnormal again also although apparent appear appears appearance approximately available bilateral bilaterally case
    change clear clinical clinically compared comparison compatible consistent correlation correlate day days definite
    definitely demonstrate demonstrated demonstrates discrete due during early either else evaluate evaluation
    evidence evident exam examination examined first following found frank further given grossly history identified
    image images impression including interval intact involving known left less likely active typical throughout sided
    represent represents representing limits located lower many marked mid middle minor negative normal noted obtained
    otherwise overall overlying patient patients performed possible possibly present presented presenting previous
    previously prior probable probably prominent questionable recommend recommended redemonstrated related remain
    remains resolved right same second secondary seen see series show shows showed significant significantly similar
    since size slightly specific status study suggest suggesting suggestive suggests superimposed suspicious technique
    third time today total two three four one unremarkable upper very view views visible visualized week weeks well
    where year years yes none old underlying associated overt obvious adjacent additional greater increase decrease
    decreased measuring measures least between clearly completely currently markedly essentially""".split()  # noqa: SIM905
)
ANATOMY = frozenset(
    """abdomen abdominal adrenal airway angle anterior anterolateral aorta aortic apex apical apices arch area artery axilla
    axillary base basal basilar bibasilar biapical bladder body bone bony border bowel breast bronchial bronchus calyx
    cardiac cardiomediastinal cardiophrenic cardiopulmonary carina central cervical chest clavicle colon contour
    costal costophrenic diaphragm diaphragmatic distal dome dorsal duct edge esophagus extremity fat field fissure
    flank foot gallbladder gland hand heart hemidiaphragm hemithorax hepatic hila hilar hilum humerus inferior
    infrahilar inner inferolateral junction kidney knee lateral leg lingula lingular liver lobar lobe lower lumbar
    lung margin medial median mediastinal mediastinum midlung midline muscle neck nipple nose node outer ovary
    pancreas parenchyma parenchymal pelvic pelvis perihilar peripheral pleura pole posterior posterolateral
    posteromedial proximal pulmonary quadrant region renal retrocardiac retroareolar rib scalp shadow shoulder side
    silhouette skeletal skeleton skin soft space spine spinal spleen sternum stomach structure subareolar subpleural
    superior superolateral surface thigh thoracic thorax thyroid tissue tract trachea tracheal trunk tube tubular
    upper ureter vascular vasculature vascularity vein ventricle ventricular vertebra vertebral vessel volume wall
    zone cranial caudal craniocaudal mediolateral oblique frontal projection mlo ap pa cc exaggerated magnification
    spot compression mammogram mammography mammographic digital tomosynthesis ultrasound sonography radiograph
    radiographic radiography film portable upright supine contrast intravenous oral axial coronal sagittal reformat
    slice dose physician doctor department phone result report findings letter lay reader software detection computer
    aided cad screening diagnostic routine annual month follow followup degree level position tip lymph helpful""".split()  # noqa: SIM905
)
GENERIC = frozenset(
    """abnormality change disease process finding structure lesion marking pattern shape disorder condition feature component
    activity content configuration limit degree evidence sign appearance area density injury""".split()  # noqa: SIM905
)
