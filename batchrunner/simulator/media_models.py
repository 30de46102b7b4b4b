"""Models that are billed by more than tokens: one for each unit, each way in which a catalog shows it, and each modality."""

from __future__ import annotations

from decimal import Decimal

from batchrunner.simulator.model import Model, Price

_FREE_TOKENS = (Price(),)

MEDIA_MODELS = (
    Model(
        id="simulated-image",
        display_name="Simulated Image",
        context_length=4_096,
        max_output_tokens=0,
        prices=_FREE_TOKENS,
        category="image",
        output_modalities=("image",),
        units={"image": Decimal("0.04")},
        parameters=(
            {"name": "n", "type": "integer", "min": 1, "max": 4, "default": 1},
            {"name": "size", "type": "string", "options": ["512x512", "1024x1024"], "default": "1024x1024"},
        ),
    ),
    Model(
        id="simulated-image-tokens",
        display_name="Simulated Image (billed by prompt and picture)",
        context_length=4_096,
        max_output_tokens=0,
        prices=(Price(Decimal("0.000005"), Decimal(0)),),
        category="image",
        input_modalities=("text", "image"),
        output_modalities=("image",),
        units={"image": Decimal("0.011")},
        in_rows=True,
    ),
    Model(
        id="simulated-speech",
        display_name="Simulated Speech",
        context_length=4_096,
        max_output_tokens=0,
        prices=_FREE_TOKENS,
        category="audio",
        output_modalities=("audio",),
        units={"audio-second": Decimal("0.00025")},
        in_rows=True,
        parameters=({"name": "voice", "type": "string", "options": ["low", "high"], "default": "low"},),
    ),
    Model(
        id="simulated-transcription",
        display_name="Simulated Transcription",
        context_length=4_096,
        max_output_tokens=0,
        prices=_FREE_TOKENS,
        category="audio",
        input_modalities=("audio",),
        units={"audio-second": Decimal("0.0001")},
    ),
    Model(
        id="simulated-video",
        display_name="Simulated Video",
        context_length=4_096,
        max_output_tokens=0,
        prices=_FREE_TOKENS,
        category="video",
        input_modalities=("text", "image"),
        output_modalities=("video",),
        units={"video-second": Decimal("0.05")},
        parameters=({"name": "seconds", "type": "integer", "options": [4, 8, 12], "default": 4},),
    ),
    Model(
        id="simulated-detect",
        display_name="Simulated Detect",
        context_length=32_768,
        max_output_tokens=0,
        prices=(Price(request=Decimal("0.002")),),
        category="detect",
        input_modalities=("text", "image"),
        output_modalities=("score",),
    ),
    Model(
        id="simulated-custom",
        display_name="Simulated Custom (billed by a unit that no answer counts)",
        context_length=32_768,
        max_output_tokens=4_096,
        prices=_FREE_TOKENS,
        category="custom",
        units={"custom": Decimal("0.003")},
        in_rows=True,
    ),
    Model(
        id="simulated-offline",
        display_name="Simulated Offline",
        context_length=32_768,
        max_output_tokens=4_096,
        prices=(Price(Decimal("0.0000001"), Decimal("0.0000002")),),
        status="offline",
    ),
)
