"""What is wrong with a sensor's numbers, and which samples never arrive, against what was asked for."""

import numpy as np
import pytest

from simtoreal.robots.tasks.cartpole import CartPoleSwingUp
from tests.robots.test_sensors import noise, push

N = 400  # episodes of a statistic


def test_a_scale_is_the_reading_over_the_truth(slide):
    slide.reset(seed=0, options={"parameters": {"sensor.velocity.scale": 1.07, "sensor.position.scale": 0.9}})
    for _ in range(20):
        (obs,) = push(slide, 1.0, 1)
        (q,), (qd,) = slide.world.state()
        assert obs == pytest.approx([0.9 * q, 1.07 * qd], rel=1e-6)


def test_a_drift_is_a_random_walk_of_its_size_after_a_second(slide):
    """Standard deviation drift sqrt(t) (IEEE Std 952: rate random walk), from 0, steps of which none knows another."""
    walks = np.array([noise(slide, {"sensor.position.drift": 0.3}, [0.0] * 50, seed=s) for s in range(N)])
    for step in (5, 25, 50):  # of 0.02 s
        assert walks[:, step - 1].std() == pytest.approx(0.3 * np.sqrt(0.02 * step), rel=3.5 / np.sqrt(2 * N))
    assert abs(walks[:, -1].mean()) < 4 * 0.3 / np.sqrt(N)
    steps = np.diff(walks, axis=1).ravel()
    assert np.corrcoef(steps[1:], steps[:-1])[0, 1] == pytest.approx(0.0, abs=4 / np.sqrt(steps.size))


def test_a_drift_is_its_own_and_as_large_as_it_is_now(slide):
    alone = noise(slide, {"sensor.position.drift": 0.3}, [0.0] * 50)
    others = {"sensor.position.noise": 0.0, "sensor.velocity.noise": 1.0, "sensor.velocity.drift": 0.2}
    assert noise(slide, {"sensor.position.drift": 0.15, **others}, [0.7] * 50) == pytest.approx(alone / 2, abs=1e-6)
    slide.reset(seed=5)
    push(slide, 0.0, 30)
    slide.set_parameters({"sensor.position.drift": 0.3})
    assert [obs[0] for obs in push(slide, 0.0, 5)] == pytest.approx(alone[30:35], abs=1e-6)


def test_a_reading_is_a_whole_multiple_of_the_resolution(slide):
    slide.reset(seed=0, options={"parameters": {"sensor.position.resolution": 0.05, "sensor.position.noise": 0.02}})
    seen, true = [], []
    for _ in range(60):
        seen.append(push(slide, 1.0, 1)[0][0])
        true.append(slide.world.state()[0][0])
    assert np.array(seen) / 0.05 == pytest.approx(np.round(np.array(seen) / 0.05), abs=1e-4)
    assert len(set(seen)) > 5
    rest = np.array(seen) - true  # of an even distribution one step wide, and the noise before it
    assert rest.std() == pytest.approx(np.hypot(0.05 / np.sqrt(12), 0.02), rel=0.3)


def test_all_that_is_wrong_adds_up_as_its_formula_says(slide):
    wrong = {"scale": 1.1, "bias": 0.2, "drift": 0.1, "noise": 0.3}
    parts = {what: noise(slide, {f"sensor.position.{what}": v}, [0.0] * 40) for what, v in wrong.items()}
    values = {f"sensor.position.{what}": value for what, value in wrong.items()}
    assert noise(slide, values, [0.0] * 40) == pytest.approx(sum(parts.values()), abs=1e-6)
    rounded = noise(slide, values | {"sensor.position.resolution": 0.5}, [0.0] * 40)
    assert rounded == pytest.approx(0.5 * np.round(sum(parts.values()) / 0.5), abs=1e-6)


def fresh(env, parameters, steps, seed):
    """Of each control step: is another reading there than before? The cart never stands still."""
    env.reset(seed=seed, options={"parameters": parameters})
    seen = [float(obs[1]) for obs in push(env, 0.01, steps)]
    return np.diff([0.0, *seen]) != 0.0


@pytest.mark.parametrize(
    ("dropout", "outage", "lasts"), [(0.3, 0.0, 1), (0.05, 0.1, 5), (0.02, 0.07, 4), (0.1, 0.02, 1)]
)
def test_a_sample_is_lost_by_its_chance_and_for_its_outage(slide, dropout, outage, lasts):
    """One is there if none of the `lasts` samples up to it began an outage: (1 - p)^lasts of them."""
    lost = {"sensor.velocity.dropout": dropout, "sensor.velocity.outage": outage}
    there = np.array([fresh(slide, lost, 100, seed)[10:] for seed in range(40)])
    share = (1.0 - dropout) ** lasts
    # neighbours within an outage are lost together: so many fewer are independent
    assert there.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) * lasts / there.size))
    longest = max(map(len, "".join(".#"[int(x)] for x in there[0]).replace("#", " ").split()), default=0)
    assert longest >= lasts


def test_the_first_sample_of_an_episode_is_never_lost(slide):
    for seed in range(40):
        obs, _ = slide.reset(
            seed=seed, options={"parameters": {"sensor.position.dropout": 0.5, "sensor.position.bias": 1.0}}
        )
        assert obs[0] == pytest.approx(1.0 + slide.world.state()[0][0], abs=1e-6)


def test_of_a_slow_sensor_whole_samples_are_lost(slide):
    """20 N on 2 kg: the speed is 10 t, so a reading tells when it was taken."""
    slow = {"sensor.velocity.period": 0.05, "sensor.velocity.latency": 0.01, "sensor.velocity.dropout": 0.4}
    gaps = []
    for seed in range(20):
        slide.reset(seed=seed, options={"parameters": slow})
        taken = np.array([obs[1] for obs in push(slide, 1.0, 60)]) / 10.0
        assert taken / 0.05 == pytest.approx(np.round(taken / 0.05), abs=1e-4)
        assert (np.diff(taken) > -1e-6).all()
        gaps += np.diff(np.unique(np.round(taken / 0.05)).astype(int)).tolist()
    assert set(gaps) >= {1, 2, 3}
    assert np.mean(gaps) == pytest.approx(1 / 0.6, rel=0.15)  # geometric


def test_losses_depend_neither_on_the_policy_nor_on_another_sensor(slide):
    one = {"sensor.velocity.dropout": 0.3}
    reference = fresh(slide, one, 100, 3)
    more = one | {"sensor.position.dropout": 0.5, "sensor.position.noise": 0.5, "link.cart.mass": 3.0}
    assert (fresh(slide, more, 100, 3) == reference).all()
    assert (fresh(slide, one, 100, 4) != reference).any()


@pytest.mark.parametrize("periods", [(0.0, 0.03), (0.03, 0.0, 0.07), (0.05, 0.02, 0.0)])
def test_a_period_can_change_while_samples_are_lost(periods):
    """What was sampled at another rate says nothing of what is lost now; a reading never gets older than it can be."""
    task = CartPoleSwingUp()
    lossy = {"sensor.cart_position.dropout": 0.5, "sensor.cart_position.outage": 0.5}
    for seed in range(6):
        task.reset(seed=seed, options={"parameters": lossy})
        truth = [task.world.state()[0][0]]
        for k in range(40):
            if k % 13 == 0:
                task.set_parameters({"sensor.cart_position.period": periods[(k // 13) % len(periods)]})
            task.step(np.ones(1, np.float32))
            truth.append(task.world.state()[0][0])
            assert min(truth) - 1e-9 <= task.readings["cart_position"][0] <= max(truth) + 1e-9
    task.close()
