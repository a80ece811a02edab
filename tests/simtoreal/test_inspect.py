"""`simtoreal inspect`: what it prints, and what it exits with."""

from simtoreal.robots import catalog

DATA = catalog.pybullet_data()


def test_a_usable_robot_is_told_of(cli):
    said = cli("inspect", DATA / "laikago" / "laikago_toes_zup.urdf")
    assert (said.code, said.err) == (0, "")
    assert "17 links of 25.57 kg from root chassis, 12 moving joints" in said.out
    assert "no problems found" in said.out


def test_an_error_is_the_answer_no(cli):
    said = cli("inspect", DATA / "xarm" / "xarm6_robot.urdf", "--json")
    assert said.code == 1
    assert said.result["usable"] is False
    assert [p["element"] for p in said.result["problems"] if p["severity"] == "error"] == ["link link2", "link link3"]
    assert len(said.result["joints"]) == 7
    assert "error: link link2: inertia of no real body" in cli("inspect", DATA / "xarm" / "xarm6_robot.urdf").out


def test_what_is_no_robot_is_one_line(tmp_path, cli):
    cli("inspect", tmp_path / "none.urdf").refused("no such robot file")
    cli("inspect", tmp_path).refused("Is a directory")
    (tmp_path / "cut.urdf").write_text("<robot><link")
    cli("inspect", tmp_path / "cut.urdf", "--json").refused("not a usable URDF")
    cli("inspect", DATA / "husky" / "husky.urdf").refused("joint imu_joint: xyz='$(optenv")
