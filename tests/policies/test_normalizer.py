import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from simtoreal.policies.normalizer import Normalizer


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_statistics_do_not_depend_on_how_the_data_is_cut(sizes, seed):
    data = np.random.default_rng(seed).normal([0.0, 1e4, -3.0], [1.0, 0.01, 100.0], (sum(sizes), 3))
    normalizer = Normalizer(3)
    for part in np.split(data, np.cumsum(sizes)[:-1]):
        normalizer.update(part)
    np.testing.assert_allclose(normalizer.mean, data.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(normalizer.m2 / normalizer.count, data.var(axis=0), rtol=1e-5, atol=1e-12)


def test_it_gives_zero_mean_and_unit_variance():
    data = torch.from_numpy(np.random.default_rng(0).normal(5.0, 2.0, (10_000, 2)).astype(np.float32))
    normalizer = Normalizer(2)
    normalizer.update(data)
    assert_close(normalizer(data).mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    assert_close(normalizer(data).std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_it_is_the_identity_before_the_first_update_and_clips_at_ten():
    assert_close(Normalizer(3)(torch.tensor([1.0, -2.0, 50.0])), torch.tensor([1.0, -2.0, 10.0]))


def test_an_element_that_never_varied_is_not_blown_up():
    normalizer = Normalizer(1)
    normalizer.update(np.full((100, 1), 0.5))
    assert_close(normalizer(torch.tensor([[0.501]])), torch.tensor([[0.001]]))


def test_a_non_finite_observation_changes_nothing():
    normalizer = Normalizer(2)
    normalizer.update(np.ones((4, 2)))
    with pytest.raises(ValueError, match="non-finite"):
        normalizer.update(np.array([[1.0, np.nan]]))
    assert normalizer.count == 4


def test_numbers_that_come_scaled_stay_as_they_are():
    normalizer = Normalizer(3, scaled=1)
    rows = np.column_stack([np.arange(8.0), -np.arange(8.0), np.repeat([0.2, -0.4], 4)])
    normalizer.update(rows)
    found = normalizer(torch.tensor([[3.5, -3.5, -0.4], [3.5 + np.std(np.arange(8.0)), -3.5, 12.0]]).float())
    assert_close(found, torch.tensor([[0.0, 0.0, -0.4], [1.0, 0.0, 10.0]]))
