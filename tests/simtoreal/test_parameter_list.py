"""The named parameters as a table and a page."""

from pathlib import Path

from simtoreal.build import make_env
from simtoreal.parameter_list import page, pattern

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"


def test_the_page_is_that_of_the_code():
    assert PAGE.read_text() == page(), "python -m simtoreal.parameter_list > docs/parameters.md"


def test_what_is_alike_is_one_row():
    found = {
        "link.FR_hip.mass": "link.*.mass",
        "link.trunk.com.x": "link.*.com.?",
        "joint.a_b-c.damping": "joint.*.damping",
        "sensor.joint_position.bias.FR_hip": "sensor.joint_position.bias.*",
        "sensor.gyro.noise": "sensor.gyro.noise",
        "rotor.thrust.front": "rotor.thrust.*",
        "wind.z": "wind.?",
        "gravity": "gravity",
    }
    assert {name: pattern(name) for name in found} == found


def test_a_task_s_parameters_are_shown(cli):
    said = cli("tasks", "--parameters", "PandaReach", "--json")
    env = make_env("simtoreal/PandaReach-v0")
    table = env.get_wrapper_attr("parameters")
    env.close()
    assert said.result["parameters"].keys() == table.keys()
    mass = said.result["parameters"]["link.panda_hand.mass"]
    assert (mass["unit"], mass["nominal"]) == ("kg", table["link.panda_hand.mass"].nominal)
    shown = cli("tasks", "--parameters", "PandaReach").out
    assert "link.*.mass" in shown
    assert "armature" not in shown
    assert "armature" in cli("tasks", "--parameters", "PandaReach", "--engine", "mujoco").out
    assert "link.*.mass" in cli("tasks", "--parameters", "Walk", "--robot", "spirit40").out
    assert list(cli("tasks", "--parameters", "CartPole-v1", "--json").result["parameters"])[-3:] == [
        "sensor.dropout", "actuator.latency", "actuator.repeat",
    ]  # fmt: skip
    cli("tasks", "--parameters", "PandaReach", "--engine", "ode").refused("no engine 'ode'")
    cli("tasks", "--parameters", "A1Walk", "--preset", "A1Walk").refused("--preset or --parameters, not both")
    cli("tasks", "--parameters", "Ant-v9").refused("module:Id-v0 of what a module registers")
    cli("tasks", "--parameters", "Walk").refused("name one with --robot FILE")
