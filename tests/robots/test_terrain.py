"""Stairs and rough ground: their heights by hand, and as each engine has them."""

import hashlib
import subprocess
import sys

import gymnasium as gym
import mujoco
import numpy as np
import pybullet as bullet
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.pybullet_world import PyBulletWorld
from simtoreal.robots.tasks.walk import A1Walk
from simtoreal.robots.terrain import CELL, FLAT, HIGH, LOW, SHAPE, Terrain, shape, terrain

STAIRS = {"ground.step_height": 0.1, "ground.variant": 5.0}
ROUGH = {"ground.roughness": 0.06, "ground.variant": -17.0}
LOW_STAIRS = {"ground.step_height": 0.04, "ground.variant": 5.0}
SLIGHT = {"ground.roughness": 0.02, "ground.variant": -17.0}
BOTH = {"ground.roughness": 0.03, "ground.step_height": 0.12, "ground.variant": 208.0}
DIGEST = """
import hashlib
from simtoreal.robots.terrain import Terrain
print(hashlib.sha256(Terrain((0.04, 0.1, 12)).heights.tobytes()).hexdigest())
"""


@pytest.fixture(params=[PyBulletWorld, MuJoCoWorld])
def standing(request):
    """An A1 under its drive, put down somewhere on some ground, 1.5 s later."""
    made = []

    def build(values, place):
        world = request.param(catalog.a1(), A1Walk.physics_dt)
        made.append(world)
        world.apply({p.name: p.nominal for p in world.parameters} | values)
        stand = list(A1Walk.legs.stand)
        z = A1Walk.legs.height + highest(world, *place)
        world.reset(stand, [0.0] * 12, (*place, z, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
        state = world.state()
        for _ in range(750):
            torque = [60.0 * (s - q) - 2.0 * v for s, q, v in zip(stand, state[0], state[1], strict=True)]
            state = world.step(torque)
        return world

    yield build
    for world in made:
        world.close()


def probe(world, x, y):
    """The height of what a ray from above meets."""
    if isinstance(world, PyBulletWorld):
        hit = bullet.rayTest([x, y, 3.0], [x, y, -3.0], physicsClientId=world._client)[0]
        return hit[3][2]
    static = np.array([1, 0, 0, 0, 0, 0], np.uint8)
    start, down = np.array([x, y, 3.0]), np.array([0.0, 0.0, -1.0])
    return 3.0 - mujoco.mj_ray(world._model, world._data, start, down, static, 1, -1, np.zeros(1, np.int32))


def highest(world, x, y):
    """Of the ground below an A1's legs."""
    span = np.linspace(-0.3, 0.3, 25)
    return max(world.ground_height(x + dx, y + dy) for dx in span for dy in span)


def column(x):
    return round((x - LOW[0]) / CELL)


def test_stairs_by_hand():
    """Up three and down three outwards from the landing, treads of 30 cm, the same on all sides."""
    heights = Terrain((0.0, 0.1, 5)).heights
    middle = round(-LOW[1] / CELL)
    ahead = np.round(heights[middle, column(0.0) :] / 0.1).astype(int).tolist()
    assert heights[middle, column(0.0) :] == pytest.approx(0.1 * np.array(ahead))
    runs = [(ahead[0], 0)]
    for level in ahead:
        runs = [*runs[:-1], (level, runs[-1][1] + 1)] if level == runs[-1][0] else [*runs, (level, 1)]
    assert [level for level, _ in runs[:9]] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert all(length == round(0.3 / CELL) for _, length in runs[1:8])
    assert 0.5 <= CELL * (runs[0][1] - 1) < 0.85  # the landing, to a cell
    assert (heights == heights[::-1]).all()
    behind = heights[middle, : column(0.0) + 1][::-1]
    assert (behind == heights[middle, column(0.0) :][: len(behind)]).all()
    assert (heights[middle:, column(0.0)] == heights[middle, column(0.0) :][: SHAPE[1] - middle]).all()


def test_bumps_by_hand():
    """Drawn every 20 cm, evenly between -r and r, linear between; none on the landing; no two variants alike."""
    r = 0.06
    heights = Terrain((r, 0.0, 9)).heights
    x, y = (np.arange(n) * CELL + low for n, low in zip(SHAPE, LOW, strict=True))
    landing = np.maximum(abs(x)[None], abs(y)[:, None]) <= 0.5
    assert (heights[landing] == 0.0).all()
    assert np.abs(heights).max() <= r
    far = np.maximum(abs(x)[None], abs(y)[:, None]) > 0.85
    drawn = heights[::4, ::4][far[::4, ::4]]
    assert drawn.size > 3000
    assert drawn.mean() == pytest.approx(0.0, abs=0.05 * r)
    assert drawn.std() == pytest.approx(r / 3**0.5, rel=0.03)  # of an even distribution
    row = heights[0]
    assert row[2::4] == pytest.approx((row[:-2:4] + row[4::4]) / 2.0)
    assert np.abs(Terrain((r, 0.0, 10)).heights - heights).max() > r
    assert Terrain((0.5 * r, 0.0, 9)).heights == pytest.approx(0.5 * heights)


def test_negative_variants_are_mirror_images():
    assert (Terrain((0.05, 0.1, -4)).heights == Terrain((0.05, 0.1, 4)).heights[::-1]).all()
    assert (Terrain((0.05, 0.1, 0)).heights == Terrain((0.05, 0.1, 0)).heights[::-1]).all()
    assert (Terrain((0.05, 0.1, 4)).heights != Terrain((0.05, 0.1, 4)).heights[::-1]).any()


def test_flat_ground_is_flat_whatever_its_variant():
    assert shape(0.0, 0.0, 700.9) == FLAT
    assert shape(0.01, 0.0, -7.9) == (0.01, 0.0, -7)
    assert terrain(*FLAT) is None


def test_the_same_numbers_are_the_same_ground_in_any_process():
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(Terrain((0.04, 0.1, 12)).heights.tobytes()).hexdigest()


@pytest.mark.parametrize("engine", [PyBulletWorld, MuJoCoWorld])
def test_rays_meet_the_ground_where_it_is_said_to_be(engine):
    """One ground after the other, each triangle where it should be; beyond the grid the ground is flat."""
    world = engine(catalog.a1(), 0.002)
    nominal = {p.name: p.nominal for p in world.parameters}
    rng = np.random.default_rng(0)
    for values in (STAIRS, ROUGH, {}, BOTH):
        world.apply(nominal | values)
        world.reset(A1Walk.legs.stand, [0.0] * 12, (0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
        assert world.read_back() == nominal | values
        inside = rng.uniform(np.add(LOW, 0.01), np.subtract(HIGH, 0.01), (300, 2))
        for x, y in [*inside, (11.0, 0.0), (0.0, -7.0), (-5.0, 7.0)]:
            assert probe(world, x, y) == pytest.approx(world.ground_height(x, y), abs=1e-6)
        if values:
            assert world.ground_height(11.0, 0.0) == pytest.approx(world.terrain.heights.min() - 0.01)
    world.close()


@pytest.mark.parametrize(
    ("values", "place"), [(LOW_STAIRS, (2.33, 0.0)), (LOW_STAIRS, (0.0, -3.0)), (SLIGHT, (3.0, 1.0))]
)
def test_it_stands_on_what_is_there(values, place, standing):
    """Every foot that touches is as high as the ground near it, and most feet do."""
    world = standing(values, place)
    feet = world.feet()
    assert sum(feet.contact) >= 3
    r = A1Walk.legs.foot_radius
    for touches, (x, y, z) in zip(feet.contact, feet.position, strict=True):
        near = [world.ground_height(x + dx, y + dy) for dx in (-r, 0.0, r) for dy in (-r, 0.0, r)]
        assert not touches or min(near) - 0.001 < z - r < max(near) + 0.001
    assert not feet.other_contact
    x, y, z = world.state()[2][:3]
    assert z - world.ground_height(x, y) == pytest.approx(A1Walk.legs.height, abs=0.03)


def test_both_engines_agree_on_where_it_stands():
    """On the landing: as high as on flat ground, to a millimetre, in either engine."""
    heights = {}
    for engine in ("pybullet", "mujoco"):
        env = gym.make("simtoreal/A1Walk-v0", engine=engine).unwrapped
        env.reset(seed=0, options={"parameters": STAIRS})
        for _ in range(50):
            env.step(np.zeros(12, np.float32))
        heights[engine] = env.world.state()[2][2]
        env.reset(seed=0)
        for _ in range(50):
            env.step(np.zeros(12, np.float32))
        assert heights[engine] == pytest.approx(env.world.state()[2][2], abs=1e-3)  # the landing is flat
        env.close()
    assert heights["pybullet"] == pytest.approx(heights["mujoco"], abs=1e-3)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
@pytest.mark.parametrize("task", ["A1Walk", "RacecarPath"])
def test_nothing_of_it_outlives_its_episode(task, engine, monkeypatch):
    """Flat ground after it is flat ground before it, bit for bit; so is the ground after another one, and after
    physics that broke."""
    if task == "A1Walk":  # begin beyond the landing
        monkeypatch.setattr(A1Walk, "start", begins_at(A1Walk.start, 1.5))
    env = gym.make(f"simtoreal/{task}-v0", engine=engine).unwrapped

    def walk(values):
        env.reset(seed=3, options={"parameters": values})
        return np.array([env.step(np.zeros(env.action_space.shape, np.float32))[0] for _ in range(40)])

    flat, stairs, rough = walk({}), walk(STAIRS), walk(ROUGH)
    if task == "A1Walk":
        assert (flat != stairs).any()
        assert (flat != rough).any()
    assert (walk({}) == flat).all()
    assert (walk(ROUGH) == rough).all()
    assert (walk(STAIRS) == stairs).all()
    env.world.reload()
    assert (walk(STAIRS) == stairs).all()
    assert (walk({}) == flat).all()
    env.close()


def begins_at(start, x):
    def begin(self, rng):
        found = start(self, rng)
        z = highest(self.world, x, 0.0)
        return type(found)(found.position, found.velocity, found.command, (x, 0.0, found.base[2] + z, *found.base[3:]))

    return begin


def test_heights_are_counted_from_the_ground(monkeypatch):
    """Of base and feet, as the reward and the end of an episode have them."""
    monkeypatch.setattr(A1Walk, "start", begins_at(A1Walk.start, 1.5))
    env = gym.make("simtoreal/A1Walk-v0").unwrapped
    env.reset(seed=0, options={"parameters": STAIRS | {"ground.step_height": 0.15}})
    for _ in range(25):
        env.step(np.zeros(12, np.float32))
    signals = env.signals(env.world.state())
    base = env.world.state()[2]
    assert signals["base_height"][0] == pytest.approx(base[2] - env.world.ground_height(base[0], base[1]))
    for clearance, (x, y, z) in zip(signals["foot_clearance"], env.world.feet().position, strict=True):
        assert clearance == pytest.approx(z - 0.02 - env.world.ground_height(x, y))
    assert base[2] - signals["base_height"][0] > 0.29
    env.close()


def test_a_robot_that_never_touches_the_ground_has_none_of_it():
    env = gym.make("simtoreal/QuadrotorHover-v0")
    assert not [name for name in env.unwrapped.parameters if name.startswith("ground.")]
    env.close()
