"""The named parameters as a table and a page."""

from pathlib import Path

from simtoreal.build import make_env
from simtoreal.parameter_list import page, pattern

SCALES = """
from types import SimpleNamespace

import gymnasium
import numpy as np


class Scales(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, mass):
        self.parameters = {"mass": SimpleNamespace(unit="kg", nominal=mass, low=0.5, high=2.0)}


gymnasium.register("Scales-v0", entry_point=Scales, kwargs={"mass": 1.0})
gymnasium.register("Heavy-v0", entry_point=Scales, kwargs={"mass": "heavy"})
"""
PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"


def test_the_page_is_that_of_the_code():
    assert PAGE.read_text() == page(), "python -m simtoreal.parameter_list > docs/parameters.md"


def test_the_page_has_what_no_shipped_task_has():
    rows = {line.split("`")[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    parts = ("battery.voltage", "sensor.acceleration.noise", "sensor.foot_contact.bias.*", "sensor.joint_torque.drift")
    for name in parts:
        assert "no shipped one" in rows[name]
    for name in ("sensor.0.noise", "sensor.latency", "sensor.dropout", "actuator.noise", "actuator.repeat"):
        assert "anyone's environment" in rows[name]
    assert rows["actuator.latency"].endswith("| all tasks |")
    assert "anyone" not in rows["gravity"]


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


def test_parameters_of_anyone_s_environment_are_shown(cli, tmp_path, monkeypatch):
    """Its parameters are any objects that tell unit, nominal, low and high; others' have no engine of ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scales.py").write_text(SCALES)
    said = cli("tasks", "--parameters", "scales:Scales-v0", "--json").result
    mass = {"unit": "kg", "nominal": 1.0, "low": 0.5, "high": 2.0, "description": ""}
    assert (said["engine"], said["parameters"]["mass"]) == (None, mass)
    assert cli("tasks", "--parameters", "scales:Scales-v0").out.startswith("scales:Scales-v0 ")
    words = "parameter mass: nominal, low and high must be numbers, got ['heavy', 0.5, 2.0]"
    cli("tasks", "--parameters", "scales:Heavy-v0").refused(words)


def test_a_preset_is_shown_with_what_it_shares_or_refused(cli, tmp_path):
    file = tmp_path / "a1.yaml"
    head = "task: A1Walk\nversion: 1\nentries:\n"
    file.write_text(f"{head}  link.?L_*.mass: {{scale: {{uniform: [0.9, 1.1]}}, shared: left}}\n")
    assert cli("tasks", "--preset", file, "--json").result["entries"][0]["shared"] == "left"
    assert "shared left" in cli("tasks", "--preset", file).out
    file.write_text(f"{head}  link.*_*.mass: {{scale: 0.3}}\n  joint.*.damping: {{uniform: [0.0, 1.0]}}\n")
    cli("tasks", "--preset", file).refused("a1.yaml:5: joint.*.damping: joint.")
