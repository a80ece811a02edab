"""When sensors sample and when a reading arrives; and what accelerometers, foot switches and currents say."""

import math

import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.arrivals import MAX_JITTER, MAX_LATENCY, MAX_PERIOD
from simtoreal.robots.engines import make_world
from simtoreal.robots.parameters import ParameterTable
from simtoreal.robots.readers import StateRing, kept_substeps
from simtoreal.robots.sensors import Accelerometer, ContactSensor, JointSensor, TorqueSensor, motion_capture

DT = 0.02  # [s] of the slide's control; 20 N on 2 kg: its speed is 10 t


def sampled(env, parameters, steps=40, seed=0, field=1):
    """The reading at each control step, in seconds since the start: speeds are 10 t."""
    env.reset(seed=seed, options={"parameters": parameters})
    return np.array([env.step(np.ones(1, np.float32))[0][field] for _ in range(steps)]) / 10.0


@pytest.mark.parametrize("period", [0.015, 0.02, 0.033, 0.05, 0.1])
@pytest.mark.parametrize("latency", [0.0, 0.013, 0.1])
def test_a_reading_is_of_the_newest_sample_that_has_arrived(slide, period, latency):
    found = sampled(slide, {"sensor.velocity.period": period, "sensor.velocity.latency": latency})
    for k, instant in enumerate(found, start=1):
        wanted = math.floor((k * DT - latency) / period + 1e-7) * period
        assert instant == pytest.approx(max(wanted, 0.0), abs=1e-6)


@pytest.mark.parametrize("period", [5e-324, 4.5e-288, 1e-6, 4.9e-4])
def test_what_samples_faster_than_physics_is_read_whenever_it_is_asked(slide, period):
    """In no more time: nothing is kept of each of its samples."""
    timing = {"sensor.velocity.latency": 0.013, "sensor.velocity.jitter": 0.04}
    assert (sampled(slide, timing | {"sensor.velocity.period": period}) == sampled(slide, timing)).all()


def test_between_samples_a_reading_is_the_same_noise_and_all(slide):
    parameters = {"sensor.velocity.period": 0.1, "sensor.velocity.noise": 0.5}
    found = sampled(slide, parameters, steps=50)
    runs = np.split(found, np.flatnonzero(np.diff(found)) + 1)
    assert [len(run) for run in runs] == [4, *[5] * 9, 1]
    assert np.std([run[0] - 0.1 * k for k, run in enumerate(runs)]) == pytest.approx(0.05, rel=0.6)


def test_jitter_makes_each_reading_late_by_another_time(slide):
    parameters = {"sensor.velocity.jitter": 0.04, "sensor.velocity.latency": 0.01}
    now = DT * np.arange(1, 101)
    ages = np.concatenate([(now - sampled(slide, parameters, 100, seed))[5:] for seed in range(10)])
    assert 0.01 - 1e-6 <= ages.min() < 0.012
    assert 0.048 < ages.max() <= 0.05 + 1e-6
    assert ages.mean() == pytest.approx(0.03, abs=0.001)
    assert ages.std() == pytest.approx(0.04 / math.sqrt(12), rel=0.05)


def test_with_a_rate_and_jitter_readings_wait_for_their_sample_and_never_go_back(slide):
    late = []
    for seed in range(10):
        parameters = {"sensor.velocity.period": 0.05, "sensor.velocity.jitter": 0.05, "sensor.velocity.latency": 0.01}
        found = sampled(slide, parameters, 100, seed)
        assert np.allclose(found / 0.05, np.round(found / 0.05), atol=1e-4)
        assert (np.diff(found) >= -1e-6).all()
        ages = DT * np.arange(1, 101) - found
        assert (ages[5:] >= 0.01 - 1e-6).all()
        late += [*ages[5:]]
    assert 0.1 < max(late) <= 0.05 + 0.05 + 0.01 + DT


def test_jitter_follows_from_the_episodes_seed_alone(slide):
    parameters = {"sensor.velocity.jitter": 0.04}
    one = sampled(slide, parameters, 50, seed=3)
    sampled(slide, parameters, 30, seed=4)
    assert (sampled(slide, parameters | {"sensor.position.noise": 0.3}, 50, seed=3) == one).all()
    assert not np.allclose(sampled(slide, parameters, 50, seed=5), one)


def test_nothing_of_a_slow_sensor_is_left_in_the_next_episode(slide):
    plain = sampled(slide, {})
    sampled(slide, {"sensor.velocity.period": 0.1, "sensor.velocity.jitter": 0.05})
    assert (sampled(slide, {}) == plain).all()


def test_a_rate_changed_in_mid_episode_counts_from_the_next_reading(slide):
    slide.reset(seed=0, options={"parameters": {"sensor.velocity.period": 0.1}})
    first = [slide.step(np.ones(1, np.float32))[0][1] / 10.0 for _ in range(7)]
    slide.set_parameters({"sensor.velocity.period": 0.04})
    then = [slide.step(np.ones(1, np.float32))[0][1] / 10.0 for _ in range(4)]
    assert first[-1] == pytest.approx(0.1)
    assert then == pytest.approx([0.16, 0.16, 0.2, 0.2])


def test_every_physics_step_is_there_to_be_read(slide):
    """Positions are 5 t^2: a straight line between two substeps is within 10 dt^2 / 8 of it, one over a control step is
    not within 25 times that."""
    slide.reset(seed=0, options={"parameters": {"sensor.position.period": 0.013}})
    for k in range(1, 60):
        found = slide.step(np.ones(1, np.float32))[0][0]
        instant = math.floor(k * DT / 0.013 + 1e-7) * 0.013
        # Bullet integrates x' = x + v' dt: its path is 5 t (t + dt)
        assert found == pytest.approx(5.0 * instant * (instant + slide.physics_dt), abs=1.01 * 10 * 0.004**2 / 8 + 1e-6)


def test_what_has_no_fixed_age_needs_every_substep():
    assert kept_substeps([0.0, None], 0.01, 4) == [True] * 4
    assert kept_substeps([0.0], 0.01, 4) == [False, False, True, True]


def test_timing_has_bounds_and_a_nominal():
    by_name = {p.name: p for sensor in motion_capture(rate=25.0, latency=0.03) for p in sensor.parameters()}
    assert by_name["sensor.position.period"].nominal == 1 / 25.0
    assert by_name["sensor.heading.latency"].nominal == 0.03
    highs = [by_name[f"sensor.position.{what}"].high for what in ("latency", "jitter", "period")]
    assert highs == [MAX_LATENCY, MAX_JITTER, MAX_PERIOD]
    plain = JointSensor("q", "position", ("a",), "rad", 1.0, 1.0)
    assert all(p.nominal == float(p.name.endswith(".scale")) for p in plain.parameters())


def reader_of(sensor, world, **values):
    reader = sensor.reader(world)
    table = {p.name: p.nominal for p in sensor.parameters()}
    reader.apply(table | {f"sensor.{sensor.name}.{what}": value for what, value in values.items()})
    reader.start(0)
    return reader


@pytest.fixture
def engine_world(engine):
    """A world of a robot of the catalogue, at nominal values."""
    made = []

    def build(robot, dt=0.001):
        world = make_world(engine, robot, dt)
        made.append(world)
        world.apply(ParameterTable(world.parameters).nominal)
        return world

    yield build
    for world in made:
        world.close()


@pytest.mark.parametrize("lean", [0.0, 0.3])
def test_an_accelerometer_feels_thrust_and_nothing_in_free_fall(engine_world, lean):
    """A flying body under a thrust F along its own z feels F / m there, wherever it leans."""
    world = engine_world(catalog.crazyflie())
    turn = (math.sin(lean / 2), 0.0, 0.0, math.cos(lean / 2))
    mass = sum(link.mass for link in catalog.crazyflie().model.links.values())
    for force in (0.0, 0.2):
        world.reset((), (), (0.0, 0.0, 1.0, *turn, *(0.0,) * 6))
        ring = StateRing(0.001)
        ring.fill(world.state())
        reader = reader_of(Accelerometer(), world)
        for _ in range(20):
            ring.extend([world.step((), (0.0, 0.0, force, 0.0, 0.0, 0.0))])
        assert reader.read(ring, 0) == pytest.approx([0.0, 0.0, force / mass], abs=1e-3)
        assert reader.ideal(world.state()) == reader.read(ring, 1)


def test_an_accelerometer_at_rest_shows_gravity_upwards(engine_world):
    world = engine_world(catalog.crazyflie())
    lean = 0.4
    world.reset((), (), (0.0, 0.0, 1.0, 0.0, math.sin(lean / 2), 0.0, math.cos(lean / 2), *(0.0,) * 6))
    ring = StateRing(0.001)
    ring.fill(world.state())
    up = [-9.81 * math.sin(lean), 0.0, 9.81 * math.cos(lean)]  # of the ground, in axes that are pitched down
    assert reader_of(Accelerometer(), world).read(ring, 0) == pytest.approx(up, abs=1e-6)
    biased = reader_of(Accelerometer(), world, **{"bias.z": 0.25})
    assert biased.read(ring, 0) == pytest.approx([up[0], up[1], up[2] + 0.25], abs=1e-6)


def standing(world):
    robot = catalog.a1()
    stand = (0.0, 0.9, -1.8) * 4
    world.reset(stand, (0.0,) * 12, (0.0, 0.0, 0.262, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    for _ in range(300):
        q, qd, _ = world.state()
        world.step([60.0 * (s - x) - 2.0 * v for s, x, v in zip(stand, q, qd, strict=True)])
    return robot


def test_foot_switches_close_on_the_ground_alone_and_a_reading_is_of_the_step_it_is_old(engine_world):
    world = engine_world(catalog.a1())
    ring = StateRing(0.001, substeps=20)
    feet = ("FR", "FL", "RR", "RL")
    now, late = (reader_of(ContactSensor(feet), world, latency=latency) for latency in (0.0, 0.03))
    standing(world)
    assert [now.read(ring, 0), late.read(ring, 0)] == [[1.0] * 4] * 2
    world.reset((0.0, 0.9, -1.8) * 4, (0.0,) * 12, (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    assert [now.read(ring, 1), late.read(ring, 1)] == [[0.0] * 4, [1.0] * 4]
    assert [late.read(ring, k)[0] for k in (2, 3)] == [1.0, 0.0]  # 30 ms are one and a half control steps


def test_a_foot_switch_is_wrong_as_often_as_its_noise_says(engine_world):
    world = engine_world(catalog.a1())
    world.reset((0.0, 0.9, -1.8) * 4, (0.0,) * 12, (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    reader = reader_of(ContactSensor(("FR", "FL", "RR", "RL")), world, noise=0.1)
    wrong = np.array([reader.read(StateRing(0.001), k) for k in range(1000)])
    assert set(wrong.ravel()) == {0.0, 1.0}
    assert wrong.mean(0) == pytest.approx(0.1, abs=0.04)


def test_currents_tell_what_the_drive_gives(lift):
    """What hangs still takes its weight: 3 kg, of which the drive knows 2."""
    reader = reader_of(TorqueSensor(("rope",), 1.0, 1.0), lift.world, bias=0.5, latency=0.02)
    lift.reset(seed=0, options={"parameters": {"link.cage.mass": 3.0}})
    found = []
    for k in range(100):
        lift.step(np.zeros(1, np.float32))
        found += reader.read(lift._ring, k)
    assert found[-1] == pytest.approx(3.0 * 9.81 + 0.5, rel=1e-3)
    assert found[0] == found[1] != found[2]
