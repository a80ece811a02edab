"""A camera: where things show, what each parameter does to an image, and that looking changes nothing."""

import math

import numpy as np
import pytest
from PIL import Image

from simtoreal.robots.tasks.cartpole import CartPoleBalance
from simtoreal.robots.tasks.pixels import STACK, PixelCartPole, PixelCartPoleRGB
from simtoreal.robots.world import Light

FOCAL = 42.0 / math.tan(math.radians(25.0))  # [pixels] of 84 that see 50 degrees
MIDDLE = 41.5  # [pixels] the middle of 84, numbered from 0


@pytest.fixture
def env(engine):
    env = PixelCartPole(engine=engine)
    yield env
    env.close()


def frame(env, x=0.0, angle=0.0, seed=0, **camera):
    """[84, 84] of the cart at x [m], the pole at an angle [rad], under parameters of the camera."""
    env.reset(seed=seed, options={"parameters": {f"sensor.camera.{name}": value for name, value in camera.items()}})
    env.world.reset([x, angle], [0.0, 0.0])
    env._ring.fill(env.world.state())
    return env._readers["camera"].read(env._ring, 1)[..., 0].astype(int)


def robot(pixels):
    """Where there is not the black wall."""
    return np.flatnonzero(pixels > 30)


@pytest.mark.parametrize("x", [-0.4, 0.0, 0.3])
def test_the_cart_shows_where_a_pinhole_puts_it(env, x):
    """Its front, 0.3 m wide, is 1.6 m from the camera and 0.5 m below it; 4 cm below the rail is nothing else."""
    row = frame(env, x)[round(MIDDLE + FOCAL * 0.54 / 1.6)]
    assert robot(row).mean() == pytest.approx(MIDDLE + FOCAL * x / 1.6, abs=1.1)
    assert len(robot(row)) == pytest.approx(FOCAL * 0.3 / 1.6, abs=1.5)


@pytest.mark.parametrize("angle", [-0.2, 0.1])
def test_the_pole_s_tip_shows_where_a_pinhole_puts_it(env, angle):
    """1 m from its hinge; its front is 1.8 m from the camera."""
    image = frame(env, 0.1, angle)
    top = min(np.flatnonzero((image > 30).any(axis=1)))
    assert top == pytest.approx(MIDDLE + FOCAL * (0.5 - math.cos(angle)) / 1.8, abs=1.5)
    assert robot(image[top]).mean() == pytest.approx(MIDDLE + FOCAL * (0.1 + math.sin(angle)) / 1.8, abs=1.5)


def test_a_camera_moved_to_the_right_sees_all_farther_left(env):
    moved, shown = frame(env, 0.1, shift=0.1), frame(env, 0.0)
    assert (np.abs(moved - shown) > 8).mean() < 0.01
    assert (np.abs(frame(env, 0.1) - shown) > 8).mean() > 0.02


@pytest.mark.parametrize("wider", [0.85, 1.2])
def test_of_a_wider_view_all_shows_smaller(env, wider):
    """A cart's front of 0.3 m at 1.6 m, by the tangent of half the view."""
    focal = 42.0 / math.tan(math.radians(25.0 * wider))
    row = frame(env, 0.2, field_of_view=math.radians(50.0 * wider))[round(MIDDLE + focal * 0.54 / 1.6)]
    assert robot(row).mean() == pytest.approx(MIDDLE + focal * 0.2 / 1.6, abs=1.1)
    assert len(robot(row)) == pytest.approx(focal * 0.3 / 1.6, abs=1.5)


@pytest.mark.parametrize(("turn", "rows"), [("pitch", False), ("yaw", True)])
def test_a_camera_is_turned_around_what_it_looks_at(env, turn, rows):
    """From above and from below, the rail's far ends show alike; from the side they do not."""
    image = frame(env, 0.0, **{turn: 0.1})
    assert (image != frame(env, 0.0)).mean() > 0.005
    left, right = (robot(image[60:, side]).mean() for side in (0, -1))
    assert (abs(left - right) > 1.5) == rows


def test_half_as_bright(env):
    whole, half = frame(env), frame(env, brightness=0.5)
    assert np.abs(half - whole / 2).max() <= 0.5
    assert whole.max() > 80


def test_a_bias_is_added_to_every_pixel_and_stays_within_a_byte(env):
    black, brighter, darker = frame(env), frame(env, bias=0.1), frame(env, bias=-0.1)
    assert np.abs(brighter - np.minimum(black + 25.5, 255)).max() <= 1.0
    assert np.abs(darker - np.maximum(black - 25.5, 0)).max() <= 1.0
    assert darker.min() == 0 < black.max() - 25


def test_noise_is_a_share_of_full_scale_and_follows_from_the_seed(env):
    ideal = frame(env)
    noisy = [frame(env, seed=seed, noise=0.05) for seed in (1, 1, 2)]
    bright = ideal > 50  # farther than four standard deviations from being clipped
    assert (noisy[0] - ideal)[bright].std() == pytest.approx(0.05 * 255, rel=0.15)
    assert (noisy[0] - ideal)[bright].mean() == pytest.approx(0.0, abs=2.5)
    assert (noisy[0] == noisy[1]).all()
    later = env._readers["camera"].read(env._ring, 2)[..., 0]
    for other in (noisy[0], later):
        assert (other != noisy[2])[bright].mean() > 0.9


def test_a_late_image_is_that_of_a_step_ago(env, rollout):
    def steady(env):
        return np.full(1, 0.4, np.float32)

    ideal, late = (
        rollout(env, 3, 6, {"sensor.camera.latency": latency}, policy=steady)[:, -1] for latency in (0.0, 0.04)
    )
    assert (late[1:] == ideal[:-1]).all()
    assert (ideal[1:] != ideal[:-1]).any(axis=(1, 2)).all()


def test_looking_at_the_past_changes_nothing(env):
    ends = []
    for latency in (0.0, 0.03):
        env.reset(seed=2, options={"parameters": {"sensor.camera.latency": latency, "joint.slider.friction": 0.3}})
        for k in range(12):
            env.step(np.full(1, math.sin(k), np.float32))
        ends.append(env.world.state())
    assert ends[0] == ends[1]


def test_an_observation_is_the_last_three_frames_oldest_first(env):
    obs, _ = env.reset(seed=0)
    assert (obs == obs[-1]).all()
    for _ in range(4):
        following = env.step(np.ones(1, np.float32))[0]
        assert (following[: STACK - 1] == obs[1:]).all()
        assert (following[-1] != obs[-1]).any()
        obs = following


def test_grey_is_the_luma_of_the_colours(env, engine):
    colourful = PixelCartPoleRGB(engine=engine)
    grey, rgb = env.reset(seed=5)[0][-1], colourful.reset(seed=5)[0][-3:]
    colourful.close()
    assert np.ptp(rgb.reshape(3, -1).mean(axis=1)) > 0.5
    luma = np.asarray(Image.fromarray(np.moveaxis(rgb, 0, -1)).convert("L"), int)
    assert np.abs(luma - grey).max() <= 1


def test_a_task_of_images_that_names_no_state_has_nothing_privileged():
    class Stateless(PixelCartPole):
        state_layout = None

    with pytest.raises(ValueError, match="privileged must be False: Stateless shows images, and no state_layout says"):
        Stateless(privileged="state")


def test_a_window_without_opengl_is_refused_in_one_line(env, engine, monkeypatch):
    if engine == "pybullet":
        pytest.skip("its renderer needs no OpenGL")
    import mujoco

    def fails(*_):
        raise AttributeError("'NoneType' object has no attribute\n'eglQueryString'")

    env.world.close()
    monkeypatch.setattr(mujoco, "Renderer", fails)
    with pytest.raises(
        ValueError, match=r"MuJoCo cannot render here: .* attribute 'eglQueryString'; it needs EGL \(Mesa\)"
    ):
        env.reset(seed=0)


AWAY = {"pybullet": (-50.0, 30.0, 100.0), "mujoco": (-0.3, -0.3, 1.0)}  # towards the light, nominally


def lit(engine, yaw=0.0, pitch=0.0, ambient=1.0, diffuse=1.0):
    """What the cart's front, which faces the camera along -y, sends of its colour: Lambert's law and a headlight."""
    sun = np.array(Light(yaw, pitch).turned(AWAY[engine]))
    facing = max(0.0, -sun[1])
    if engine == "pybullet":
        return 0.6 * ambient + 0.35 * diffuse * facing
    return 0.25 * ambient + 0.25 * diffuse + 0.4 * diffuse * facing


@pytest.fixture
def coloured(engine):
    env = PixelCartPoleRGB(engine=engine)
    yield env
    env.close()


def picture(env, **parameters):
    """[84, 84, 3] of a cart in the middle and a pole upright."""
    env.reset(seed=0, options={"parameters": {name.replace("__", "."): value for name, value in parameters.items()}})
    env.world.reset([0.0, 0.0], [0.0, 0.0])
    env._ring.fill(env.world.state())
    return env._readers["camera"].read(env._ring, 1).astype(int)


FRONT = round(MIDDLE + FOCAL * 0.52 / 1.6), round(MIDDLE + FOCAL * 0.08 / 1.6)  # a pixel of the cart's front


@pytest.mark.parametrize(
    "light",
    [{"ambient": 0.5}, {"diffuse": 0.4}, {"yaw": 1.0}, {"yaw": -0.8, "pitch": -0.5}, {"ambient": 1.4, "yaw": 0.5}],
)
def test_light_falls_by_lamberts_law(coloured, engine, light):
    if engine == "mujoco-shipped":
        engine = "mujoco"
    nominal = picture(coloured)[FRONT]
    found = picture(coloured, **{f"light__{name}": value for name, value in light.items()})[FRONT]
    expected = nominal * lit(engine, **light) / lit(engine)
    assert found == pytest.approx(np.minimum(expected, 255), abs=6)


def test_light_turns_to_the_zenith_and_no_farther():
    assert Light(pitch=9.0).turned((1.0, 0.0, 1.0)) == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)
    assert Light(yaw=math.pi / 2).turned((3.0, 0.0, 4.0)) == pytest.approx((0.0, 0.6, 0.8))


def test_each_thing_has_its_colour(coloured):
    plain = picture(coloured)
    red = picture(coloured, **{"link__cart__colour__red": 0.3})
    changed = (red != plain).any(axis=-1)
    assert changed[FRONT]
    assert not changed[:30].any(), "the pole and the wall are as they were"
    assert (red[FRONT] - plain[FRONT])[1:].tolist() == [0, 0]
    share = plain[FRONT][2] / (255 * blue(coloured, "link.cart"))  # of its colour that its front sends
    assert red[FRONT][0] - plain[FRONT][0] == pytest.approx(255 * 0.3 * share, abs=6)
    assert abs(grey(coloured, 0.45) - grey(coloured, 0.449)).max() <= 1, "0.5 of each, which MuJoCo takes for none"
    wall = picture(coloured, **{f"wall__colour__{channel}": 0.4 for channel in ("red", "green", "blue")})
    assert (wall[5, 5] - plain[5, 5] > 30).all()
    assert (wall[FRONT] == plain[FRONT]).all()
    black = picture(coloured, **{f"link__cart__colour__{channel}": -1.0 for channel in ("red", "green", "blue")})
    assert black[FRONT].max() < 10
    assert (picture(coloured) == plain).all(), "and all of it is gone after a reset"


def grey(env, added):
    """[3] of a wall made brighter."""
    return picture(env, **{f"wall__colour__{channel}": added for channel in ("red", "green", "blue")})[5, 5]


def blue(env, name):
    """Of a thing's nominal colour, from 0 to 1."""
    return float(env.world.looks._shapes[name][0][-1][2])


def test_what_a_blind_robot_looks_like_is_no_parameter():
    task = CartPoleBalance()
    assert not [name for name in task.parameters if "colour" in name or name.startswith("light")]
    with pytest.raises(ValueError, match="without rendering"):
        task.world.render(task.camera)
    task.close()
