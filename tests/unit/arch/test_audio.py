"""Sounds as tokens, rows, bytes and operations, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.arch.audio import audio_rows, audio_tokens
from simserve.arch.bidirectional import Rows
from simserve.arch.encoder import (
    encoded_tokens,
    encoder_flop,
    encoder_ops,
    encoder_parameters,
    encoder_weight_bytes,
    feature_bytes,
)
from simserve.arch.memory import parameter_count
from simserve.errors import Infeasible, SpecError
from simserve.spec.audio import AudioSpec
from simserve.spec.base import parse
from simserve.spec.model import ModelSpec, load_model, model_names

QWEN2, OMNI = "Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2.5-Omni-7B"


def audio_of(name: str) -> AudioSpec:
    """A model's encoder."""
    audio = load_model(name).audio
    assert audio is not None
    return audio


def test_models_that_hear() -> None:
    """These and no others; one of them sees too."""
    assert [name for name in model_names() if load_model(name).audio] == [QWEN2, OMNI]
    assert list(load_model(OMNI).encoders) == ["vision", "audio"]
    assert list(load_model(QWEN2).encoders) == ["audio"]


def test_parameters_are_the_published_count() -> None:
    """Language model and encoder together, typed in here once more; of the thinker its files, in GB of two bytes."""
    model, omni = load_model(QWEN2), load_model(OMNI)
    files_gb = 3 * 4.99 + 2.9

    assert 8_397_094_912 == model.published_parameters == parameter_count(model) + encoder_parameters(model.audio)
    whole = parameter_count(omni) + encoder_parameters(omni.vision) + encoder_parameters(omni.audio)
    assert 2 * whole / 1e9 == pytest.approx(files_gb, abs=0.02)
    both = encoder_parameters(omni.vision) + encoder_parameters(omni.audio)
    assert encoder_weight_bytes(*omni.encoders.values()) == 2 * both


def test_parts_that_are_no_matrices_by_hand() -> None:
    """Biases but of keys, norms, and the table of positions that Qwen2.5-Omni computes instead; its marks of ends."""
    layer = 3 * 1280 + 5120 + 1280 + 4 * 1280
    shared = 2 * 1280 + 32 * layer + 2 * 1280

    assert audio_of(QWEN2).small_parameters == shared + 1500 * 1280 + 4096
    assert audio_of(OMNI).small_parameters == shared + 3584 + 2 * 3584


@pytest.mark.parametrize(
    ("duration_ms", "tokens"),
    [(10_000, 250), (30_000, 750), (1_000, 25), (7_330, 183), (7_420, 185), (7_421, 186), (1, 1), (29_980, 749)],
)
def test_25_tokens_a_second(duration_ms: int, tokens: int) -> None:
    """733 frames are 367 positions and 183 tokens, the last position in none; a begun frame counts: 743 of 7,421 ms."""
    assert audio_tokens(audio_of(QWEN2), duration_ms) == tokens
    assert audio_tokens(audio_of(OMNI), duration_ms) == tokens


@pytest.mark.parametrize(
    ("name", "duration_ms", "rows", "tokens"),
    [
        (QWEN2, 1_000, (1500,), 25), (QWEN2, 30_000, (1500,), 750), (QWEN2, 90_000, (1500,), 750),
        (OMNI, 1_000, (50,), 25), (OMNI, 7_330, (100, 100, 100, 67), 183), (OMNI, 30_000, (100,) * 15, 750),
        (OMNI, 300_000, (100,) * 150, 7500), (OMNI, 301_000, (100,) * 150, 7500),
    ],
)  # fmt: skip
def test_windows(name: str, duration_ms: int, rows: Rows, tokens: int) -> None:
    """Filled up to 30 s and cut off there, or as long as the sound, up to 300 s."""
    assert audio_rows(audio_of(name), duration_ms) == rows
    assert audio_tokens(audio_of(name), duration_ms) == tokens


def test_windows_without_limit_follow_one_another() -> None:
    """70 s in windows of 30 s: three of them, the last filled up or as long as is left; 1,750 tokens."""
    padded = audio_of(QWEN2).model_copy(update={"max_windows": None})

    assert audio_rows(padded, 70_000) == (1500, 1500, 1500)
    assert audio_rows(padded.model_copy(update={"padded": False}), 70_000) == (1500, 1500, 500)
    assert audio_tokens(padded, 70_000) == 1750


def test_the_projector_works_on_silence_too() -> None:
    """750 tokens of a second under Qwen2-Audio, of which 25 are read; the features are of those."""
    assert encoded_tokens(audio_of(QWEN2), [audio_rows(audio_of(QWEN2), 1_000)] * 2) == 1500
    assert encoded_tokens(audio_of(OMNI), [audio_rows(audio_of(OMNI), 1_000)] * 2) == 50
    assert feature_bytes(audio_of(QWEN2), 250) == 250 * 4096 * 2


@pytest.mark.parametrize("name", [QWEN2, OMNI])
def test_matrices_of_a_pass_are_those_of_the_parameters(name: str) -> None:
    """Every weight but norms, biases and tables is in a GEMM; the first convolution runs for two frames a position."""
    audio = audio_of(name)
    ops = encoder_ops(audio)
    once = sum(g.n * g.k * (1 if g.name == "conv_1" else g.count) for g in (*ops.rows, *ops.tokens))

    assert once == encoder_parameters(audio) - audio.small_parameters
    assert [g.count for g in ops.rows if g.name == "conv_1"] == [2]


def test_flop_of_a_pass_by_hand() -> None:
    """30 s: 3,000 frames and 1,500 positions of three taps, 32 layers, 750 tokens through one matrix."""
    convolutions = 2 * 3000 * 3 * 128 * 1280 + 2 * 1500 * 3 * 1280 * 1280
    layer = 2 * 1500 * (4 * 1280 * 1280 + 2 * 1280 * 5120) + 4 * 1500**2 * 1280

    assert encoder_flop(audio_of(QWEN2), [(1500,)]) == convolutions + 32 * layer + 2 * 750 * 1280 * 4096


def test_ranks_split_heads_and_columns() -> None:
    """All-reduces after attention and MLP; what does not divide is refused."""
    half = encoder_ops(audio_of(QWEN2), 2)

    assert half.attentions[0].heads == 10
    assert (half.row_reduces[0].count, half.row_reduces[0].bytes_per_token) == (64, 2560)
    assert half.token_reduces[0].bytes_per_token == 8192
    with pytest.raises(Infeasible, match="tensor_parallel_size 8 does not divide the 20 heads of the audio encoder"):
        encoder_ops(audio_of(QWEN2), 8)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"projector": [2048]}, "projector ends at 2048, out_hidden_size is 4096"),
        ({"projector": [64], "out_hidden_size": 64}, "audio.out_hidden_size 64 is not hidden_size 4096"),
        ({"pool_size": 7}, "window must be a multiple of pool_size 7"),
        ({"window": None}, "audio.window"),
        ({"max_source_positions": 1500}, "unknown key"),
    ],
)
def test_what_fits_no_encoder_is_refused_in_one_line(changes: dict[str, Any], problem: str) -> None:
    """Naming the key."""
    fields = load_model(QWEN2).model_dump(mode="json")
    with pytest.raises(SpecError) as raised:
        parse(ModelSpec, {**fields, "audio": {**fields["audio"], **changes}}, file="m.yaml")

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_models_that_hear_nothing_dump_as_before() -> None:
    """No key of audio, so that fingerprints of searches stay; the others come back from what they dump."""
    for name in ("Qwen/Qwen3-8B", "Qwen/Qwen3-VL-8B-Instruct"):
        assert "audio" not in load_model(name).model_dump(mode="json")
    for name in (QWEN2, OMNI):
        assert ModelSpec.model_validate(load_model(name).model_dump(mode="json")) == load_model(name)
