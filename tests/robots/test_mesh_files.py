"""Collada files, as makers of robots publish them: in both engines the same shape."""

import re

import numpy as np
import pytest
import trimesh

from simtoreal.robots.catalog import Robot
from simtoreal.robots.engines import make_world
from simtoreal.robots.mesh_files import surfaces
from simtoreal.robots.model import ModelError
from simtoreal.robots.world import FIELD_OF_VIEW, Camera

HALF = (0.2, 0.1, 0.15)  # [m] of a box whose file counts in centimetres
URDF = """<robot name="box"><link name="body">
  <inertial><mass value="1"/><inertia ixx=".01" iyy=".01" izz=".01" ixy="0" ixz="0" iyz="0"/></inertial>
  <visual><geometry><mesh filename="box.dae"/></geometry></visual>
  <collision><geometry><mesh filename="box.dae"/></geometry></collision>
</link></robot>"""


GREEN = '</geometry><material name="g"><color rgba="0 0.8 0 1"/></material></visual>'


def is_green(image):
    """Which pixels are."""
    red, green, blue = np.moveaxis(image.astype(int), 2, 0)
    return (green > red + 40) & (green > blue + 40)


def collada(half, unit=0.01, up="Y_UP"):
    """A box, by hand."""
    box = trimesh.creation.box(extents=2.0 * np.array(half) / unit)
    points, normals, corners = (" ".join(map(str, a.ravel())) for a in (box.vertices, box.vertex_normals, box.faces))
    access = '<technique_common><accessor source="#{0}" count="8" stride="3">' + "".join(
        f'<param name="{axis}" type="float"/>' for axis in "XYZ"
    )
    access += "</accessor></technique_common>"
    return f"""<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
  <asset><unit name="u" meter="{unit}"/><up_axis>{up}</up_axis></asset>
  <library_geometries><geometry id="g"><mesh>
    <source id="p"><float_array id="pa" count="24">{points}</float_array>{access.format("pa")}</source>
    <source id="q"><float_array id="qa" count="24">{normals}</float_array>{access.format("qa")}</source>
    <vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
    <triangles count="12"><input semantic="VERTEX" source="#v" offset="0"/>
      <input semantic="NORMAL" source="#q" offset="0"/><p>{corners}</p></triangles>
  </mesh></geometry></library_geometries>
  <library_visual_scenes><visual_scene id="s"><node id="n"><instance_geometry url="#g"/></node></visual_scene>
  </library_visual_scenes>
  <scene><instance_visual_scene url="#s"/></scene>
</COLLADA>"""


@pytest.fixture
def box(tmp_path):
    (tmp_path / "box.dae").write_text(collada(HALF))
    (tmp_path / "box.urdf").write_text(URDF)
    return Robot("box", tmp_path / "box.urdf", {}, floating=True)


def test_units_are_heeded_and_axes_are_not_turned(box):
    (part,) = surfaces(box.urdf.with_name("box.dae"))
    assert part.bounds == pytest.approx(np.array([np.negative(HALF), HALF]))


@pytest.mark.parametrize("engine", ["pybullet", "mujoco", "mujoco-shipped"])
def test_it_lies_as_high_as_its_shape_is(box, engine):
    world = make_world(engine, box, 0.002)
    world.apply({p.name: p.nominal for p in world.parameters})
    world.reset((), (), (0.0, 0.0, HALF[2] + 0.05, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    for _ in range(1000):
        height = world.step(())[2][2]
    world.close()
    assert height == pytest.approx(HALF[2], abs=3e-3)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_all_objects_of_an_obj_count(tmp_path, engine):
    """It lies on the lower one of two, whichever comes first in the file, and both are seen."""
    lines, first = [], 1
    for number, (height, half) in enumerate(((0.0, 0.1), (-0.2, 0.1), (0.2, 0.05))):
        box = trimesh.creation.box(extents=[2.0 * half] * 3)
        lines += [f"o part{number}", f"usemtl m{number}"]
        lines += [f"v {x} {y} {z + height}" for x, y, z in box.vertices.tolist()]
        lines += ["vn 0 0 1", *(f"f {a + first}//1 {b + first}//1 {c + first}//1" for a, b, c in box.faces.tolist())]
        first += len(box.vertices)
    (tmp_path / "parts.obj").write_text("\n".join(lines))
    (tmp_path / "box.urdf").write_text(URDF.replace("box.dae", "parts.obj").replace("</geometry></visual>", GREEN))
    world = make_world(engine, Robot("box", tmp_path / "box.urdf", {}, floating=True), 0.002, rendering=True)
    world.apply({p.name: p.nominal for p in world.parameters})
    world.reset((), (), (0.0, 0.0, 0.35, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    for _ in range(1000):
        height = world.step(())[2][2]
    assert height == pytest.approx(0.3, abs=3e-3)
    rows = np.flatnonzero(is_green(world.render(Camera((0.0, 0.0, 0.3), 1.5, 0.0, 0.0, 120, 120))).any(1))
    world.close()
    assert rows.max() - rows.min() == pytest.approx(
        120 * 0.55 / (2 * 1.5 * np.tan(np.radians(FIELD_OF_VIEW / 2))), abs=5
    )


def test_a_camera_sees_what_is_there_to_be_seen(box):
    """In MuJoCo, too, whose pictures would show the larger shape that touches around it."""
    larger = '<collision><geometry><box size="0.5 0.3 0.4"/></geometry></collision>'
    box.urdf.write_text(re.sub("<collision>.*</collision>", larger, URDF).replace("</geometry></visual>", GREEN))
    shares = []
    for engine in ("pybullet", "mujoco"):
        world = make_world(engine, Robot("box", box.urdf, {}, floating=True), 0.002, rendering=True)
        world.reset((), (), (0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
        shares.append(is_green(world.render(Camera((0.0, 0.0, 0.5), 1.5, 30.0, -20.0, 160, 120))).mean())
        world.close()
    assert shares[0] > 0.02
    assert shares[1] == pytest.approx(shares[0], rel=0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<COLLADA", "unclosed|no element|not well-formed"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]>" + collada(HALF).partition("?>")[2], "DTD"),
        (collada(HALF).replace("#g", "#w"), "holds no surface"),
        ("<COLLADA/>", "."),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, words):
    (tmp_path / "box.dae").write_text(text)
    with pytest.raises(ModelError, match=rf"box\.dae: .*({words})"):
        surfaces(tmp_path / "box.dae")
