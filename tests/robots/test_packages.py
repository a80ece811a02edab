"""Where a robot's meshes lie."""

import os

import pytest

from simtoreal.robots.packages import find_mesh


@pytest.fixture
def package(tmp_path):
    """A ROS package as makers of robots publish them, in a workspace."""
    home = tmp_path / "ws" / "src" / "acme_description"
    for name in ("meshes/visual/arm.obj", "robots/lab/acme.urdf", "package.xml", "robots/lab/arm.obj"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("o")
    (tmp_path / "ws" / "src" / "secret.obj").write_text("o")
    return home


@pytest.mark.parametrize("name", ["package://acme_description/meshes/visual/arm.obj", "../../meshes/visual/arm.obj"])
def test_a_package_s_urdf_finds_its_meshes(package, name):
    assert find_mesh(name, package / "robots" / "lab") == package / "meshes" / "visual" / "arm.obj"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../../secret.obj", "is not a file in .*acme_description$"),
        ("package://acme_description/../secret.obj", "is not a file in .*acme_description$"),
        ("package://acme_description/meshes/leg.obj", "is not a file in .*acme_description$"),
        ("package://src/secret.obj", "is in no folder src above or beside the URDF"),
        ("package://../secret.obj", "is in no folder .. above"),
        ("package:///etc/hostname", "above or beside"),
    ],
)
def test_nothing_outside_the_package_is_read(package, name, words):
    (package / "robots" / "lab" / "more" / "deeper").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=words):
        find_mesh(name, package / "robots" / "lab" / "more" / "deeper")


def test_without_a_package_xml_the_folder_above_urdf_is_the_robot_s(package):
    (package / "package.xml").unlink()
    (package / "urdf").mkdir()
    assert find_mesh("../meshes/visual/arm.obj", package / "urdf").name == "arm.obj"
    assert find_mesh("package://acme_description/meshes/visual/arm.obj", package / "urdf").name == "arm.obj"
    with pytest.raises(FileNotFoundError, match=r"is not a file in .*lab$"):
        find_mesh("../../meshes/visual/arm.obj", package / "robots" / "lab")


@pytest.mark.parametrize(("variable", "place"), [("ROS_PACKAGE_PATH", "ws/src"), ("AMENT_PREFIX_PATH", "install")])
def test_another_package_is_found_as_ros_finds_it(package, tmp_path, monkeypatch, variable, place):
    (tmp_path / "install").mkdir()
    (tmp_path / "install" / "share").symlink_to(package.parent)
    monkeypatch.setenv(variable, os.pathsep.join(["", str(tmp_path / "none"), str(tmp_path / place)]))
    elsewhere = tmp_path / "lab"
    elsewhere.mkdir()
    found = find_mesh("package://acme_description/meshes/visual/arm.obj", elsewhere)
    assert found == package / "meshes" / "visual" / "arm.obj"
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="nor on ROS_PACKAGE_PATH"):
        find_mesh("package://acme_description/meshes/visual/arm.obj", elsewhere)


def test_the_package_itself_may_be_on_the_path(package, tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_PACKAGE_PATH", str(package))
    assert find_mesh("package://acme_description/meshes/visual/arm.obj", tmp_path).name == "arm.obj"


def test_a_folder_beside_the_urdf_may_be_the_package(tmp_path):
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "arm.obj").write_text("o")
    assert find_mesh("package://acme/arm.obj", tmp_path) == tmp_path / "acme" / "arm.obj"
