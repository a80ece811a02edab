"""Noise streams, the latency ring and the reader, by hand; then the same through an environment."""

import numpy as np
import pytest

from simtoreal.robots.arrivals import MAX_LATENCY
from simtoreal.robots.readers import JointReader, StateRing
from simtoreal.robots.sensors import BaseSensor, JointSensor
from simtoreal.robots.streams import NormalStream


def rows(name, size, seed, count):
    stream = NormalStream(name, size, seed)
    return np.array([stream.at(t) for t in range(count)])


OF_EACH = ("noise", "scale", "drift", "resolution", "latency", "jitter", "period", "dropout", "outage")


def test_a_stream_is_standard_normal():
    x = rows("sensor.a.noise", 4, 7, 20_000)
    assert x.mean(0) == pytest.approx(0.0, abs=0.03)
    assert x.std(0) == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(x.T) == pytest.approx(np.eye(4), abs=0.03)
    assert np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_a_stream_follows_from_name_and_seed_alone():
    x = rows("a", 2, 7, 200)
    assert (rows("a", 2, 7, 200) == x).all()
    for other in (rows("b", 2, 7, 200), rows("a", 2, 8, 200)):
        assert abs(np.corrcoef(x[:, 0], other[:, 0])[0, 1]) < 0.25


def ramp(slope, pushes, dt=0.01):
    """A ring of one joint that moved at `slope` for `pushes` substeps, after a rest at 0."""
    ring = StateRing(dt)
    ring.fill(([0.0], [0.0]))
    for k in range(1, pushes + 1):
        ring.extend([([slope * k * dt], [slope])])
    return ring


@pytest.mark.parametrize("latency", [0.0, 0.01, 0.0025, 0.037, 0.0999, 0.1])
def test_a_ramp_is_read_late_by_exactly_the_latency(latency):
    assert ramp(3.0, 40).read(0, [0], latency) == pytest.approx([3.0 * (0.40 - latency)], rel=1e-12)


def test_before_it_moved_it_rested():
    assert ramp(3.0, 2).read(0, [0], 0.05) == [0.0]


def test_between_two_substeps_it_is_the_straight_line():
    ring = StateRing(0.01)
    ring.fill(([1.0, 5.0], [0.0, 0.0]))
    ring.extend([([2.0, 9.0], [4.0, 8.0])])
    assert ring.read(0, [0, 1], 0.0025) == pytest.approx([1.75, 8.0])
    assert ring.read(1, [1], 0.0025) == pytest.approx([6.0])
    assert ring.read(0, [1, 0], 0.0) == [9.0, 2.0]


def test_a_sine_is_read_far_better_than_at_the_nearest_substep():
    dt, latency, omega = 0.002, 0.0131, 2 * np.pi * 4
    ring = StateRing(dt)
    ring.fill(([0.0], [0.0]))
    linear, nearest = [], []
    for k in range(1, 500):
        ring.extend([([np.sin(omega * k * dt)], [0.0])])
        if k > 20:
            true = np.sin(omega * (k * dt - latency))
            linear.append(abs(ring.read(0, [0], latency)[0] - true))
            nearest.append(abs(ring.read(0, [0], 7 * dt)[0] - true))
    assert max(linear) < 4e-4  # (omega dt)^2 / 8
    assert max(linear) < max(nearest) / 50


@pytest.mark.parametrize("latency", [0.01, 0.0125, 0.037, 0.0999, 0.1])
def test_a_part_that_was_not_asked_for_is_read_between_where_it_was(latency):
    ring = StateRing(0.01, substeps=4)
    ring.fill(([0.0], [0.0], [0.0]))
    for k in range(1, 41):
        ring.extend([([0.0], [0.0], [0.03 * k] if k % 4 == 0 else [])])
    assert ring.read(2, [0], latency) == pytest.approx([3.0 * (0.40 - latency)], rel=1e-12)


def test_a_bias_is_named_by_joint_where_there_are_several():
    one = JointSensor("hinge", "position", ("h",), "rad", 0.1, 0.2)
    two = JointSensor("arm", "position", ("a", "b"), "rad", 0.1, 0.2)
    assert [p.name for p in one.parameters()] == [f"sensor.hinge.{what}" for what in (*OF_EACH, "bias")]
    assert [p.name for p in two.parameters()][len(OF_EACH) :] == ["sensor.arm.bias.a", "sensor.arm.bias.b"]
    assert all(p.nominal == float(p.name.endswith(".scale")) for p in (*one.parameters(), *two.parameters()))
    assert {p.name: p.high for p in one.parameters()}["sensor.hinge.latency"] == MAX_LATENCY


def test_a_reader_adds_each_joint_s_own_bias_in_its_own_order():
    reader = JointReader(JointSensor("arm", "velocity", ("b", "a"), "rad/s", 0.1, 5.0), ("a", "b"))
    values = {f"sensor.arm.{what}": float(what == "scale") for what in OF_EACH}
    values |= {"sensor.arm.bias.a": 1.0, "sensor.arm.bias.b": 2.0}
    reader.apply(values)
    ring = StateRing(0.01)
    ring.fill(([0.0, 0.0], [10.0, 20.0]))
    assert reader.read(ring, 0) == [22.0, 11.0]
    assert reader.read_back() == values


def push(env, action, steps):
    return [env.step(np.array([action], np.float32))[0] for _ in range(steps)]


@pytest.mark.parametrize("latency", [0.0, 0.004, 0.0173, 0.06, 0.1])
def test_a_reading_in_an_episode_is_late_by_exactly_its_latency(slide, latency):
    """20 N on 2 kg: the speed is 10 t, and linear interpolation of a straight line is exact."""
    slide.reset(seed=0, options={"parameters": {"sensor.velocity.latency": latency}})
    for k, obs in enumerate(push(slide, 1.0, 20), start=1):
        assert obs[1] == pytest.approx(10.0 * max(0.02 * k - latency, 0.0), abs=1e-5)


def test_one_sensor_s_latency_is_not_another_s(slide):
    slide.reset(seed=0)
    plain = push(slide, 1.0, 10)
    slide.reset(seed=0, options={"parameters": {"sensor.velocity.latency": 0.05}})
    late = push(slide, 1.0, 10)
    assert [obs[0] for obs in late] == [obs[0] for obs in plain]


def noise(env, parameters, actions, seed=5, field=0):
    """What the sensors added [steps]: reading minus truth."""
    env.reset(seed=seed, options={"parameters": parameters})
    out = []
    for action in actions:
        obs = env.step(np.array([action], np.float32))[0]
        q, qd = env.world.state()
        out.append(float(obs[field]) - (q[0], qd[0])[field])
    return np.array(out)


def test_noise_has_mean_zero_and_its_standard_deviation(slide):
    x = np.concatenate([noise(slide, {"sensor.position.noise": 0.5}, [0.0] * 200, seed=s) for s in range(20)])
    assert x.mean() == pytest.approx(0.0, abs=4 * 0.5 / np.sqrt(4000))
    assert x.std() == pytest.approx(0.5, rel=0.05)
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(0.0, abs=0.07)


def test_noise_is_another_in_another_episode(slide):
    a, b = (noise(slide, {"sensor.position.noise": 0.5}, [0.0] * 50, seed=s) for s in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.5


def test_noise_depends_neither_on_the_policy_nor_on_another_sensor_nor_on_other_parameters(slide):
    one = {"sensor.position.noise": 0.5}
    rng = np.random.default_rng(0)
    reference = noise(slide, one, [0.0] * 100)
    others = one | {"sensor.velocity.noise": 1.0, "link.cart.mass": 3.0, "actuator.latency": 0.03}
    assert noise(slide, one, rng.uniform(-1, 1, 100)) == pytest.approx(reference, abs=1e-6)
    assert noise(slide, others, rng.uniform(-1, 1, 100)) == pytest.approx(reference, abs=1e-6)
    assert noise(slide, {"sensor.position.noise": 0.25}, [0.0] * 100) == pytest.approx(reference / 2, abs=1e-6)


def test_two_sensors_noises_are_independent(slide):
    both = {"sensor.position.noise": 0.5, "sensor.velocity.noise": 0.5}
    a, b = (np.concatenate([noise(slide, both, [0.0] * 200, s, f) for s in range(10)]) for f in (0, 1))
    assert a.std() > 0.4
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.0, abs=0.09)


def test_noise_switched_on_in_mid_episode_is_the_noise_it_would_have_been(slide):
    on = noise(slide, {"sensor.position.noise": 0.5}, [0.0] * 100)
    slide.reset(seed=5)
    push(slide, 0.0, 70)
    slide.set_parameters({"sensor.position.noise": 0.5})
    assert [obs[0] for obs in push(slide, 0.0, 10)] == pytest.approx(on[70:80], abs=1e-6)
    slide.set_parameters({"sensor.position.noise": 0.0})
    assert push(slide, 0.0, 1)[0][0] == 0.0
    slide.set_parameters({"sensor.position.noise": 0.5})
    assert [obs[0] for obs in push(slide, 0.0, 10)] == pytest.approx(on[81:91], abs=1e-6)
    slide.set_parameters({"sensor.position.noise": 0.25})
    assert [obs[0] for obs in push(slide, 0.0, 3)] == pytest.approx(on[91:94] / 2, abs=1e-6)


def test_a_bias_is_constant_and_its_own(slide):
    x = noise(slide, {"sensor.position.bias": -0.25, "sensor.velocity.bias": 0.5}, [0.3] * 50)
    assert x == pytest.approx(-0.25, abs=1e-6)
    assert noise(slide, {"sensor.velocity.bias": 0.5}, [0.3] * 50, field=1) == pytest.approx(0.5, abs=1e-6)


class World:
    """Whose base's inertial frame is turned against its root link, of which x is the inertial frame's y."""

    base_axes = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("quantity", "reading"),
    [
        ("position", [1.0, 2.0, 3.0]),
        ("place", [1.0, 2.0]),
        ("velocity", [4.0, 5.0, 6.0]),
        ("heading", [-np.pi]),
        ("yaw_rate", [0.3]),
    ],
)
def test_a_base_is_seen_from_the_ground(quantity, reading):
    """It is turned by 90 degrees about the ground's z, and its root link by 90 more."""
    base = [1.0, 2.0, 3.0, 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5), 4.0, 5.0, 6.0, 0.1, 0.2, 0.3]
    sensor = BaseSensor("seen", quantity, "m", 1.0, 0.5)
    reader = sensor.reader(World())
    reader.apply({p.name: p.nominal for p in sensor.parameters()})
    ring = StateRing(0.01)
    ring.fill(([], [], base))
    for found in (reader.ideal(([], [], base)), reader.read(ring, 0)):
        assert np.exp(1j * np.array(found)) == pytest.approx(np.exp(1j * np.array(reading)))  # pi is -pi
    one = len(reading) == 1
    names = [p.name for p in sensor.parameters()]
    assert names[len(OF_EACH) :] == (
        ["sensor.seen.bias"] if one else [f"sensor.seen.bias.{axis}" for axis in "xyz"[: len(reading)]]
    )


def test_a_yaw_rate_is_about_the_link_s_own_axis():
    """Rolled over by 90 degrees, the link's z lies along the ground's -y."""
    base = [0.0, 0.0, 0.0, np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5), 0.0, 0.0, 0.0, 0.1, 0.2, 0.3]
    assert BaseSensor("seen", "yaw_rate", "rad/s", 1.0, 0.5).reader(World()).ideal(([], [], base)) == pytest.approx(
        [-0.2]
    )
