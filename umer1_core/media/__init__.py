"""Images and clips by reference: opened where they lie, hashed, checked, shown to every model alike.

Images are files, members of tar and zip archives, or Parquet cells. Clips are folders of frames, tar or zip members, or
video files; frames are chosen as upstream does (`linspace` over the natural order). Stored bytes are never changed, and
an ordinary JPEG travels as the bytes it is. What must be done to a picture before a model sees it is found once, by
`describe`, and stands in `Media.notes`:

    orientation:6      turned as its EXIF says (2 to 8); `width` and `height` are those of the upright picture
    mode:CMYK          Pillow's name of the stored pixels, made RGB: P, 1, CMYK, I;16 (scaled, not clipped), ...;
                       with an alpha channel (RGBA, LA, PA) it is shown on white
    alpha:key          a colour or palette entry is transparent: it is shown on white
    animation:12       the first of 12 pictures (GIF, APNG, WebP, TIFF pages) is shown
    format:TIFF        stored in a format that servers need not know
    resize:1512x1036   more pixels than `MediaRules.max_pixels`: shown at this width and height
    frames:16          of a video file, so many frames instead of 8

An RGB or grey JPEG, PNG or WebP within the limits has no notes. Notes of a clip are those of its frames together. With
the hash, they make a side's identity: a picture shown otherwise is another input.
"""

from umer1_core.media.archives import Archive, archive, tar_reader
from umer1_core.media.describing import describe
from umer1_core.media.paths import (
    ARCHIVE_SUFFIXES,
    FRAME_SUFFIXES,
    VIDEO_SUFFIXES,
    check_member,
    is_archive,
    is_video_file,
    local_path,
    safe_join,
    safe_uri,
)
from umer1_core.media.reading import choose_frames, clip_from_folder, natural_sort, read_frames, read_image
from umer1_core.media.rendering import open_image, rendered
from umer1_core.media.video import clip_from_video
from umer1_core.media.wire import data_url, file_url, image_type, is_rendered

__all__ = [
    "ARCHIVE_SUFFIXES",
    "FRAME_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Archive",
    "archive",
    "check_member",
    "choose_frames",
    "clip_from_folder",
    "clip_from_video",
    "data_url",
    "describe",
    "file_url",
    "image_type",
    "is_archive",
    "is_rendered",
    "is_video_file",
    "local_path",
    "natural_sort",
    "open_image",
    "read_frames",
    "read_image",
    "rendered",
    "safe_join",
    "safe_uri",
    "tar_reader",
]
