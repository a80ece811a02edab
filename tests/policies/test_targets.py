from torch import ones, tensor
from torch.testing import assert_close

from simtoreal.policies.targets import soft_target


def test_soft_target_ignores_the_next_value_only_when_terminated():
    y = soft_target(
        reward=ones(2),
        terminated=tensor([0.0, 1.0]),
        next_q=tensor([[2.0, 2.0], [5.0, 5.0]]),
        next_log_prob=tensor([-1.0, -1.0]),
        alpha=0.5,
        gamma=0.9,
    )
    assert_close(y, tensor([3.25, 1.0]))  # 1 + 0.9 (2 + 0.5), and 1
