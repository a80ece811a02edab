"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347), as Stable-Baselines3 does it.

    A_t     = sum_k (gamma lambda)^k delta_{t+k},  delta_t = r_t + gamma V(s_{t+1}) - V(s_t)   (GAE, arXiv 1506.02438)
    L_pi    = -mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A),   ratio = pi(a|s) / pi_old(a|s)
    L_s     = mean (W h - s)^2
    L       = L_pi + value_weight mean (V - (A + V_old))^2 - entropy_weight mean H(pi) + estimate_weight L_s

A truncated episode bootstraps from its last observation. A is normalized in each minibatch. With `target_kl`, an update
ends before the step at which mean (ratio - 1 - log ratio) exceeds 1.5 times it. Gradients are clipped to a norm.

The action is a Gaussian, clipped to [-1, 1], or its tanh, or a choice (`distributions`). Options beyond the paper:
observations normalized by running statistics; values that also see a privileged observation (Pinto et al. 2017, arXiv
1710.06542), and where the policy sees images nothing else; L_s, by which the policy's last hidden layer h learns to
tell the privileged observation s, normalized, by a linear layer W that nothing but training has (as features of a game
in Lample and Chaplot 2017, arXiv 1609.05521); a history of observations; layers that actor and value share; images
(`convolutions`); a recurrent layer (`recurrent`). The latter is one of the actor's and another of the value's, which
may see more and whose error is of another size, unless they share all layers; minibatches are then whole sequences of
`sequence_length` control steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.adam import gradient_norm, shrinkage
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.backprop import linear_gradients
from simtoreal.policies.graphs import Skip
from simtoreal.policies.images import Shape
from simtoreal.policies.minibatches import CapturedEpochs, Columns, Minibatch, Parts, approximate_kl
from simtoreal.policies.networks import MAX_BATCH
from simtoreal.policies.products import arithmetic, product
from simtoreal.policies.recurrent import WITH_IT, recurrent_checks
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.stochastic import StochasticAgent, StochasticConfig, orthogonal


@dataclass(frozen=True, kw_only=True)
class PPOConfig(StochasticConfig):
    """Settings of PPO, besides those of any stochastic policy; a value out of range raises ValueError.

    `rollout` is control steps of each environment between updates; `clip_value`, if above 0, bounds how far a value may
    move in an update; `target_kl` 0 never stops early. `estimate_weight` is what the squared error counts of what the
    policy's layers tell of the privileged observation. `recurrent` is the units of a recurrent layer, 0: none;
    `sequence_length` is how many control steps its gradient goes back. `compile` makes machine code of the gradient
    step on a CPU, once for a kind of network (None: whoever trains decides); not of recurrent ones or of images.
    """

    gae_lambda: float = 0.95
    rollout: int = 2048
    batch_size: int = 64
    epochs: int = 10
    clip: float = 0.2
    clip_value: float = 0.0
    entropy_weight: float = 0.0
    value_weight: float = 0.5
    max_gradient: float = 0.5
    target_kl: float = 0.0
    normalize_advantage: bool = True
    estimate_weight: float = 0.0
    recurrent: int = 0
    sequence_length: int = 32
    compile: bool | None = None

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        length = self.sequence_length
        of_sequences = recurrent_checks(self.recurrent, length, self.history, self.batch_size)
        if self.recurrent and length >= 1:
            whole = self.rollout >= 1 and self.rollout % length == 0
            of_sequences |= {"rollout": (whole, f"a multiple of sequence_length {length} {WITH_IT}")}
        return super().checks() | {
            "gae_lambda": (0 <= self.gae_lambda <= 1, "from 0 to 1"),
            "rollout": (self.rollout >= 1, "at least 1"),
            "batch_size": (2 <= self.batch_size <= MAX_BATCH, f"from 2 to {MAX_BATCH}"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "clip": (self.clip > 0, "above 0"),
            "clip_value": (self.clip_value >= 0, "at least 0"),
            "entropy_weight": (self.entropy_weight >= 0, "at least 0"),
            "value_weight": (self.value_weight >= 0, "at least 0"),
            "max_gradient": (self.max_gradient > 0, "above 0"),
            "target_kl": (self.target_kl >= 0, "at least 0"),
            "estimate_weight": (
                self.estimate_weight >= 0 and not (self.estimate_weight and self.recurrent),
                "at least 0, of a recurrent policy 0",
            ),
            "compile": (not (self.compile and self.recurrent), f"false {WITH_IT}"),
            **of_sequences,
        }


class PPO(StochasticAgent[PPOConfig]):
    """Proximal policy optimization over raw observations."""

    config_class = PPOConfig

    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        super()._build(observation_size, privileged_size, choices)
        self._captured: CapturedEpochs | None = None
        self.estimate: nn.Linear | None = None
        if self.config.estimate_weight:
            if not self._sees_state:
                raise ValueError(
                    "estimate_weight needs a privileged observation that the value sees: set privileged, and shared to "
                    "false; else set it to 0"
                )
            self.estimate = nn.Linear(self.config.hidden[-1], privileged_size).to(self.device)
            orthogonal(self.estimate, 1.0)
            self._optimize(self.policy, self.value, self.estimate)

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """All epochs over one rollout; the means of its metrics, under SB3's names. Raises NonFiniteError."""
        with torch.inference_mode(), arithmetic(self.config.matmul_precision, self.device):
            return self._update(rollout)

    def _update(self, rollout: Rollout) -> dict[str, Tensor]:
        config = self.config
        x, state = self._inputs(rollout.obs, rollout.privileged)
        data = Columns(x, state if state is not x else None, rollout, config.recurrent, config.sequence_length)
        if self.captures:
            return self._metrics(self._learn_captured(data, rollout))
        seen: list[Parts] = []
        for _ in range(config.epochs):
            for batch in data.shuffled(self._order(rollout)).split(config.batch_size):
                parts, gradients = self.gradients(batch)
                if config.target_kl and self._too_far(parts):
                    return self._metrics(seen)
                self._step(parts, gradients)
                seen.append(parts)
        return self._metrics(seen)

    @property
    def captures(self) -> bool:
        """Are its gradient steps captured or compiled? Those of sequences are not all of one shape."""
        return (self.device.type == "cuda" or bool(self.config.compile)) and not self.config.recurrent

    def _learn_captured(self, data: Columns, rollout: Rollout) -> list[Parts]:
        config = self.config
        if self._captured is None or not self._captured.fits(data):
            whole = -(-len(data) // config.rollout) * config.rollout  # of as many environments, had all been valid
            self._captured = CapturedEpochs(self, data, whole, config.batch_size, config.epochs)
        orders = (self._order(rollout) for _ in range(config.epochs))
        return self._captured.learn(data, orders)

    def _order(self, rollout: Rollout) -> Tensor:
        """Rows of a rollout for the minibatches of an epoch: at random, but of sequences those of a minibatch are its
        `Steps`."""
        count = len(rollout.returns)
        if rollout.sequences is None:
            return torch.randperm(count, generator=self.rng, device=self.device)
        envs, length = rollout.sequences.envs, self.config.sequence_length
        firsts = torch.arange(count, device=self.device).view(-1, length, envs)[:, 0].flatten()
        firsts = firsts[torch.randperm(len(firsts), generator=self.rng, device=self.device)]
        steps = envs * torch.arange(length, device=self.device)[:, None]
        return torch.cat([(steps + some).flatten() for some in firsts.split(self.config.batch_size // length)])

    def _recurrent(self) -> int:
        return self.config.recurrent

    def _check_image(self, image: Shape, privileged_size: int) -> None:
        super()._check_image(image, privileged_size)
        if self.config.recurrent:
            raise ValueError("images go with no recurrent layer here; set recurrent to 0")
        if self.config.compile:
            raise ValueError("the gradient step on images is not compiled here; set compile to false")

    def gradients(self, batch: Minibatch) -> tuple[Parts, list[Tensor]]:
        """What the loss of a minibatch is made of, and its gradients to all weights, in the order of the optimizer's.

        By hand, as autograd would: dL/dlog pi = -ratio A / B where the unclipped term is the smaller one, else 0.
        """
        config = self.config
        with torch.no_grad():
            trace = self.policy.body.trace(batch.x)
            log_prob, entropy, back = self.policy.head.evaluate(trace.output, batch.action)
            value_body, value_head = self._value_body, self._value_head
            judged = trace if config.shared else value_body.trace(batch.state)
            value = torch.addmv(value_head.bias, judged.output, value_head.weight[0])

            advantage = batch.advantage
            if config.normalize_advantage and len(advantage) > 1:
                std, mean = torch.std_mean(advantage)
                advantage = (advantage - mean) / (std + 1e-8)
            log_ratio = log_prob - batch.log_prob
            ratio = log_ratio.exp()
            gain, clipped = ratio * advantage, ratio.clamp(1.0 - config.clip, 1.0 + config.clip) * advantage
            to_log_prob = torch.where(gain <= clipped, gain, 0.0) / -len(gain)
            error = value - batch.returns
            to_value = error
            if config.clip_value:
                change = value - batch.value
                error = batch.value + change.clamp(-config.clip_value, config.clip_value) - batch.returns
                to_value = torch.where(change.abs() <= config.clip_value, error, 0.0)
            to_value = (to_value * (2.0 * config.value_weight / len(error)))[:, None]

            to_latent, of_head = back(to_log_prob, -config.entropy_weight)
            of_value_head = linear_gradients(judged.output, to_value)
            to_judged = to_value * value_head.weight
            if config.shared:
                to_latent = to_latent + to_judged
            of_estimate: list[Tensor] = []
            if self.estimate is not None:
                to_estimate = self._estimate_gradient(trace.output, batch.state)
                of_estimate = linear_gradients(trace.output, to_estimate)
                to_latent = to_latent + product(to_estimate, self.estimate.weight)
            of_body = self.policy.body.weight_gradients(trace, to_latent)
            of_value_body = [] if config.shared else value_body.weight_gradients(judged, to_judged)
        parts = Parts(torch.min(gain, clipped), log_ratio, error, entropy)
        return parts, [*of_body, *of_head, *of_value_body, *of_value_head, *of_estimate]

    def _estimate_gradient(self, latent: Tensor, state: Tensor) -> Tensor:
        """Of the loss to what the policy's last hidden layer [B, h] tells of the privileged part of `state`, [B, p]."""
        assert self.estimate is not None
        truth = state[:, -self.estimate.out_features :]
        return (self.estimate(latent) - truth) * (2.0 * self.config.estimate_weight / truth.numel())

    def _networks(self) -> dict[str, nn.Module]:
        return super()._networks() | ({} if self.estimate is None else {"estimate": self.estimate})

    def step_captured(self, parts: Parts, gradients: list[Tensor], skip: Skip, stop: Tensor) -> Tensor:
        """As the loop over minibatches in `update`, with nothing that waits for the device: 1 where there was no step,
        for a gradient that is not finite or because the policy has moved too far, which `stop` keeps."""
        norm = gradient_norm(gradients)
        if self.config.target_kl:
            stop.copy_(torch.maximum(stop, self._too_far(parts).float()))
        skip.note("the gradient's norm", torch.where(stop > 0, 0.0, norm))  # none is taken after the bound
        no_step = torch.maximum(skip.flag, stop)
        self.optimizers["all"].step(gradients, no_step, shrinkage(norm, self.config.max_gradient))
        return no_step

    def _step(self, parts: Parts, gradients: list[Tensor]) -> None:
        """One step along the gradients, clipped to a norm. Raises NonFiniteError."""
        norm = gradient_norm(gradients)
        if not math.isfinite(value := norm.item()):
            raise NonFiniteError(f"the gradient's norm is {value}, the loss {self._loss(parts).item()}")
        clips = value + 1e-6 > self.config.max_gradient
        self.optimizers["all"].step(gradients, shrink=shrinkage(norm, self.config.max_gradient) if clips else None)

    def _too_far(self, parts: Parts) -> Tensor:
        """Has the policy moved beyond the bound on KL?"""
        return approximate_kl(parts.log_ratio) > 1.5 * self.config.target_kl

    def _loss(self, parts: Parts) -> Tensor:
        config = self.config
        value_loss = parts.value_error.square().mean()
        return config.value_weight * value_loss - parts.gain.mean() - config.entropy_weight * parts.entropy

    def _metrics(self, seen: list[Parts]) -> dict[str, Tensor]:
        """Means over all minibatches that were learned from, under SB3's names; empty where there was none."""
        if not seen:
            return {}
        log_ratio = torch.cat([parts.log_ratio for parts in seen])
        return {
            "policy_gradient_loss": -torch.cat([parts.gain for parts in seen]).mean(),
            "value_loss": torch.cat([parts.value_error for parts in seen]).square().mean(),
            "entropy_loss": -torch.stack([parts.entropy for parts in seen]).mean(),
            "approx_kl": approximate_kl(log_ratio),
            "clip_fraction": ((log_ratio.exp() - 1.0).abs() > self.config.clip).float().mean(),
            "std": self.policy.head.spread(),
        }
