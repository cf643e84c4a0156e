"""Every awkward picture: what is noted, the size a person sees, what a model is shown; or the reason it is refused."""

import io

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from schemas.sources import MediaRules
from tests.media.pictures import ORIENTATION, encoded, jpeg, quarters, turned_jpeg
from umer1_core.errors import BadInput
from umer1_core.media import describe, read_image, rendered
from umer1_core.media.describing import look
from umer1_core.media.rendering import fit
from umer1_core.pairs import Media

_RAMP = np.linspace(0, 65_535, 40 * 24).astype(np.uint16).reshape(24, 40)


def _clear_left() -> Image.Image:
    """Quarters whose left half is transparent, with black under it."""
    pixels = np.array(quarters().convert("RGBA"))
    pixels[:, :20] = (0, 0, 0, 0)
    return Image.fromarray(pixels)


def _with_clear_red() -> bytes:
    image = quarters().quantize(4)
    red = image.getpixel((1, 1))
    return encoded(image, "PNG", transparency=red)


def _animation(form: str, **options: object) -> bytes:
    others = [quarters().rotate(90 * turn) for turn in (1, 2)]
    return encoded(quarters(), form, save_all=True, append_images=others, **options)


def _phone_jpeg() -> bytes:
    """A picture with a second one behind it (MPO), as phones store depth maps."""
    return encoded(quarters(), "MPO", save_all=True, append_images=[quarters().convert("L").convert("RGB")])


_CASES = {
    "jpeg": (jpeg(), (), (40, 24)),
    "grey jpeg": (encoded(quarters().convert("L"), "JPEG"), (), (40, 24)),
    "png": (encoded(quarters(), "PNG"), (), (40, 24)),
    "webp": (encoded(quarters(), "WEBP"), (), (40, 24)),
    "jpeg of a phone": (_phone_jpeg(), (), (40, 24)),
    "jpeg with bytes after its end": (jpeg() + b"\0\0tail", (), (40, 24)),
    "one pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), (), (1, 1)),
    "upside down": (turned_jpeg(3), ("orientation:3",), (40, 24)),
    "on its side": (turned_jpeg(6), ("orientation:6",), (24, 40)),
    "orientation out of range": (turned_jpeg(9), (), (40, 24)),
    "cmyk": (encoded(quarters().convert("CMYK"), "JPEG"), ("mode:CMYK",), (40, 24)),
    "palette": (encoded(quarters().quantize(4), "PNG"), ("mode:P",), (40, 24)),
    "palette with a clear colour": (_with_clear_red(), ("mode:P", "alpha:key"), (40, 24)),
    "rgb with a clear colour": (encoded(quarters(), "PNG", transparency=(220, 30, 30)), ("alpha:key",), (40, 24)),
    "one bit": (encoded(quarters().convert("1"), "PNG"), ("mode:1",), (40, 24)),
    "16 bit": (encoded(Image.fromarray(_RAMP), "PNG"), ("mode:I;16",), (40, 24)),
    "float": (encoded(Image.fromarray(_RAMP.astype(np.float32) / 65_535), "TIFF"), ("mode:F", "format:TIFF"), (40, 24)),
    "alpha": (encoded(_clear_left(), "PNG"), ("mode:RGBA",), (40, 24)),
    "alpha webp": (encoded(_clear_left(), "WEBP", lossless=True), ("mode:RGBA",), (40, 24)),
    "grey with alpha": (encoded(_clear_left().convert("LA"), "PNG"), ("mode:LA",), (40, 24)),
    "gif": (encoded(quarters().quantize(4), "GIF"), ("mode:P", "format:GIF"), (40, 24)),
    "animated gif": (_animation("GIF"), ("mode:P", "animation:3", "format:GIF"), (40, 24)),
    "animated webp": (_animation("WEBP"), ("animation:3",), (40, 24)),
    "animated png": (_animation("PNG"), ("animation:3",), (40, 24)),
    "pages": (_animation("TIFF"), ("animation:3", "format:TIFF"), (40, 24)),
    "bmp": (encoded(quarters(), "BMP"), ("format:BMP",), (40, 24)),
    "jpeg 2000": (encoded(quarters(), "JPEG2000"), ("format:JPEG2000",), (40, 24)),
}


@pytest.mark.parametrize("verify", ["header", "decode"])
@pytest.mark.parametrize("name", _CASES)
def test_what_will_be_done_to_a_picture_is_noted(tmp_path, name, verify):
    data, notes, size = _CASES[name]
    (tmp_path / "x").write_bytes(data)
    described = describe(Media("image", str(tmp_path / "x")), MediaRules(verify=verify))
    assert (described.notes, (described.width, described.height), described.size) == (notes, size, len(data))
    assert read_image(described) == data  # never changed
    assert rendered(data, notes).size == size


# Palette, alpha and chroma are exact or nearly so; a JPEG of 40 x 24 pixels is not at the edges of its quarters.
_SHOWN_AS_QUARTERS = [
    "jpeg", "png", "webp", "palette", "cmyk", "animated gif", "animated webp", "animated png", "pages", "bmp"
]  # fmt: skip


@pytest.mark.parametrize("name", _SHOWN_AS_QUARTERS)
def test_a_picture_keeps_its_colours_and_an_animation_shows_its_first(name):
    shown = np.array(rendered(_CASES[name][0])).astype(int)
    wanted = np.array(quarters()).astype(int)
    assert np.abs(shown - wanted)[4:8, 4:16].max() <= 30 and np.abs(shown - wanted)[16:20, 24:36].max() <= 30


@pytest.mark.parametrize("name", ["alpha", "alpha webp", "grey with alpha"])
def test_alpha_is_shown_on_white_and_not_as_the_black_under_it(name):
    shown = np.array(rendered(_CASES[name][0]))
    assert (shown[:, :20] == 255).all() and not (shown[:, 20:] == 255).all()


@pytest.mark.parametrize("name", ["palette with a clear colour", "rgb with a clear colour"])
def test_a_clear_colour_is_shown_white(name):
    shown = np.array(rendered(_CASES[name][0]))
    assert (shown[2:10, 2:18] == 255).all() and not (shown[2:10, 22:38] == 255).all()


def test_16_bits_are_scaled_and_not_cut_at_255():
    shown = np.array(rendered(_CASES["16 bit"][0]))[..., 0]
    assert np.abs(shown.astype(int) - _RAMP // 257).max() <= 1
    assert (np.array(Image.open(io.BytesIO(_CASES["16 bit"][0])).convert("RGB")) == 255).mean() > 0.9  # the trap


def test_floats_between_0_and_1_are_scaled():
    assert np.abs(np.array(rendered(_CASES["float"][0]))[..., 0].astype(int) - _RAMP // 257).max() <= 1


def test_a_cmyk_jpeg_is_no_negative():
    """Adobe stores CMYK inverted; white must stay white."""
    white = encoded(Image.new("RGB", (16, 16), (255, 255, 255)).convert("CMYK"), "JPEG")
    assert np.array(rendered(white)).min() > 240


@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 60))
def test_a_turned_picture_is_shown_as_pillow_turns_it(orientation, width, height):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(quarters(width, height), "PNG", exif=exif)
    assert rendered(data).tobytes() == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).tobytes()


def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert describe(Media("image", str(tmp_path / "x.jpg"))).notes == ()


def test_the_processors_of_both_models_leave_a_resized_picture_as_it_is():
    glm = pytest.importorskip("transformers.models.glm4v.image_processing_glm4v").smart_resize
    qwen = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize

    @given(st.integers(100, 5_000), st.integers(100, 5_000), st.integers(112 * 112, 2_359_296))
    def check(width, height, limit):
        assume(width * height > limit)
        shown = fit(width, height, limit)
        assert shown[0] * shown[1] <= limit or 28 in shown
        assume(shown[0] * shown[1] >= 112 * 112)  # smaller ones are enlarged by GLM's
        assert qwen(shown[1], shown[0], 28, 784, 2_359_296) == shown[::-1]
        assert glm(2, shown[1], shown[0], max_pixels=28 * 28 * 15_000) == shown[::-1]

    check()


def test_a_picture_over_the_limit_is_shown_at_one_noted_size(tmp_path):
    (tmp_path / "x.jpg").write_bytes(turned_jpeg(6))
    described = describe(Media("image", str(tmp_path / "x.jpg")), MediaRules(max_pixels=800))
    assert described.notes == ("orientation:6", "resize:28x28") and (described.width, described.height) == (24, 40)
    assert rendered(read_image(described), described.notes).size == (28, 28)


def test_a_picture_at_the_limit_is_not_resized(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg())
    assert describe(Media("image", str(tmp_path / "x.jpg")), MediaRules(max_pixels=40 * 24)).notes == ()


def _cut_inside(data: bytes) -> bytes:
    """A hole in the pixels; begin and end are whole."""
    return data[: len(data) // 2] + data[-len(data) // 4 :]


_NOISE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG")
_REFUSED = {
    "empty": (b"", "image_damaged", "is empty"),
    "text": (b"this is no picture", "image_damaged", "no known picture format"),
    "web page": (b"\n<!DOCTYPE html><html>404", "image_damaged", "web page"),
    "message of a server": (b'{"error": "not found"}', "image_damaged", "server's message"),
    "cut jpeg": (jpeg(200, 200)[:-300], "image_damaged", "does not decode"),
    "cut png": (_NOISE[:-2_000], "image_damaged", "does not decode"),
    "cut webp": (encoded(quarters(), "WEBP")[:-20], "image_damaged", "does not decode"),
    "cut gif": (_animation("GIF")[:60], "image_damaged", "does not decode"),
    "header of a jpeg": (jpeg()[:20], "image_damaged", "does not decode"),
    "bomb": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "image_damaged", "too many pixels"),
    "large bomb": (encoded(Image.new("1", (9_500, 9_500)), "PNG"), "image_damaged", "a bomb"),
    "strip": (encoded(Image.new("L", (201, 1)), "PNG"), "aspect_ratio", "201 x 1"),
    "pdf": (b"%PDF-1.7\n", "unsupported_format", "a PDF document"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format", "SVG"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format", "HEIC"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format", "PostScript"),
}  # fmt: skip


@pytest.mark.parametrize("name", _REFUSED)
def test_an_unusable_picture_is_refused_with_its_reason_and_place(tmp_path, name):
    data, reason, text = _REFUSED[name]
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(BadInput, match=r"x\.jpg") as raised:
        describe(Media("image", str(tmp_path / "x.jpg")))
    assert raised.value.reason == reason and text in raised.value.detail


def test_decoding_finds_what_the_header_and_the_end_do_not_show(tmp_path):
    (tmp_path / "x.png").write_bytes(_cut_inside(_NOISE))
    media = Media("image", str(tmp_path / "x.png"))
    assert describe(media, MediaRules(verify="header")).width == 64
    with pytest.raises(BadInput) as raised:
        describe(media, MediaRules(verify="decode"))
    assert raised.value.reason == "image_damaged"


@given(st.sampled_from(sorted(_CASES)), st.data())
def test_whatever_bytes_are_damaged_it_is_a_picture_or_a_refusal(name, draw):
    data = bytearray(_CASES[name][0])
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=8)):
        data[place] = draw.draw(st.integers(0, 255))
    data = bytes(data[: draw.draw(st.integers(0, len(data)))]) if draw.draw(st.booleans()) else bytes(data)
    try:
        _, _, notes = look(data, "x", MediaRules(max_pixels=4_000_000))
        assert rendered(data, notes).mode == "RGB"
    except BadInput as refused:
        assert refused.reason in ("image_damaged", "aspect_ratio", "unsupported_format")
