"""What a robot file is told of: numbers by hand, and each kind of fault with its element."""

import struct

import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.inspection import inspect_robot, principal_moments
from simtoreal.robots.model import Inertial, ModelError, RobotModel, possible, rotation_rpy
from simtoreal.robots.shapes import meshes, reach

BOX = '<collision><geometry><box size="0.4 0.2 0.1"/></geometry></collision>'
GOOD = '<mass value="2"/><inertia ixx="0.00833" iyy="0.02833" izz="0.03333" ixy="0" ixz="0" iyz="0"/>'  # of that box
LIMIT = '<limit lower="-1" upper="1" effort="10" velocity="5"/>'


def arm(inertial=GOOD, shape=BOX, joint=LIMIT, kind="revolute", more="", base=GOOD):
    """A base and an arm that turns about y."""
    inside = f"<inertial>{inertial}</inertial>" if inertial else ""
    return (
        f'<robot name="r"><link name="base"><inertial>{base}</inertial></link><link name="arm">{inside}{shape}</link>'
        f'<joint name="j" type="{kind}"><parent link="base"/><child link="arm"/><axis xyz="0 1 0"/>{joint}</joint>'
        f"{more}</robot>"
    )


@pytest.fixture
def inspected(tmp_path):
    def look(text):
        path = tmp_path / "robot.urdf"
        path.write_text(text)
        return inspect_robot(path)

    return look


def test_a_mimic_of_a_joint_that_is_there_is_no_error(inspected):
    other = "".join(
        (
            '<link name="hand"><inertial>',
            GOOD,
            '</inertial></link><joint name="k" type="revolute"><parent link="arm"/>',
            '<child link="hand"/><axis xyz="0 1 0"/>',
            LIMIT,
            '<mimic joint="j"/></joint>',
        )
    )
    (problem,) = inspected(arm(more=other)).problems
    assert (problem.severity, problem.element) == ("warning", "joint k")
    assert "mimics j; here it is a joint of its own: lock it" in problem.text


def test_a_sound_robot_has_no_problem(inspected):
    found = inspected(arm())
    assert (found.root, found.mass, found.usable, found.problems) == ("base", 4.0, True, ())
    (link,) = [link for link in found.links if link.name == "arm"]
    assert link.principal == pytest.approx((0.00833, 0.02833, 0.03333))
    assert link.collisions == 1
    (joint,) = found.joints
    assert (joint.lower, joint.upper, joint.effort, joint.velocity, joint.unit) == (-1.0, 1.0, 10.0, 5.0, "rad")
    json = found.to_json()
    assert json["joints"][0]["axis"] == (0.0, 1.0, 0.0)
    assert json["usable"] is True


@pytest.mark.parametrize(
    ("options", "severity", "element", "words"),
    [
        ({"inertial": ""}, "error", "link arm", "has no inertial; PyBullet would take 1 kg"),
        ({"inertial": GOOD.replace("2", "0", 1)}, "error", "link arm", "neither it nor what is fixed to it has a mass"),
        ({"inertial": GOOD.replace("0.00833", "-1")}, "error", "link arm", "inertia is not positive"),
        ({"inertial": GOOD.replace("0.03333", "0.05")}, "error", "link arm", "inertia of no real body: the largest"),
        (
            {"inertial": GOOD.replace("0.00833", "1").replace("0.02833", "1").replace("0.03333", "1")},
            "warning", "link arm", "1 kg m^2 of 2 kg lie 0.707 m away, its shape ends at 0.229 m",
        ),
        (
            {"inertial": GOOD.replace("0.00833", "1e-6").replace("0.02833", "1e-6").replace("0.03333", "1e-6")},
            "warning", "link arm", "inertia too small for its shape",
        ),
        ({"joint": LIMIT.replace("-1", "1")}, "error", "joint j", "no room to move: its limits are from 1 to 1 rad"),
        ({"joint": '<limit effort="1" velocity="1"/>'}, "error", "joint j", "its limits are from 0 to 0 rad"),
        ({"joint": LIMIT.replace("10", "0")}, "warning", "joint j", "effort limit is 0: as an actuator it cannot be"),
        ({"joint": LIMIT.replace("5", "0")}, "warning", "joint j", "velocity limit is 0"),
        ({"kind": "floating"}, "error", "joint j", "of type floating; usable are revolute, continuous, prismatic and"),
        ({"joint": LIMIT + '<mimic joint="k"/>'}, "error", "joint j", "mimics k, and there is no such joint"),
        ({"shape": BOX.replace('<box size="0.4 0.2 0.1"/>', "")}, "error", "link arm", "its collision has no shape"),
        (
            {"shape": BOX.replace("<box", '<sphere radius="1"/><box')},
            "warning", "link arm", "its collision has 2 shapes, of which engines take the first",
        ),
        ({"shape": BOX.replace("box", "cone")}, "error", "link arm", "its collision is a cone, which is none of box, "),
        ({"shape": BOX.replace("size", "sise")}, "error", "link arm", "the box of its collision has no size"),
        ({"shape": BOX.replace("0.2", "-0.2")}, "error", "link arm", "the box of its collision has a size of 0.4 -0.2"),
        (
            {"shape": '<collision><geometry><cylinder radius="0" length="1"/></geometry></collision>'},
            "error", "link arm", "the cylinder of its collision has a radius of 0",
        ),
        (
            {"shape": '<visual><geometry><sphere radius="-1"/></geometry></visual>' + BOX},
            "warning", "link arm", "the sphere of its visual has a radius of -1",
        ),
        # 15 N m s/rad over 0.02833 kg m^2 in 2 ms: 1.06
        ({"joint": LIMIT + '<dynamics damping="15"/>'}, "warning", "joint j", "damping 15 N m s/rad is 1.06 times"),
        ({"base": GOOD.replace("2", "4000", 1)}, "warning", "joint j", "connects 4000 kg with 2 kg"),
        (
            {"shape": '<collision><geometry><mesh filename="../arm.stl"/></geometry></collision>'},
            "error", "link arm", "mesh '../arm.stl' is not a file in ",
        ),
        (
            {"shape": '<visual><geometry><mesh filename="package://other/arm.stl"/></geometry></visual>'},
            "error", "link arm", "mesh 'package://other/arm.stl' is in no folder other above or beside",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_element(options, severity, element, words, inspected):
    found = inspected(arm(**options))
    assert [(p.severity, p.element) for p in found.problems] == [(severity, element)], found.problems
    assert words in found.problems[0].text
    assert found.usable == (severity == "warning")


def test_continuous_joints_need_no_limits(inspected):
    found = inspected(arm(joint='<limit effort="1" velocity="1"/>', kind="continuous"))
    assert found.problems == ()


def test_a_massless_link_is_borne_by_what_is_fixed_to_it(inspected):
    flange = (
        f'<link name="tool"><inertial>{GOOD}</inertial></link><joint name="f" type="fixed"><parent link="arm"/>'
        '<child link="tool"/></joint>'
    )
    assert inspected(arm(inertial=GOOD.replace("2", "0", 1), more=flange)).problems == ()


def test_one_inertia_for_all_is_a_placeholder(inspected):
    links = "".join(
        f'<link name="l{i}"><inertial>{GOOD.replace("2", str(i), 1)}</inertial></link><joint name="f{i}" type="fixed">'
        f'<parent link="base"/><child link="l{i}"/></joint>'
        for i in (3, 4)
    )
    (problem,) = inspected(arm(more=links)).problems
    assert problem.element == "links base, arm, l3, l4"
    assert "the very same inertia: a placeholder" in problem.text
    assert "imu" not in str(inspect_robot(catalog.a1().urdf).problems[1:])  # legs that are alike are none


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a usable URDF"),
        (arm()[:200], "not a usable URDF"),
        (arm(more='<link name="alone"/>'), "a robot has one root link, this has 2: base, alone"),
        (arm(more='<link name="arm"/>'), "link arm is there 2 times"),
        (arm(inertial=GOOD.replace("2", "nan", 1)), "link arm: value='nan' is not finite"),
        (arm(inertial=GOOD.replace("2", "-2", 1)), "link arm: mass -2.0 kg is negative"),
        (arm(inertial=GOOD.replace("0.00833", "wide")), "link arm: ixx='wide' is not a list of numbers"),
        ('<!DOCTYPE r [<!ENTITY a "b">]>' + arm(), "not a usable URDF"),
    ],
)
def test_what_is_no_robot_is_refused(text, words, inspected):
    with pytest.raises(ModelError, match=words.replace("[", r"\[")):
        inspected(text)


def test_known_faults_of_shipped_robots_are_found():
    """As measured with Bullet: it sets these links' inertia to zero."""
    data = catalog.pybullet_data()
    for file, links in (
        ("xarm/xarm6_robot.urdf", {"link2", "link3"}),
        ("mini_cheetah/mini_cheetah.urdf", {f"thigh_{leg}" for leg in ("fr", "fl", "hr", "hl")}),
    ):
        errors = {p.element for p in inspect_robot(data / file).problems if "no real body" in p.text}
        assert errors == {f"link {name}" for name in links}
    assert any("placeholder" in p.text for p in inspect_robot(data / "franka_panda/panda.urdf").problems)
    assert inspect_robot(data / "laikago/laikago_toes_zup.urdf").problems == ()


def test_moments_about_axes_are_those_of_the_textbook():
    """A rod of 3 kg and 1 m along x: m L^2 / 12 about its middle, m L^2 / 3 about its end; turned, the same."""
    rod = Inertial(3.0, (0.5, 0.0, 0.0), (0.0, 0.25, 0.25, 0.0, 0.0, 0.0))
    assert rod.about((0.0, 0.0, 1.0)) == pytest.approx(1.0)
    assert rod.about((1.0, 0.0, 0.0)) == pytest.approx(0.0)
    turned = Inertial(3.0, (0.0, 0.0, 0.0), (0.125, 0.125, 0.25, -0.125, 0.0, 0.0))  # by 45 degrees about z
    assert principal_moments(turned) == pytest.approx((0.0, 0.25, 0.25), abs=1e-12)


def test_a_body_that_cannot_be_becomes_one_that_can():
    """A plate of moments 1, 2, 4 about turned axes: its largest moment becomes 3, its axes stay."""
    turn = rotation_rpy(0.3, -0.5, 0.7)
    m = turn @ np.diag([1.0, 2.0, 4.0]) @ turn.T
    body = Inertial(1.0, (0.0, 0.0, 0.0), (m[0, 0], m[1, 1], m[2, 2], m[0, 1], m[0, 2], m[1, 2]))
    xx, yy, zz, xy, xz, yz = possible(body).inertia
    found = turn.T @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ turn
    assert found == pytest.approx(np.diag([1.0, 2.0, 3.0]), abs=1e-5)
    fine = Inertial(1.0, (0.0, 0.0, 0.0), (1.0, 2.0, 2.5, 0.0, 0.0, 0.0))
    assert possible(fine).inertia == pytest.approx(fine.inertia)


def stl(corners):
    facets = b"".join(struct.pack("<12fH", 0, 0, 0, *np.ravel(corners), 0) for _ in range(2))
    return bytes(80) + struct.pack("<I", 2) + facets


@pytest.mark.parametrize(
    ("shape", "name", "data", "expected"),
    [
        ('<sphere radius="0.5"/>', "", b"", np.sqrt(0.5**2 + 0.5**2 + 1.5**2)),  # its square hull
        ('<cylinder radius="0.3" length="2"/>', "", b"", np.sqrt(0.09 + 0.09 + 4)),
        ('<capsule radius="0.3" length="2"/>', "", b"", np.sqrt(0.09 + 0.09 + 2.3**2)),
        ('<mesh filename="m.stl" scale="2 1 1"/>', "m.stl", stl([[1, 0, 0], [0, 1, 0], [0, 0, 0]]), np.sqrt(5)),
        ('<mesh filename="m.obj"/>', "m.obj", b"# two\nv 0 3 0\nv 0 0 -1\nf 1 2 1\n", np.sqrt(10)),
        ('<mesh filename="m.obj"/>', "m.obj", b"v nonsense\n", None),
        ('<mesh filename="m.stl"/>', "m.stl", b"solid ascii", None),
        ('<mesh filename="m.dae"/>', "m.dae", b"<xml/>", None),
    ],
)
def test_how_far_a_shape_reaches(shape, name, data, expected, tmp_path):
    """From a point 1 m below the middle of a shape that lies 1 m above another point: measured from the origin."""
    if name:
        (tmp_path / name).write_bytes(data)
    origin = '<origin xyz="0 0 1"/>'
    path = tmp_path / "robot.urdf"
    path.write_text(arm(shape=f"<collision>{origin}<geometry>{shape}</geometry></collision>"))
    model = RobotModel(path)
    found = reach(model, "arm", (0.0, 0.0, 0.0))
    assert (found is None) if expected is None else found == pytest.approx(expected)
    assert [mesh.path is not None for mesh in meshes(model)] == ([True] if name else [])
