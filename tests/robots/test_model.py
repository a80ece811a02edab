"""URDFs as data: what is refused, what an engine is given, and forward kinematics against PyBullet's."""

import os
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pybullet as bullet
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.engines import make_world
from simtoreal.robots.model import Inertial, ModelError, RobotModel, rotation_rpy

INERTIA = '<inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/>'
LINK = '<link name="{}"><inertial><mass value="1"/>' + INERTIA + "</inertial></link>"
MASS = '<link name="b"><inertial><mass value="{}"/></inertial></link>'
JOINT = '<joint name="{0}{1}" type="revolute"><parent link="{0}"/><child link="{1}"/><axis xyz="0 0 1"/></joint>'


def urdf(tmp_path, links, joints, extra=""):
    path = tmp_path / "robot.urdf"
    body = "".join(LINK.format(name) for name in links) + "".join(JOINT.format(*ends) for ends in joints)
    path.write_text(f'<robot name="r">{body}{extra}</robot>')
    return path


def test_a_sound_file_is_read(tmp_path):
    model = RobotModel(urdf(tmp_path, "abc", ["ab", "bc"]))
    assert list(model.links) == ["a", "b", "c"]
    assert model.links["b"].mass == 1.0
    assert [(j.parent, j.child) for j in model.joints.values()] == [("a", "b"), ("b", "c")]
    assert model.joints["bc"].axis == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("links", "joints", "extra", "says"),
    [
        ("ab", [], "", "one root link, this has 2: a, b"),
        ("ab", ["ab", "ba"], "", "one root link, this has 0"),
        ("abc", ["bc", "cb"], "", "loop.*b, c"),
        ("abc", ["ab", "bc", "ac"], "", "link c has two parents: joints bc and ac"),
        ("ab", ["ax"], "", "child link 'x' is not in the file"),
        ("a", [], MASS.format("-1"), "link b: mass -1.0 kg is negative"),
        (
            "a",
            [],
            MASS.format("nan"),
            "link b: value='nan' is not finite",
        ),
        ("a", [], MASS.format("x"), "link b: value='x' is not a list"),
        (
            "a",
            [],
            MASS.format(""),
            "link b: value='' should be 1 numbers",
        ),
        (
            "ab",
            [],
            '<joint name="j" type="revolute"><parent link="a"/><child link="b"/><axis xyz="0 0 0"/></joint>',
            "joint j: axis is zero",
        ),
        (
            "ab",
            [],
            '<joint name="j" type="fixed"><parent link="a"/><child link="b"/><origin xyz="0 0"/></joint>',
            "joint j: xyz='0 0' should be 3 numbers",
        ),
    ],
)
def test_a_broken_file_names_its_element(tmp_path, links, joints, extra, says):
    with pytest.raises(ModelError, match=says):
        RobotModel(urdf(tmp_path, links, joints, extra))


@pytest.mark.parametrize(
    "text",
    [
        "",
        '<robot name="r"><link name="a">',
        '<!DOCTYPE robot [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><robot name="&b;"><link name="a"/></robot>',
        '<!DOCTYPE robot [<!ENTITY x SYSTEM "file:///etc/hostname">]><robot name="r"><link name="&x;"/></robot>',
    ],
)
def test_what_is_not_plain_xml_is_refused(tmp_path, text):
    path = tmp_path / "robot.urdf"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"robot\.urdf"):
        RobotModel(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"missing\.urdf: no such robot file"):
        RobotModel(tmp_path / "missing.urdf")


@pytest.mark.parametrize(
    "mesh",
    ["../outside.obj", "/etc/hostname", "package://other/x.obj", "package://../outside.obj", "link.obj", "x" * 300],
)
def test_a_mesh_lies_beside_the_urdf(tmp_path, mesh):
    """`link.obj` is a link to a file outside."""
    home = tmp_path / "robot"
    home.mkdir()
    (tmp_path / "outside.obj").write_text("o")
    (home / "link.obj").symlink_to(tmp_path / "outside.obj")
    extra = f'<link name="b"><visual><geometry><mesh filename="{mesh}"/></geometry></visual></link>' + JOINT.format(
        *"ab"
    )
    with pytest.raises(ModelError, match=r"is not a file in .*robot$|is in no folder (other|..) above or beside"):
        RobotModel(urdf(home, "a", [], extra)).resolved()


def test_contacts_are_alike_in_every_engine(tmp_path):
    """Of what Bullet alone reads of a link's contacts, friction is left: MuJoCo's world has that too."""
    only_bullet = "<stiffness value='3e4'/><damping value='1e3'/><friction_anchor/><spinning_friction value='.1'/>"
    soft = f"<contact><lateral_friction value='0.7'/>{only_bullet}</contact>"
    path = urdf(tmp_path, "a", [], f'<link name="b">{soft}</link>' + JOINT.format(*"ab"))
    model = RobotModel(path)
    assert model.links["b"].friction == 0.7
    (contact,) = ElementTree.fromstring(model.resolved()).iter("contact")
    assert [child.tag for child in contact] == ["lateral_friction"]


def test_the_engine_gets_what_was_asked_for(tmp_path):
    path = urdf(tmp_path, "abc", ["ab", "bc"])
    heavy = Inertial(7.0, (0.1, 0.0, 0.0), (1.0, 2.0, 2.5, 0.0, 0.0, 0.0))
    text = RobotModel(path).resolved(lock=["ab"], inertials={"b": heavy}, ballast={"c_ballast": ("c", (0.0, 0.0, 0.5))})
    out = tmp_path / "resolved.urdf"
    out.write_text(text)
    model = RobotModel(out)
    assert model.joints["ab"].kind == "fixed"
    assert model.joints["bc"].kind == "revolute"
    assert model.links["b"].mass == 7.0
    assert model.links["c_ballast"].mass == 0.0
    assert model.chain("c_ballast", ["bc"]).position([0.3]) == pytest.approx((0.0, 0.0, 0.5))


def test_an_unknown_link_is_answered_with_the_links(tmp_path):
    with pytest.raises(ModelError, match="no link 'foream'; links: a, b"):
        RobotModel(urdf(tmp_path, "ab", ["ab"])).chain("foream", [])


def test_roll_pitch_yaw_turns_about_fixed_axes():
    """x to z by a pitch of -90 degrees, and a roll of 90 degrees first takes y there before pitch leaves it alone."""
    assert rotation_rpy(0.0, -np.pi / 2, 0.0) @ [1, 0, 0] == pytest.approx([0, 0, 1], abs=1e-12)
    assert rotation_rpy(np.pi / 2, 0.0, np.pi / 2) @ [0, 1, 0] == pytest.approx([0, 0, 1], abs=1e-12)
    quaternion = bullet.getQuaternionFromEuler([0.3, -0.7, 1.9])
    theirs = np.reshape(bullet.getMatrixFromQuaternion(quaternion), (3, 3))
    assert rotation_rpy(0.3, -0.7, 1.9) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("robot", [catalog.panda(), catalog.cartpole()], ids=lambda robot: robot.name)
def test_forward_kinematics_are_pybullet_s(robot):
    client = bullet.connect(bullet.DIRECT)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file:
            file.write(robot.model.resolved(lock=robot.locked, visuals=False))
            file.flush()
            body = bullet.loadURDF(file.name, useFixedBase=True, physicsClientId=client)
        infos = [bullet.getJointInfo(body, i, client) for i in range(bullet.getNumJoints(body, client))]
        moving = [info for info in infos if info[2] != bullet.JOINT_FIXED]
        rng = np.random.default_rng(1)
        for _ in range(5):
            q = rng.uniform(-1.5, 1.5, len(moving)).tolist()
            for info, x in zip(moving, q, strict=True):
                bullet.resetJointState(body, info[0], x, 0.0, client)
            for info in infos:
                chain = robot.model.chain(info[12].decode(), [m[1].decode() for m in moving])
                state = bullet.getLinkState(body, info[0], computeForwardKinematics=True, physicsClientId=client)
                assert chain.position(q) == pytest.approx(state[4], abs=1e-6), info[12]
    finally:
        bullet.disconnect(client)


def test_a_file_of_one_long_line_is_read_as_it_is(tmp_path):
    """PyBullet reads lines of more than 8 KB in pieces, and cuts what lies between them in two."""
    places = [(0.001 * i, -0.0625, 0.25) for i in range(60)]
    links = [f"part_{i}" for i in range(61)]
    joints = "".join(
        f'<joint name="joint_{i}" type="revolute"><origin xyz="{x} {y} {z}" rpy="0 0 0"/><parent link="part_{i}"/>'
        f'<child link="part_{i + 1}"/><axis xyz="0 0 1"/><limit lower="-1" upper="1" effort="9" velocity="9"/></joint>'
        for i, (x, y, z) in enumerate(places)
    )
    path = urdf(tmp_path, links, [], joints)
    drag = {f"joint_{i}": catalog.Drag(0.0, 1.0, 0.0, 1.0) for i in range(60)}
    for name in ("r", "r" * 100, "r" * 150):  # where the pieces begin
        path.write_text(path.read_text().replace('<robot name="r', f'<robot name="{name}'))
        world = make_world("pybullet", catalog.Robot("long", path, drag), 0.002)
        world.reset((0.0,) * 60, (0.0,) * 60)
        poses = world.link_poses()
        world.close()
        assert poses["part_60"].position == pytest.approx(np.sum(places, axis=0), abs=1e-6)


def test_a_chain_counts_joints_by_name_and_not_by_place():
    model = catalog.panda().model
    q = [0.1, -0.4, 0.2, -2.0, 0.1, 1.6, 0.5]
    there = model.chain("panda_hand", catalog.PANDA_JOINTS).position(q)
    assert model.chain("panda_hand", catalog.PANDA_JOINTS[::-1]).position(q[::-1]) == pytest.approx(there)


def test_our_assets_have_the_inertias_of_their_boxes():
    """m (a^2 + b^2) / 12 for each axis of a solid box."""
    root = ElementTree.parse(catalog.cartpole().urdf).getroot()
    for name, mass, (x, y, z) in (("cart", 1.0, (0.3, 0.2, 0.14)), ("pole", 0.1, (0.04, 0.04, 1.0))):
        inertia = root.find(f"link[@name='{name}']/inertial/inertia")
        boxes = [mass / 12 * s for s in (y * y + z * z, x * x + z * z, x * x + y * y)]
        assert [float(inertia.get(key)) for key in ("ixx", "iyy", "izz")] == pytest.approx(boxes, rel=2e-3)


def test_a_pipe_is_no_robot_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "robot.urdf")
    for path in (tmp_path / "robot.urdf", Path("/dev/zero")):
        with pytest.raises(ModelError, match="no regular file"):
            RobotModel(path)
