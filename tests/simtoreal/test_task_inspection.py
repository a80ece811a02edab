"""`simtoreal inspect TASK`."""

import json

import pytest


def test_a_task_s_sensors_and_fields_are_listed(cli):
    said = cli("inspect", "A1Walk", "--json")
    found = json.loads(said.out)
    assert said.code == 0
    assert found["unsensed"] == []
    assert list(found["sensors"]) == ["joint_position", "joint_velocity", "imu"]
    assert "sensor.imu.period" in found["sensors"]["imu"]
    assert [field["name"] for field in found["observation"]][:2] == ["gravity", "angular_velocity"]
    said = cli("inspect", "CartPoleBalance")
    assert said.code == 0
    assert "every field of the observation follows from the sensors" in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Nope"], "no task 'Nope'"),
        (["CartPole-v1"], "does not say what its sensors are"),
        (["nope.urdf"], "no such robot file"),
        (["A1Walk", "--write", "x.yaml"], "--write makes a robot file of a URDF"),
        (["nope.yaml:Walk"], "no such robot file"),
    ],
)
def test_what_is_neither_a_task_of_ours_nor_a_robot_ends_in_a_line(arguments, words, cli):
    said = cli("inspect", *arguments)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert said.err.count("\n") == 1
