from __future__ import annotations

import pytest

from simtoreal.randomization.randomizer import Preset, read_entries
from simtoreal.randomization.shipped import FOLDER, find_preset, find_suite, preset_paths, suite_paths, write_suites
from simtoreal.randomization.suites import Suite
from simtoreal.randomization.yaml_files import read_yaml


def test_every_shipped_entry_says_where_its_range_comes_from():
    for task, path in preset_paths().items():
        preset = Preset.load(path)
        assert preset.task == task
        assert preset.entries
        for entry in preset.entries:
            assert entry.source, f"{entry.place}: {entry.pattern} has no source"


def test_every_shipped_suite_is_well_formed():
    for folder in sorted((FOLDER / "suites").iterdir()):
        for name, path in suite_paths(folder.name).items():
            file = read_yaml(path)
            assert (file.data["task"], file.data["name"]) == (folder.name, name)
            assert file.data.get("held_out", False) == (name == "heldout")
            for condition in file.data["conditions"]:
                list(read_entries(file, "conditions", condition))


def test_names_and_paths_are_told_apart(tmp_path, monkeypatch):
    for folder, name in (("presets", "Toy"), ("suites/Toy", "train"), ("suites/Toy", "heldout")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}.yaml").write_text("{}")
    monkeypatch.setattr("simtoreal.randomization.shipped.FOLDER", tmp_path)
    assert find_preset("Toy") == tmp_path / "presets" / "Toy.yaml"
    assert find_suite("Toy", "train") == tmp_path / "suites" / "Toy" / "train.yaml"
    assert str(find_preset("./mine")) == "mine"
    assert str(find_suite("Toy", "mine.yaml")) == "mine.yaml"
    with pytest.raises(
        FileNotFoundError, match=r'no suite of Toy named "held", and no path of a .yaml file; did you mean heldout'
    ):
        find_suite("Toy", "held")
    with pytest.raises(FileNotFoundError, match=r'no suite of Other named "train".*; choices: none'):
        find_suite("Other", "train")
    with pytest.raises(FileNotFoundError, match=r'no preset named "To".*; did you mean Toy\?'):
        find_preset("To")


def test_the_three_suites_of_a_preset(tmp_path, preset_text, table):
    paths = write_suites(Preset.loads(preset_text), table, tmp_path / "Toy")
    suites = [Suite.load(path, table) for path in paths]
    assert [(s.task, s.name, s.held_out) for s in suites] == [
        ("Toy", "nominal", False),
        ("Toy", "train", False),
        ("Toy", "heldout", True),
    ]
    assert [len(s.conditions) for s in suites] == [1, 1, 6]


def test_nothing_is_written_when_nothing_can_be_held_out(tmp_path, table):
    with pytest.raises(ValueError, match="leaves no room"):
        write_suites(Preset.none("Toy"), table, tmp_path / "Toy")
    assert not list(tmp_path.iterdir())
