"""Contract of long clips: each frame's prediction is the mean over exactly the windows that hold it (`average`), or
that of the first one (`reuse`, as a literal window-after-window sampler would do it); and all windows may look at the
clip's first frame. Compared with slow references that share no code with the loop."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch import Tensor

from tests.trainer.model.small import inputs, pose_images, small_encoder, small_scheduler, small_video_unet
from trainer.inference.denoise import denoise
from trainer.inference.sample import ddim_scheduler, ddim_steps
from trainer.inference.schedulers import SHORT_NAMES, make_scheduler
from trainer.inference.windows import Method, WindowPlan
from trainer.model.attention import sparse_causal_attention

pytestmark = pytest.mark.timeout(240)

FRAMES, LENGTH, STEPS, GUIDANCE = 9, 4, 3, 3.0


def given() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Latents, text of both halves, and pose maps of a clip of 9 frames."""
    latents, _, text = inputs(batch=1, frames=FRAMES)
    with torch.no_grad():
        features = small_encoder()(pose_images(batch=1, frames=FRAMES))
    return latents, torch.cat([text.flip(1), text]), features


def sampled(method: Method, overlap: int = 2, first_frame: str = "window") -> Tensor:
    latents, text, features = given()
    plan = WindowPlan(FRAMES, LENGTH, overlap, method)
    steps = denoise(
        small_video_unet(),
        ddim_scheduler(small_scheduler(), STEPS),
        latents,
        text,
        lambda start, stop: [x[:, :, start:stop] for x in features],
        plan,
        guidance=GUIDANCE,
        first_frame=first_frame,  # pyright: ignore
    )
    return list(steps)[-1].latents_BCFHW


def guided_noise(unet: torch.nn.Module, window: Tensor, timestep: int, text: Tensor, maps: list[Tensor]) -> Tensor:
    """The guided prediction of one window, its halves run one after the other."""
    halves = [unet(window, torch.tensor([timestep]), half[None], maps) for half in text]
    return halves[0] + GUIDANCE * (halves[1] - halves[0])


@torch.no_grad()
def test_each_frame_is_averaged_over_exactly_the_windows_that_hold_it() -> None:
    # Mutations tried: without `/ count_F`; `count_F += 1` for all frames; the loop's windows of step 0 at every step.
    latents, text, features = given()
    unet, ddim = small_video_unet(), ddim_scheduler(small_scheduler(), STEPS)
    plan = WindowPlan(FRAMES, LENGTH, 2)
    for step, timestep in enumerate(ddim.timesteps.tolist()):
        noise = torch.empty_like(latents)
        windows = plan.windows(step)
        predicted = {
            window: guided_noise(
                unet,
                latents[:, :, window.start : window.stop],
                timestep,
                text,
                [x[:, :, window.start : window.stop] for x in features],
            )
            for window in windows
        }
        for frame in range(FRAMES):
            holding = [window for window in windows if window.start <= frame < window.stop]
            noise[:, :, frame] = torch.stack([predicted[w][:, :, frame - w.start] for w in holding]).mean(0)
        latents = ddim.step(noise, timestep, latents, return_dict=False)[0]
    torch.testing.assert_close(sampled("average"), latents, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_reuse_is_the_papers_scheme_window_after_window() -> None:
    # One window is sampled to its end; what its last half was before each step is written into the first half of the
    # next window at that step. Mutation tried: `average` in place of `reuse`; `counts_from` always 0.
    latents, text, features = given()
    unet, done = small_video_unet(), torch.empty_like(latents)
    trajectory: dict[int, Tensor] = {}  # latents of all frames that are known, before each step
    for start in (0, 2, 4, 5):
        ddim = ddim_scheduler(small_scheduler(), STEPS)
        window = slice(start, start + LENGTH)
        known = {0: 0, 2: 4, 4: 6, 5: 8}[start] - start
        x, maps = latents[:, :, window], [y[:, :, window] for y in features]
        for timestep in ddim.timesteps.tolist():
            if start:
                x = torch.cat([trajectory[timestep][:, :, start : start + known], x[:, :, known:]], dim=2)
            kept = trajectory.setdefault(timestep, torch.empty_like(latents))
            kept[:, :, start + known : start + LENGTH] = x[:, :, known:]
            x = ddim.step(guided_noise(unet, x, timestep, text, maps), timestep, x, return_dict=False)[0]
        done[:, :, start + known : start + LENGTH] = x[:, :, known:]
    torch.testing.assert_close(sampled("reuse"), done, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_windows_can_look_at_the_clips_first_frame() -> None:
    # In a window that does not hold it, frame 0 looks at the clip's first frame alone, later ones at it and the frame
    # before. Mutations tried: `alone` 2 with a first frame; `first_BNC` left out of `sources`.
    unet = small_video_unet()
    attn = next(module for module in unet.modules() if hasattr(module, "attn_temp")).attn1
    width, frames, n = attn.to_q.in_features, 3, 5
    tokens, first = torch.randn(2 * frames, n, width), torch.randn(2, n, width)
    clip = rearrange(tokens, "(b f) n c -> b f n c", f=frames)
    for batch in range(2):
        for frame in range(frames):
            seen = [first[batch]] if frame == 0 else [first[batch], clip[batch, frame - 1]]
            expected = plain_attention(attn, clip[batch, frame], torch.cat(seen))
            found = sparse_causal_attention(attn, tokens, frames, first)[batch * frames + frame]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def plain_attention(attn: torch.nn.Module, x_NC: Tensor, context_MC: Tensor) -> Tensor:
    query, key, value = (
        rearrange(layer(y), "n (h d) -> h n d", h=attn.heads)
        for layer, y in ((attn.to_q, x_NC), (attn.to_k, context_MC), (attn.to_v, context_MC))
    )
    weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
    return attn.to_out[0](rearrange(weights @ value, "h n d -> n (h d)"))


@torch.no_grad()
def test_the_first_frame_of_the_clip_reaches_windows_that_do_not_hold_it() -> None:
    # Mutations tried: `block.held` always true; the blocks' memory not cleared at the end.
    assert not torch.allclose(sampled("average", first_frame="clip"), sampled("average"), atol=1e-3)
    latents, text, features = given()
    unet, ddim = small_video_unet(), ddim_scheduler(small_scheduler(), 1)
    short = [x[:, :, :LENGTH] for x in features]
    before = next(ddim_steps(unet, ddim, latents[:, :, :LENGTH], text[1:], text[:1], short)).latents_BCFHW
    plan = WindowPlan(FRAMES, LENGTH, 2)
    maps = lambda start, stop: [x[:, :, start:stop] for x in features]  # noqa: E731
    list(denoise(unet, ddim, latents, text, maps, plan, first_frame="clip"))
    after = next(ddim_steps(unet, ddim, latents[:, :, :LENGTH], text[1:], text[:1], short)).latents_BCFHW
    torch.testing.assert_close(after, before, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", [*SHORT_NAMES, "DEISMultistepScheduler"])
def test_other_schedulers_denoise_to_the_end(name: str) -> None:
    # With the true noise as prediction, every scheduler must come back to the clean latents.
    # Mutation tried: without `scale_model_input`.
    scheduler = make_scheduler(name, small_scheduler().config)
    scheduler.set_timesteps(20)
    clean = torch.full((1, 4, 2, 8, 8), 0.5)
    start = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma

    class Knows(torch.nn.Module):
        """Predicts exactly the noise that is in its input."""

        def forward(self, latents: Tensor, times_B: Tensor, text: Tensor, pose: object) -> Tensor:
            a = small_scheduler().alphas_cumprod[times_B.long().clamp(0, 999)[0]]
            return (latents - a.sqrt() * clean) / (1 - a).sqrt()

    plan, text = WindowPlan(2, 2), torch.zeros(1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    steps = denoise(Knows(), scheduler, start, text, lambda *_: None, plan, guidance=1.0, generator=generator)  # pyright: ignore
    end = list(steps)[-1].latents_BCFHW
    # the last alpha of the released sampler is not 1: a little noise stays
    torch.testing.assert_close(end, clean, atol=0.2, rtol=0)
