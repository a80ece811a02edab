"""Where links are and what they look like: what a viewer draws."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator

from simtoreal.robots import rotation
from simtoreal.robots.looks import looks
from simtoreal.robots.model import ModelError, RobotModel

ROBOT = """<robot name="r">
  <material name="red"><color rgba="1 0 0 1"/></material>
  <link name="base">
    <visual><origin xyz="0 0 0.5" rpy="0 0 1.5707963267948966"/><geometry><box size="1 2 3"/></geometry>
      <material name="red"/></visual>
    <visual><geometry><sphere radius="0.2"/></geometry>
      <material name="own"><color rgba="0 0.5 1 0.5"/></material></visual>
  </link>
  <link name="tip">
    <visual><geometry><cylinder radius="0.1" length="0.4"/></geometry><material name="own"/></visual>
    <visual><geometry><mesh filename="{mesh}" scale="2 2 2"/></geometry></visual>
    <visual><geometry><capsule radius="0.1" length="0.3"/></geometry></visual>
  </link>
  <joint name="j" type="fixed"><parent link="base"/><child link="tip"/></joint>
</robot>"""  # fmt: skip


def write(folder, text):
    (folder / "tip.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    path = folder / "robot.urdf"
    path.write_text(text)
    return RobotModel(path)


def test_every_shape_is_read_with_its_place_size_and_colour(tmp_path):
    box, sphere, cylinder, mesh, capsule = looks(write(tmp_path, ROBOT.format(mesh="package://tip.obj")))
    assert (box.link, box.kind, box.size, box.colour) == ("base", "box", (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 1.0))
    assert np.allclose(box.place, [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]], atol=1e-12)
    assert (sphere.kind, sphere.size, sphere.colour) == ("sphere", (0.2,), (0.0, 0.5, 1.0, 0.5))
    assert (cylinder.link, cylinder.size, cylinder.colour) == ("tip", (0.1, 0.4), (0.0, 0.5, 1.0, 0.5))
    assert (mesh.mesh, mesh.size, mesh.colour) == ((tmp_path / "tip.obj").resolve(), (2.0, 2.0, 2.0), None)
    assert (capsule.kind, capsule.size) == ("capsule", (0.1, 0.3))


@pytest.mark.parametrize(
    ("mesh", "changed", "words"),
    [
        ("../tip.obj", {}, "mesh '../tip.obj' is not a file in "),
        ("tip.obj", {"<sphere": "<cone"}, "link base: a visual needs a geometry: box, cylinder, sphere, capsule, mesh"),
        ("tip.obj", {'<geometry><sphere radius="0.2"/></geometry>': ""}, "link base: a visual needs a geometry"),
        ("tip.obj", {'radius="0.2"': 'radius="nan"'}, "radius='nan' is not finite"),
        ("tip.obj", {'"1 0 0 1"': '"red"'}, "material red: rgba='red' is not a list of numbers"),
    ],
)
def test_what_cannot_be_drawn_is_said(mesh, changed, words, tmp_path):
    text = ROBOT.format(mesh=mesh)
    for old, new in changed.items():
        text = text.replace(old, new)
    with pytest.raises(ModelError) as error:
        list(looks(write(tmp_path, text)))
    assert words in str(error.value)


def test_every_shipped_robot_has_a_look():
    tasks = [gym.spec(name).entry_point for name in gym.registry if name.startswith("simtoreal/")]
    robots = {robot.name: robot for robot in (load_env_creator(task).robot for task in tasks)}
    assert {"a1", "aliengo", "cartpole", "crazyflie", "kuka", "panda", "panda_with_cube", "racecar", "xarm"} == {
        *robots
    }
    for robot in robots.values():
        found = list(looks(robot.model))
        assert {look.link for look in found} <= set(robot.model.links)
        assert len(found) >= len(robot.drag)
        assert all(look.mesh is None or look.mesh.is_file() for look in found)


def test_links_are_where_forward_kinematics_has_them(make, rollout):
    env = make()
    rollout(env, 0, 20)
    model, (q, _, *base) = env.robot.model, env.world.state()
    poses = env.world.link_poses()
    thing = poses.pop("object", None)
    assert set(poses) == set(model.links)
    assert (thing is None) == (env.robot.object is None)
    root = poses[model.root]
    turn = rotation.from_quaternion(root.turn)
    if thing is not None:
        assert np.allclose([*thing.position, *thing.turn], base[0][:7], atol=1e-6)
    elif base:  # the inertial frame, whose place in the link's is the file's
        com = rotation.apply(turn, model.inertial(model.root).com)
        assert np.allclose(np.add(root.position, com), base[0][:3], atol=1e-6)
    for name, pose in poses.items():
        expected = np.add(root.position, rotation.apply(turn, model.chain(name, env.world.joints).position(q)))
        assert np.allclose(pose.position, expected, atol=2e-6), name


def test_links_are_turned_as_their_children_lie(make, rollout):
    """A child's place in its parent's frame turns with the parent, but for what slides."""
    env = make()
    rollout(env, 0, 20)
    model, poses = env.robot.model, env.world.link_poses()
    for joint in model.joints.values():
        parent, child = poses[joint.parent], poses[joint.child]
        arm = rotation.apply(rotation.from_quaternion(parent.turn), joint.origin[:3, 3])
        if joint.kind != "prismatic" or joint.name in env.robot.locked:
            assert np.allclose(np.subtract(child.position, parent.position), arm, atol=2e-6), joint.name


def test_looking_changes_nothing(make, rollout):
    watched, env = make(), make()
    step = watched.step

    def look_and_step(action):
        watched.world.link_poses()
        return step(action)

    watched.step = look_and_step
    assert (rollout(watched, 3, 50) == rollout(env, 3, 50)).all()
