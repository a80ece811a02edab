"""Drives on one known mass: everything here is F = m a."""

import numpy as np
import pytest

from simtoreal.robots.actuators import CommandDelay, ForceDrive, PDDrive

G = 9.81  # [m/s^2]


def act(env, action, steps):
    for _ in range(steps):
        obs = env.step(np.array([action], np.float32))[0]
    return obs


@pytest.mark.parametrize("latency", [0.0, 0.004, 0.02, 0.0017, 0.0333, 0.059, 0.1])
def test_a_force_arrives_late_by_exactly_its_latency(slide, latency):
    """From t = latency on, 20 N accelerate 2 kg: the speed after 10 steps is 10 (0.2 - latency)."""
    slide.reset(seed=0, options={"parameters": {"actuator.latency": latency}})
    act(slide, 1.0, 10)
    assert slide.world.state()[1][0] == pytest.approx(10.0 * (0.2 - latency), rel=1e-9)


def test_a_late_command_is_not_lost_when_the_next_one_comes(slide):
    """One step of 20 N is an impulse of 0.4 N s, whenever it comes."""
    slide.reset(seed=0, options={"parameters": {"actuator.latency": 0.0513}})
    act(slide, 1.0, 1)
    act(slide, 0.0, 2)
    early = slide.world.state()[1][0]
    assert early == pytest.approx(10.0 * (0.06 - 0.0513), rel=1e-9)
    act(slide, 0.0, 5)
    assert slide.world.state()[1][0] == pytest.approx(0.2, rel=1e-9)


def test_the_schedule_by_hand():
    """5 substeps of 4 ms; 10 ms late: 2 substeps of the old command, half of the third, then the new."""
    delay = CommandDelay(0.004, 5)
    delay.fill([0.0])
    assert delay.schedule([1.0], 0.010) == [[0.0], [0.0], [0.5], [1.0], [1.0]]
    assert delay.schedule([3.0], 0.010) == [[1.0], [1.0], [2.0], [3.0], [3.0]]
    assert delay.schedule([5.0], 0.020) == [[3.0]] * 5
    assert delay.schedule([5.0], 0.0) == [[5.0]] * 5


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.5])
def test_strength_scales_the_force(slide, strength):
    slide.reset(seed=0, options={"parameters": {"actuator.strength": strength}})
    act(slide, -0.5, 10)
    assert slide.world.state()[1][0] == pytest.approx(-strength * 5.0 * 0.2, rel=1e-9)


def test_a_force_drive_cuts_at_its_effort_and_leaves_other_joints_alone():
    drive = ForceDrive(("a", "b", "c"), ("b",), (7.0,))
    still = ([0.0] * 3, [0.0] * 3)
    assert drive.torque(still, [9.0], ()) == [0.0, 7.0, 0.0]
    assert drive.torque(still, [-9.0], ()) == [0.0, -7.0, 0.0]


def settled(env, parameters, target=0.0):
    env.reset(seed=0, options={"parameters": parameters})
    act(env, target, 400)
    q, qd = env.world.state()
    assert abs(qd[0]) < 1e-6
    return q[0]


def test_gravity_compensation_carries_the_nominal_mass(lift):
    assert settled(lift, {}, 0.5) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("parameters", "sag"),
    [
        ({"link.cage.mass": 3.0}, 1.0 * G / 400.0),
        ({"link.cage.payload": 2.0}, 2.0 * G / 400.0),
        ({"link.cage.payload": 2.0, "actuator.kp": 0.5}, 2.0 * G / 200.0),
        ({"link.cage.mass": 1.0, "actuator.kp": 1.6}, -1.0 * G / 640.0),
        ({"actuator.strength": 0.5}, 2.0 * G / 400.0),  # half of (kp e + m g) must be m g
        ({"link.cage.payload": 2.0, "actuator.strength": 1.25}, (4.0 / 1.25 - 2.0) * G / 400.0),
    ],
)
def test_what_compensation_does_not_know_of_hangs_from_the_spring(lift, parameters, sag):
    """At rest kp e = the weight that is not compensated."""
    assert settled(lift, parameters) == pytest.approx(-sag, rel=1e-4)


def test_an_encoder_bias_moves_the_joint_the_other_way(lift):
    assert settled(lift, {"sensor.position.bias": 0.3}, 0.0) == pytest.approx(-0.3, abs=1e-5)


@pytest.mark.parametrize("kd", [0.4, 1.0, 1.6])
def test_kd_is_a_damper(world, kd):
    """Without a spring, m v' = -kd v: v = exp(-kd t / m)."""
    w = world("slider", physics_dt=0.0002)
    drive = PDDrive([0.0], [4.0], [1000.0])
    drive.apply({p.name: p.nominal for p in drive.parameters} | {"actuator.kp": 1.0, "actuator.kd": kd})
    w.reset([0.0], [1.0])
    for _ in range(2500):
        w.step(drive.torque(w.state(), [0.0], [0.0]))
    assert w.state()[1][0] == pytest.approx(np.exp(-4.0 * kd * 0.5 / 2.0), rel=1e-3)


@pytest.mark.parametrize("kp", [0.5, 1.0])
def test_kp_is_a_spring(world, kp):
    """Without a damper, 2 kg on 200 N/m swing with a period of 2 pi sqrt(m / kp): half of it ends on the other side."""
    w = world("slider", physics_dt=0.0005)
    drive = PDDrive([200.0], [0.0], [1000.0])
    drive.apply({p.name: p.nominal for p in drive.parameters} | {"actuator.kp": kp, "actuator.kd": 1.0})
    w.reset([0.1], [0.0])
    half = np.pi * np.sqrt(2.0 / (200.0 * kp))
    for _ in range(round(half / 0.0005)):
        w.step(drive.torque(w.state(), [0.0], [0.0]))
    assert w.state()[0][0] == pytest.approx(-0.1, rel=1e-3)
    assert w.state()[1][0] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_torque_limit_saturates(lift, strength):
    """60 N at most, also 1 m away at 400 N/m: the first step accelerates by (60 s - 2 g) / 2."""
    lift.reset(seed=0, options={"parameters": {"actuator.strength": strength}})
    act(lift, 1.0, 1)
    assert lift.world.state()[1][0] == pytest.approx((60.0 * strength - 2.0 * G) / 2.0 * 0.02, rel=1e-6)


def test_a_position_target_arrives_late_by_its_latency(lift):
    lift.reset(seed=0, options={"parameters": {"actuator.latency": 0.02}})
    act(lift, 1.0, 1)
    assert lift.world.state()[0][0] == pytest.approx(0.0, abs=1e-9)
    act(lift, 1.0, 1)
    assert lift.world.state()[1][0] == pytest.approx((60.0 - 2.0 * G) / 2.0 * 0.02, rel=1e-6)


@pytest.mark.parametrize("backlash", [0.0, 0.02, 0.1])
def test_within_its_play_a_joint_is_not_held(lift, backlash):
    """2 kg more than it knows of hang on the far side of the gap: m g / kp below its target, and half of the play."""
    values = {"link.cage.payload": 2.0, "actuator.backlash": backlash}
    assert settled(lift, values) == pytest.approx(-2.0 * G / 400.0 - backlash / 2, abs=1e-6)


def test_without_a_load_it_lies_anywhere_within_its_play(lift):
    lift.reset(seed=0, options={"parameters": {"actuator.backlash": 0.1}})
    lift.world.reset([0.03], [0.0])
    act(lift, 0.0, 50)
    assert lift.world.state()[0][0] == pytest.approx(0.03, abs=1e-6)


@pytest.mark.parametrize("dead", [0.0, 0.05, 0.2])
def test_what_is_asked_for_is_less_by_the_dead_zone(slide, dead):
    """20 N at most: of 10 N are left 10 - 20 dead, on 2 kg; of less than 20 dead nothing."""
    slide.reset(seed=0, options={"parameters": {"actuator.dead_zone": dead}})
    act(slide, 0.5, 10)
    assert slide.world.state()[1][0] == pytest.approx((10.0 - 20.0 * dead) / 2.0 * 0.2, rel=1e-9)
    slide.reset(seed=0, options={"parameters": {"actuator.dead_zone": dead}})
    act(slide, -0.9 * dead, 10)
    assert slide.world.state()[1][0] == 0.0


def test_gravity_that_is_not_quite_compensated_is_not_noticed_in_the_dead_zone(lift):
    """60 N at most: 6 N are lost of what carries it, so it hangs 6 / 400 m lower."""
    assert settled(lift, {"actuator.dead_zone": 0.1}) == pytest.approx(-6.0 / 400.0, abs=1e-6)


def test_a_command_s_delay_varies_within_its_jitter(slide):
    """A force that begins at once would have given a speed of 10 t: how much is missing tells when it began."""
    late = []
    for seed in range(200):
        slide.reset(seed=seed, options={"parameters": {"actuator.latency": 0.01, "actuator.jitter": 0.02}})
        act(slide, 1.0, 1)
        first = slide.world.state()[1][0]
        act(slide, 1.0, 4)
        late.append(0.02 - first / 10.0)
        assert slide.world.state()[1][0] == pytest.approx(10.0 * 0.1, abs=10.0 * 0.0301)
    late = np.array(late)
    assert late.min() >= 0.01 - 1e-9
    assert np.mean(late >= 0.02 - 1e-9) == pytest.approx(0.5, abs=0.12)  # half of them come in the next control step
    assert late[late < 0.02 - 1e-9].mean() == pytest.approx(0.015, abs=1e-3)


def test_jitter_follows_from_the_episode_alone(slide):
    def run(seed, extra=None, action=1.0):
        slide.reset(seed=seed, options={"parameters": {"actuator.jitter": 0.02, **(extra or {})}})
        out = []
        for _ in range(20):
            before = slide.world.state()[1][0]
            act(slide, action, 1)
            out.append(slide.world.state()[1][0] - before)
        return np.array(out)

    assert run(3) == pytest.approx(run(3, {"sensor.position.noise": 0.5}), abs=1e-12)
    assert run(3) == pytest.approx(2.0 * run(3, action=0.5), abs=1e-9)
    assert np.abs(run(3) - run(4)).max() > 0.01
