"""What distillation teaches: that nothing slips by one, what is perfect costs nothing, and where gradients go."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from distill import consistency, regression
from distill.alternating import run_in_bf16
from distill.consistency import teacher_step
from distill.regression import teacher_path
from distill.self_forcing import Rollouts, critic_loss, exit_early, roll_out, student_loss
from distill.self_forcing import Starts as RolloutStarts
from distill.teacher_forced import TeacherForced
from tests.test_video_loss import LATENTS, VALUES, Listener, Oracle, batch
from tests.test_video_model import SIZE, randomise, small
from tests.tiny_robot import CODE, SIDE, VIDEO, write_video_model
from video_model.flow import at_level, clean_from
from video_model.generator import Generator, load_generator
from video_model.latent_windows import LatentBatch
from video_model.layers import Actions
from video_model.model import VideoModel
from video_model.presets import VideoLossConfig
from video_model.rollout import denoise, keep, next_request, start

PLAIN = VideoLossConfig(context_noise=0.0, hold_share=0.0, drop_share=0.0, shift=2.0)
KINDS = ({"predicts": "flow"}, {"predicts": "clean", "forecast": True})


def numbered(*, forecasts: bool = False) -> LatentBatch:
    """Latent n is exactly n, action row t is t, and the forecast of n is 10 + n."""
    given = batch()
    latents = given.latents.round()
    return replace(given, latents=latents, forecasts=10 + latents if forecasts else None)


# Stage B


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["predicts"])
@pytest.mark.parametrize("mid_clip", [0.0, 1.0])
@pytest.mark.parametrize(("span", "sink"), [(3, 0), (2, 1), (1, 1)])
def test_a_student_is_asked_what_its_stream_will_ask(kind: dict[str, Any], mid_clip: float, span: int, sink: int):
    """All latents of a window in one pass, at any noise levels, against one after the other through a cache."""
    model = small(embodiments={"latent": VALUES}, **kind)
    given = batch(2)
    given = replace(given, forecasts=given.latents.flip(0) if "forecast" in kind else None)
    torch.manual_seed(5)
    case = TeacherForced.draw(given, replace(PLAIN, window=span, sink=sink, mid_clip_share=mid_clip), patch=2)
    times = torch.rand(2, LATENTS - 1)
    x, window = at_level(case.clean, case.noise, times), case.window
    with torch.no_grad():
        together = clean_from(x, case.flow(model, x, times), times)
        cache = model.empty_cache(batch=2, height=SIZE[0], width=SIZE[1], window=span, sink=sink)
        for place in range(LATENTS):
            told = Actions(window.actions[:, place], "latent", mid_clip=True) if window.has_actions[place] else None
            here = slice(place, place + 1)
            shown = {"actions": told, "cache": cache}
            shown["forecast"] = None if window.forecasts is None else window.forecasts[:, :, here]
            if 0 < place <= sink + span:  # beyond, a stream's sink moves along, a mask's stays
                earlier = slice(place - 1, place)
                alone = model(x[:, :, earlier], times[:, earlier], **shown)
                alone = clean_from(x[:, :, earlier], alone, times[:, earlier])
                torch.testing.assert_close(together[:, :, earlier], alone, atol=1e-5, rtol=1e-5)
            level = torch.zeros(2, 1)
            model(window.latents[:, :, here], level, conditioned=level + 1, append=True, **shown)


@pytest.mark.parametrize("oracle", [Oracle(), Listener()], ids=["told nothing more", "shown forecasts"])
@pytest.mark.parametrize("mid_clip", [0.0, 1.0])
def test_a_straight_teacher_and_its_equal_cost_nothing_and_a_slip_shows(oracle: Oracle, mid_clip: float):
    config = replace(PLAIN, mid_clip_share=mid_clip)
    given = numbered(forecasts=isinstance(oracle, Listener))
    for seed in range(4):
        torch.manual_seed(seed)
        costs, numbers = consistency.loss(oracle, given, config, teacher=oracle, teacher_steps=12, patch=2)
        assert costs.item() < 1e-6 and numbers["from_truth"].item() < 1e-6
        costs, numbers = regression.loss(
            oracle, given, config, teacher=oracle, teacher_steps=12, student_steps=4, patch=2
        )
        assert costs.item() < 1e-6 and numbers["from_truth"].item() < 1e-6
    slipped = replace(given, latents=given.latents.roll(1, dims=2), forecasts=None)
    _, numbers = consistency.loss(Oracle(), slipped, config, teacher=Oracle(), teacher_steps=12, patch=2)
    assert numbers["from_truth"].item() > 0.5


def test_the_teachers_last_step_ends_at_the_data_and_is_the_target():
    torch.manual_seed(0)
    case = TeacherForced.draw(numbered(), PLAIN, patch=2)
    step = teacher_step(case, Oracle(), teacher_steps=1, shift=2.0)
    assert (step.times == 1).all() and (step.nearer_times == 0).all()
    torch.testing.assert_close(step.x, case.noise)
    torch.testing.assert_close(step.nearer, case.clean)
    student = small(embodiments={"latent": VALUES})  # knows nothing: only the target can be right
    torch.manual_seed(0)
    costs, numbers = consistency.loss(student, numbered(), PLAIN, teacher=Oracle(), teacher_steps=1, patch=2)
    torch.testing.assert_close(costs.detach(), numbers["from_truth"])


def test_a_step_is_one_euler_step_of_the_teacher():
    teacher = small(embodiments={"latent": VALUES})
    torch.manual_seed(0)
    case = TeacherForced.draw(batch(), PLAIN, patch=2)
    step = teacher_step(case, teacher, teacher_steps=48, shift=2.0)
    torch.testing.assert_close(step.x, at_level(case.clean, case.noise, step.times))
    with torch.no_grad():
        expected = step.x + (step.nearer_times - step.times)[:, None, :, None, None] * case.flow(
            teacher, step.x, step.times
        )
    torch.testing.assert_close(step.nearer, expected)
    assert (step.nearer_times < step.times).all() and len(step.times.unique()) > 8, "each latent has its own level"


def test_a_path_is_asked_where_the_student_will_be():
    torch.manual_seed(0)
    case = TeacherForced.draw(numbered(), PLAIN, patch=2)
    asked, end = teacher_path(case, Oracle(), teacher_steps=12, student_steps=4, shift=1.0)
    assert [times.unique().item() for _, times in asked] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    for x, times in asked:
        torch.testing.assert_close(x, at_level(case.clean, case.noise, times), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, case.clean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_stage_b_trains_every_part_of_the_student_and_no_teacher(bf16: bool):
    student, teacher = (small(seed, embodiments={"latent": VALUES}).train() for seed in (0, 1))
    teacher.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        for method in (consistency.loss, lambda *a, **k: regression.loss(*a, student_steps=2, **k)):
            student.zero_grad()
            torch.manual_seed(0)
            costs, _ = method(student, batch(), VideoLossConfig(), teacher=teacher, teacher_steps=4, patch=2)
            costs.backward()
            assert [n for n, p in student.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


# Stage C: rollouts


@pytest.fixture(scope="module", params=[True, False], ids=["with a forecast", "without"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    found = load_generator(write_video_model(tmp_path_factory.mktemp("model"), forecast=request.param))
    randomise(found.model)
    return replace(found, config=replace(VIDEO, sampler="renoise", sampling_steps=3))


def rollout_starts(latents: int = 6, *, changed: int | None = None) -> RolloutStarts:
    """Two rollouts; `changed`: the row of actions that differs."""
    random = torch.Generator().manual_seed(3)
    first = torch.rand(2, 3, SIDE, SIDE, generator=random) * 2 - 1
    actions = 0.3 * torch.randn(2, 4 * (latents - 1), CODE, generator=random)
    if changed is not None:
        actions[:, changed] += 1
    return RolloutStarts(first, actions, ("a", "b"))


def rolled(generator: Generator, starts: RolloutStarts, scored: range = range(0)) -> Rollouts:
    torch.manual_seed(11)
    return roll_out(generator, starts, network=generator.model, scored=scored)


def test_a_rollout_is_the_one_of_inference(generator: Generator):
    """Same latents as `start`, `next_request`, `denoise` and `keep` by hand, and what led to each is noted with it."""
    starts = rollout_starts()
    found = rolled(generator, starts)
    torch.manual_seed(11)
    stream, _ = start(generator, starts.first, seeds=torch.randint(2**62, (2,)).tolist())
    with torch.inference_mode():
        assert torch.equal(found.latents[:, :, :1], generator.tokenizer.encode_next(starts.first[:, None], None)[0])
        for number, actions in enumerate(starts.actions.split(4, dim=1), 1):
            request = next_request(generator, stream, actions, embodiment="latent")
            latent = denoise(generator, request, stream, steps=3)
            keep(generator, stream, request, latent)
            torch.testing.assert_close(found.latents[:, :, number : number + 1], latent, atol=1e-5, rtol=1e-5)
            scaled = generator.embodiments["latent"].scaled(actions)
            assert torch.equal(found.actions[:, number], scaled)
            if found.forecasts is not None and request.expected is not None:
                expected = request.expected
                torch.testing.assert_close(found.forecasts[:, :, number : number + 1], expected, atol=1e-5, rtol=1e-5)
    assert found.forecasts is None or not found.forecasts[:, :, 0].any()
    assert not found.actions[:, 0].any()


@pytest.mark.parametrize("row", [0, 7, 8])
def test_an_action_of_a_rollout_is_noted_with_its_latent(generator: Generator, row: int):
    plain, other = rolled(generator, rollout_starts()), rolled(generator, rollout_starts(changed=row))
    number = row // 4 + 1  # actions 4n-4 .. 4n-1 lead to latent n
    for name in ("latents", "forecasts"):
        one, two = getattr(plain, name), getattr(other, name)
        if one is not None:
            differ = (one - two).abs().amax((0, 1, 3, 4)) > 1e-5
            assert differ.tolist() == [place >= number for place in range(6)], name
    assert (plain.actions != other.actions).any(-1).any(-1).any(0).nonzero().tolist() == [[number]]


class Scaled(nn.Module):
    """The model, its answers times a weight of each call's own, so that a gradient says which call it came through."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.weights = model, []

    def forward(self, *given: Any, **told: Any) -> Tensor:
        self.weights.append(torch.ones((), requires_grad=True))
        return self.weights[-1] * self.model(*given, **told)


def test_gradients_reach_the_exit_step_of_their_own_latent_alone(generator: Generator):
    seen: list[tuple[bool, bool]] = []
    listening = generator.model.register_forward_pre_hook(
        lambda model, given, told: seen.append((torch.is_grad_enabled(), told.get("append", False))), with_kwargs=True
    )
    network, starts, scored = Scaled(generator.model), rollout_starts(), range(2, 5)
    torch.manual_seed(11)
    found = roll_out(generator, starts, network=network, scored=scored)
    listening.remove()
    assert len(network.weights) == len(scored) == sum(gradient for gradient, _ in seen)
    assert not any(gradient and kept for gradient, kept in seen), "what is kept as the past is kept without gradient"
    for number in range(6):
        latent = found.latents[:, :, number].square().sum()
        gradients = torch.autograd.grad(latent, network.weights, retain_graph=True)
        assert [bool(gradient != 0) for gradient in gradients] == [number == other for other in scored]


def test_an_exit_is_any_step_and_what_the_model_takes_for_clean_there(generator: Generator):
    starts = rollout_starts(2)
    stream, _ = start(generator, starts.first, seeds=[1, 2])
    with torch.no_grad():
        request = next_request(generator, stream, starts.actions, embodiment="latent")
    network, levels = Scaled(generator.model), []
    network.register_forward_pre_hook(lambda network, given: levels.append(given[1].unique().item()))
    for seed in range(12):
        torch.manual_seed(seed)
        made = exit_early(generator, request, stream.copy(), network=network)
        assert made.requires_grad
        if levels[-1] == min(levels):  # the last step: as in inference
            with torch.no_grad():
                whole = denoise(generator, request, stream.copy(), steps=3)
            torch.testing.assert_close(made.detach(), whole)
    assert sorted(set(levels)) == pytest.approx([0.5, 0.8, 1.0])  # thirds, shifted by 2


# Stage C: scores


def numbered_rollouts(latents: int = 7, *, slip: int = 0, forecasts: bool = True) -> Rollouts:
    """Latent n is n, the four actions that lead to it are 4n-4 .. 4n-1, its forecast is 10 + n."""
    numbers = torch.arange(float(latents)).expand(2, 4, *SIZE, latents).movedim(-1, 2)
    rows = torch.arange(4.0 * latents).reshape(latents, 4, 1).expand(2, -1, -1, VALUES) - 4
    rows = torch.cat((torch.zeros_like(rows[:, :1]), rows[:, 1:]), dim=1)
    return Rollouts(numbers.roll(slip, dims=2), rows, 10 + numbers if forecasts else None)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_scored_window_keeps_its_actions_and_forecasts(place: int):
    window = numbered_rollouts().window(place, 3)
    assert window.has_actions.tolist() == [place > 0, True, True]
    torch.manual_seed(0)
    assert critic_loss(window, critic=Listener(), shift=2.0, patch=2).item() < 1e-6
    assert (
        critic_loss(
            numbered_rollouts(slip=1, forecasts=False).window(place, 3), critic=Oracle(), shift=2.0, patch=2
        ).item()
        > 0.5
    )


class Knowing(nn.Module):
    """Takes `clean` for the clean latents of whatever it is shown, and remembers what that was."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean, self.shown = clean, []

    def forward(self, latents: Tensor, times: Tensor, **told: Any) -> Tensor:
        self.shown.append((latents, times, told))
        return (latents - self.clean) / times.clamp(min=1e-6)[:, None, :, None, None]


def test_the_students_gradient_is_that_of_distribution_matching():
    made = torch.randn(2, 4, 3, *SIZE).requires_grad_()
    real, fake = torch.randn(2, 4, 3, *SIZE), torch.randn(2, 4, 3, *SIZE)
    window = replace(numbered_rollouts(forecasts=False).window(1, 3), latents=made)
    teacher, critic = Knowing(real), Knowing(fake)
    costs, _ = student_loss(window, teacher=teacher, critic=critic, shift=2.0, patch=2)
    costs.backward()
    assert made.grad is not None and not made.grad[:, :, 0].any(), "the first latent is given"
    distance = (made - real)[:, :, 1:].abs().mean((1, 2, 3, 4), keepdim=True).detach()
    expected = (fake - real)[:, :, 1:] / distance
    torch.testing.assert_close(made.grad[:, :, 1:] * expected.numel(), expected, atol=1e-4, rtol=1e-4)

    (shown, times, told), (shown_critic, _, _) = teacher.shown[0], critic.shown[0]
    assert torch.equal(shown, shown_critic) and not shown.requires_grad, "both see the same noise"
    assert told["mask"] is None and told["conditioned"].tolist() == [[True, False, False]] * 2
    torch.testing.assert_close(shown[:, :, 0], made[:, :, 0].detach())
    assert (times[:, 0] == 0).all() and torch.equal(times[:, 1], times[:, 2]) and (times[:, 1:] > 0).all()


def test_a_critic_that_is_the_teacher_moves_nothing(generator: Generator):
    network = generator.model
    found = rolled(generator, rollout_starts(), scored=range(2, 4))
    costs, numbers = student_loss(found.window(1, 3), teacher=network, critic=network, shift=2.0, patch=network.patch)
    assert costs.item() == 0 and numbers["distance"].item() > 1e-3
    network.zero_grad()
    costs.backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("bf16", [False, True])
def test_stage_c_trains_every_part_of_both_networks(generator: Generator, bf16: bool):
    student, critic, teacher = (another(generator, seed=seed) for seed in (1, 2, 3))
    for network in (student, critic, teacher) if bf16 else ():
        run_in_bf16(network, "cpu")
    found = rolled(replace(generator, model=student), rollout_starts(), scored=range(2, 4))
    assert found.latents.dtype == torch.float32
    costs, _ = student_loss(found.window(1, 3), teacher=teacher, critic=critic, shift=2.0, patch=student.patch)
    critics = critic_loss(found.detached().window(2, 3), critic=critic, shift=2.0, patch=student.patch)
    for network, loss in ((student, costs), (critic, critics)):
        loss.backward()
        silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert silent == []


def another(generator: Generator, *, seed: int) -> VideoModel:
    """The same network with other weights."""
    network = cast(VideoModel, VideoModel.from_config(generator.model.config))
    randomise(network, seed)
    return network
