"""Textures: where each spot of a pattern shows and how bright, and that nothing of one outlives its episode."""

import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.engines import make_world
from simtoreal.robots.patterns import PATTERNS, SIDE, STEPS, Texture, brightened, pattern, pixels
from simtoreal.robots.tasks.pixels import PixelCartPoleRGB
from simtoreal.robots.world import WALL_HALF, WALL_PLACE, Camera

CLOSE = Camera(target=(0.0, 0.0, 0.5), distance=1.7, yaw=0.0, pitch=0.0, width=84, height=84)
BEHIND = WALL_PLACE[1] - WALL_HALF[1]  # [m] along y, of the wall's front
WHOLE = Camera((WALL_PLACE[0], BEHIND, WALL_PLACE[2]), distance=7.0, yaw=0.0, pitch=0.0, width=320, height=240)
METRE = 120.0 / np.tan(np.radians(25.0)) / 7.0  # [pixels] on the wall, of 240 that see 50 degrees
BRIGHT = {f"wall.colour.{channel}": 0.4 for channel in ("red", "green", "blue")}  # with its own 0.45
FRONT = np.s_[64:69, 36:48]  # the cart's
CHECKER, GRADIENT, NOISE, LARGE = 0, 4, 5, 21  # of 8 and, the last, of 2 fields a side


@pytest.fixture
def env(engine):
    env = PixelCartPoleRGB(engine=engine)
    yield env
    env.close()


def textured(contrast, variant, *names):
    """Parameters of things, else of the wall."""
    of = {"contrast": contrast, "variant": variant}
    return {f"{name}.texture.{part}": value for name in names or ("wall",) for part, value in of.items()}


def shown(env, parameters=None, view=CLOSE):
    """[height, width, 3] of a cart in the middle and a pole upright."""
    env.reset(seed=0, options={"parameters": parameters or {}})
    env.world.reset([0.0, 0.0], [0.0, 0.0])
    return env.world.render(view).astype(int)


def on_the_wall():
    """[240, 320] each: rows and columns of a pattern that a pinhole shows there, and where nothing is before the wall
    and a pixel is farther than a seventh of a spot from the next one."""
    across, down = np.meshgrid((np.arange(320) - 159.5) / METRE, (np.arange(240) - 119.5) / METRE)
    u, v = ((0.5 + place / (2 * half)) * SIDE for place, half in ((across, WALL_HALF[0]), (down, WALL_HALF[2])))
    clear = (u > 0) & (u < SIDE) & (v > 0) & (v < SIDE)
    clear &= (abs(u % 1 - 0.5) < 0.36) & (abs(v % 1 - 0.5) < 0.36)
    clear &= (abs(across) > 0.4) & ((down < -0.1) | (down > 1.2))  # the pole, the cart and the rail
    return np.clip(v, 0, SIDE - 1).astype(int), np.clip(u, 0, SIDE - 1).astype(int), clear


@pytest.mark.parametrize("variant", [CHECKER, GRADIENT, NOISE, LARGE])
@pytest.mark.parametrize("contrast", [0.3, 1.0])
def test_each_spot_shows_where_a_pinhole_puts_it_as_bright_as_the_contrast_says(env, contrast, variant):
    plain = shown(env, BRIGHT, WHOLE)
    share = (shown(env, BRIGHT | textured(contrast, variant), WHOLE) / plain.clip(1)).mean(axis=-1)
    rows, columns, clear = on_the_wall()
    expected = 1.0 + contrast * pattern(variant)
    assert np.quantile(abs(share - expected[rows, columns])[clear], 0.99) < 0.04  # 2 of 60 brightnesses
    wall = (plain > 0).all(axis=-1) & (plain < 200).all(axis=-1)  # not the sky
    assert share[wall].mean() == pytest.approx(1.0, abs=0.02)
    assert share[wall].std() == pytest.approx(contrast * pattern(variant).std(), rel=0.15)


def test_the_colours_of_a_checker_of_half_contrast_are_three_to_one():
    """1.5 and 0.5 of a colour, whose mean it is."""
    checker = Texture(STEPS // 2, CHECKER)
    assert np.unique(pixels(checker)).tolist() == [85, 255]
    assert brightened([0.6, 0.3, 0.0], checker) == pytest.approx([0.9, 0.45, 0.0])
    assert brightened([0.8, 0.4, 0.2], checker) == pytest.approx([1.0, 0.5, 0.25]), "as bright as it can be, in its hue"
    assert brightened([0.8, 0.4, 0.2], Texture()) == [0.8, 0.4, 0.2]


def test_without_contrast_every_pixel_is_as_it_was(env):
    plain = shown(env)
    for contrast in (0.0, 0.049):
        assert (shown(env, textured(contrast, 7, *env.world.looks.names)) == plain).all()
    assert env.read_parameters()["link.cart.texture.variant"] == 7


def test_each_thing_has_its_texture(env):
    plain, found = shown(env), shown(env, textured(1.0, LARGE, "link.cart"))
    assert (found[FRONT] > plain[FRONT] + 20).any()
    assert (found[FRONT] < plain[FRONT] - 20).any()
    assert (found[:30] == plain[:30]).all(), "the pole and the wall are as they were"
    found = shown(env, BRIGHT | textured(1.0, CHECKER))
    assert (found[FRONT] == plain[FRONT]).all()
    assert found[5].std() > 30


def test_a_variant_is_the_same_again_and_another_differs(env, engine):
    once, same, part, other, less = (
        shown(env, BRIGHT | textured(contrast, variant))
        for contrast, variant in ((0.5, 2), (0.5, 2), (0.5, 2.9), (0.5, 5), (0.4, 2))
    )
    assert (same == once).all()
    assert (part == once).all()
    assert (abs(other - once).max(axis=-1) > 5).mean() > 0.3
    assert (less != once).any()
    second = PixelCartPoleRGB(engine=engine)
    assert (shown(second, BRIGHT | textured(0.5, 2)) == once).all(), "whatever was shown before"
    second.close()


def test_nothing_of_a_texture_outlives_its_episode(env):
    """In cameras of two sizes, for each of which a renderer may keep what it was given."""
    views = (CLOSE, WHOLE)
    before = [shown(env, {}, view) for view in views]
    all_of_it = textured(1.0, NOISE, *env.world.looks.names)
    dressed = [shown(env, all_of_it, view) for view in views]
    assert all((a != b).any() for a, b in zip(dressed, before, strict=True))
    shown(env, textured(0.6, CHECKER, *env.world.looks.names))
    again = [shown(env, all_of_it, view) for view in views]
    after = [shown(env, {}, view) for view in views]
    assert all((a == b).all() for a, b in zip(again + after, dressed + before, strict=True))


@pytest.mark.parametrize(("robot", "engine"), [("a1", "pybullet"), ("a1", "mujoco"), ("panda", "pybullet")])
def test_a_mesh_gets_back_what_its_file_has_on_it(robot, engine):
    world = make_world(engine, getattr(catalog, robot)(), 0.004, rendering=True)
    world.apply({parameter.name: parameter.nominal for parameter in world.parameters})
    view = Camera((0.0, 0.0, 0.3), 1.0, 40.0, -15.0, width=160, height=160)
    before = world.render(view)
    for offset, texture in (((-0.3, 0.0, 0.0), Texture()), ((0.0, 0.0, 0.0), Texture(STEPS, LARGE))):
        for name in world.looks.names:
            world.looks.paint(name, offset, texture)
        assert (world.render(view) != before).any(axis=-1).mean() > 0.02
        for name in world.looks.names:
            world.looks.paint(name, (0.0, 0.0, 0.0))
        assert (world.render(view) == before).all()
    world.close()


def test_resets_with_other_textures_need_no_more_memory(env, resident):
    """Once each texture has been shown."""
    names = env.world.looks.names
    every = [(step / STEPS, variant) for step in range(1, STEPS + 1) for variant in range(PATTERNS)]
    for number, (contrast, variant) in enumerate(every):
        env.reset(options={"parameters": textured(contrast, variant, names[number % len(names)])})
    before, rng = resident(), np.random.default_rng(0)
    for _ in range(500):
        contrast, variant = every[rng.integers(len(every))]
        env.reset(options={"parameters": textured(contrast, variant, *names)})
    assert resident() - before < 3e6


def test_patterns_differ_and_leave_the_mean_as_it_is():
    each = [pattern(variant) for variant in range(PATTERNS)]
    assert len({one.tobytes() for one in each[1::3] + each[2::3]}) == 2 * PATTERNS // 3
    assert len({one.tobytes() for one in each[::3]}) == 3, "checkers of 2, 4 and 8 fields a side"
    assert all(abs(one.mean()) < 1e-12 and abs(one).max() == 1.0 for one in each)
    with pytest.raises(ValueError, match="a texture's variant must be 0 to 29, got 30"):
        pattern(PATTERNS)
