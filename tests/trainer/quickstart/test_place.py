import os

import pytest

from pipeline.command import DataError, UsageError
from trainer.quickstart.memory import Memory
from trainer.quickstart.model import current_model, head_of, last_stopped, shorter, tuned
from trainer.quickstart.photos import count_photos
from trainer.quickstart.place import Place, find_place


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "roses").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "root"),
    [("photos", "photos-model"), ("photos/", "photos-model"), ("./photos//", "photos-model")],
)
def test_everything_lies_beside_the_photos(here, named, root):
    assert find_place(named, None).root == root


def test_a_folder_that_is_named_by_dots_has_a_name(here, monkeypatch):
    monkeypatch.chdir("photos")
    assert find_place(".", None).root == str(here / "photos-model")
    monkeypatch.chdir("roses")
    assert find_place("..", None).root == str(here / "photos-model")


def test_a_link_to_photos_is_as_good_as_they_are(here):
    (here / "mine").symlink_to("photos")
    assert find_place("mine", None).root == "mine-model"


@pytest.mark.parametrize(
    ("photos", "output", "said"),
    [
        ("photo", None, r'photo: no such folder; Did you mean "photos"\?'),
        ("x/y", None, "x/y: no such folder; give the folder that holds one folder of photos for each class"),
        ("file.zip", None, "file.zip: a file, not a folder"),
        ("photos", "photos/model", "--output=photos/model lies inside of photos"),
        ("photos", ".", "--output=.: other things lie there"),
        ("photos", "file.zip", "--output=file.zip: .* is a file, not a folder"),
        ("photos", "gs://bucket/model", "--output=gs://bucket/model: what is made lies on this disk"),
        ("gs://bucket/photos", None, "gs://bucket/photos: photos in a store; --output=DIR says where"),
        ("/", None, "/: nothing can lie beside it; give --output=DIR"),
        ("made", None, "made: this command has made it; give the folder of photos"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(here, photos, output, said):
    (here / "file.zip").write_bytes(b"PK")
    (here / "made").mkdir()
    Memory.read(str(here / "made" / "quickstart.json")).write()
    with pytest.raises(UsageError, match=said) as caught:
        find_place(photos, output)
    assert "\n" not in str(caught.value)
    assert not (here / "photos-model").exists()


def test_a_folder_of_ones_own_is_no_link_and_is_left_alone(here):
    place = find_place("photos", None)
    os.makedirs(place.model)
    Memory.read(place.state).write()
    with pytest.raises(UsageError, match="photos-model/model: no link"):
        find_place("photos", None)


def test_too_few_photos_of_a_class_are_told_before_anything_is_built(here):
    for label, count in (("roses", 5), ("tulips", 2)):
        (here / "photos" / label).mkdir(exist_ok=True)
        for number in range(count):
            (here / "photos" / label / f"{number}.jpg").touch()
    (here / "photos" / "roses" / ".DS_Store").touch()
    place = find_place("photos", None)
    with pytest.raises(DataError, match="photos: class tulips has 2 photos; each class needs 3 at least"):
        count_photos(place)
    (here / "photos" / "tulips" / "deeper").mkdir()
    (here / "photos" / "tulips" / "deeper" / "3.jpg").touch()
    assert count_photos(place) == {"roses": 5, "tulips": 3}


def test_the_link_is_replaced_and_a_killed_replacement_does_no_harm(here):
    place = find_place("photos", None)
    assert current_model(place) is None
    models = [head_of(place, "1.0.0", "photos"), tuned(place, "1.0.0", "photos", epochs=3)]
    for model in models:
        os.makedirs(model.export)
    os.symlink("nowhere", f"{place.model}.new")  # as a kill between the two leaves it
    for model in models:
        place.take(model.export)
        assert current_model(place) == model
        assert not os.path.isabs(os.readlink(place.model)), "the folder may be moved"
    os.rmdir(models[1].export)
    assert current_model(place) is None


def test_runs_are_found_by_their_names(here):
    place = Place(photos="photos", root="photos-model")
    for name in ("photos-3ep", "photos-12ep", "photos-after-2ep", "photos-head", "quick-4ep", "photos"):
        os.makedirs(place.run("1.0.0", name))
    assert [epochs for epochs, _ in shorter(place, "1.0.0", "photos")] == [12, 3]
    assert last_stopped(place, "1.0.0", "photos") is None, "it has not been asked yet"
    with open(os.path.join(place.run("1.0.0", "photos-after-2ep"), "predictions-validation.npz"), "wb"):
        pass
    assert last_stopped(place, "1.0.0", "photos").name == "photos-after-2ep"


def test_a_damaged_memory_is_an_empty_one(here):
    place = find_place("photos", None)
    os.mkdir(place.root)
    memory = Memory.read(place.state).with_time("check", 1.5).with_decision("so", taken=True)
    assert Memory.read(place.state) == memory
    assert memory.with_decision("so", taken=False) == memory, "what was said last is not said again"
    for text in ("", "{", "[]", '{"slowness": 3, "decisions": []}', '{"slowness": {}, "decisions": [{"x": 1}]}'):
        (here / place.state).write_text(text)
        assert Memory.read(place.state) == Memory(file=place.state)
