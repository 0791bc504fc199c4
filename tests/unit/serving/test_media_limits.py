"""Limits of media files."""

import pytest

from llava_av.media.info import MediaError
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_limits import decode_within, media_sample
from tests.media_samples import write_video


@pytest.mark.parametrize("name", ["sparse.mkv", "sparse.mp4"])
def test_frames_are_counted_where_the_frame_rate_is_a_guess(tmp_path, name):
    """Browsers record Matroska with times in milliseconds, which FFmpeg takes for 1,000 frames a second."""
    path = write_video(tmp_path / name, [0.0, 0.02, 1.2])
    located = media_sample("request", {"video": ["part"]}, {"part": path}, use_audio=False)
    clip = decode_within(located, ServingLimits(media_frames=3), MediaRecipe(), ImageResizing())
    assert len(clip.videos) == 1
    with pytest.raises(MediaError, match="has 3 frames, must be ≤ 2"):
        decode_within(located, ServingLimits(media_frames=2), MediaRecipe(), ImageResizing())
