import pytest
from scipy import stats

from retrain.handover import judge_handover
from retrain.limits import GateConfig

CONFIG = GateConfig(margin=0.02, minimum_accuracy=0.8)
TRUTH = {f"id{number}": "cat" for number in range(10)}


def form(problem=""):
    return {"form": "model.tflite", "bytes": 10, "images": 3, "difference": 0.0, "problem": problem}


def golden(wrong, total=10, label="cat"):
    return [
        {"file": f"{n}.jpg", "id": f"id{n}", "label": label, "predicted": "dog" if n < wrong else label}
        for n in range(total)
    ]


def judged(truth=TRUTH, **found):
    return judge_handover({"forms": [form()], **found}, truth, CONFIG)


def test_a_model_that_serves_as_the_champion_is_not_refused():
    found = judged(golden=golden(0), milliseconds=[14.9, 10.0], bytes=[1.4e6, 1e6])
    assert not found.refused
    assert found.told == (
        ["latency: 14.9 ms an image, the champion's 10.0, for information",
         "size: 1.4 MB, the champion's 1.0, for information"]
    )  # fmt: skip
    assert found.figures["golden"] == {"images": 10, "missed": 0}


def test_a_form_that_answers_otherwise_is_refused():
    found = judge_handover({"forms": [form(), form("differs by 0.3")]}, TRUTH, CONFIG)
    assert found.refused == ["exported model.tflite: differs by 0.3"]


def test_slower_and_larger_models_are_refused_with_the_key_that_lets_them_through():
    found = judged(milliseconds=[16.0, 10.0], bytes=[4e6, 2e6])
    assert found.refused == [
        "latency: 16.0 ms an image, the champion's 10.0: more than 1.5 times as much; if meant, gate.latency: 1.6",
        "size: 4.0 MB, the champion's 2.0: more than 1.5 times as much; if meant, gate.size: 2",
    ]


@pytest.mark.parametrize(
    ("wrong", "lost", "refused"),
    [(0, 0.0, 0), (1, 0.0, 0), (2, 0.0, 2), (2, 0.01, 2), (2, 0.05, 0), (4, 0.05, 4), (5, 0.25, 0), (7, 0.25, 7)],
)
def test_golden_images_may_be_missed_as_often_as_others(wrong, lost, refused):
    found = judge_handover({"forms": [], "golden": golden(wrong)}, TRUTH, CONFIG, lost=lost)
    assert len(found.refused) == refused
    assert sum("golden image" in line for line in found.told) == (0 if refused else wrong)
    if wrong > 1:
        expected = stats.binomtest(wrong, 10, lost, alternative="greater").pvalue if lost else 0.0
        assert (expected <= 0.01) == bool(refused)


def test_images_that_are_gone_or_have_another_label_now_are_golden_no_more():
    assert not judged(truth={}, golden=golden(5)).refused
    assert not judged(truth=TRUTH | dict.fromkeys(("id0", "id1", "id2"), "dog"), golden=golden(4)).refused


def test_photos_of_the_user_must_all_be_right():
    asked = [
        {"file": "p/cat/1.jpg", "id": "", "label": "cat", "predicted": "dog"},
        {"file": "p/cat/2.jpg", "id": "", "label": "cat", "predicted": ""},
        {"file": "p/dog/1.jpg", "id": "", "label": "dog", "predicted": "dog"},
    ]
    assert judged(asked=asked).refused == [
        "a photo that must stay right is answered wrongly: p/cat/1.jpg, cat, is dog to it",
        "a photo that must stay right is answered wrongly: p/cat/2.jpg, cat, is not read to it",
    ]
