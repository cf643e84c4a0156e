"""Every way in which a call to a server fails has its type, and its remedy where a person must act."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from umer1_core.errors import (
    BadInput,
    BadOutput,
    Busy,
    Fatal,
    ServerFailed,
    ServerLost,
    Transient,
    Umer1Error,
    Unreachable,
)
from umer1_core.http_client import HttpClient, Remedies, parsed

REMEDIES = Remedies(key="Bring a key.", missing="Mend the route.", gone="Start it.", broken="Read its log.")


async def answered(call, timeout_s=5.0):
    """What `call(client, url)` gives or raises; the server does what the route says."""

    async def route(request):
        what = request.match_info["what"]
        if what == "leaves":
            request.transport.close()
        if what == "sleeps":
            await asyncio.sleep(2)
        status, headers = (int(what), {"Retry-After": "7"}) if what.isdecimal() else (200, {})
        said = f"{request.headers['Authorization']} {request.method} {(await request.read()).decode()}"
        return web.Response(status=status, headers=headers, text=said)

    application = web.Application()
    application.router.add_route("*", "/{what}", route)
    async with TestServer(application) as server, HttpClient(timeout_s, REMEDIES, {"Authorization": "k"}) as client:
        return await call(client, str(server.make_url("/")))


def failure(what, timeout_s=5.0):
    with pytest.raises(Umer1Error) as caught:
        asyncio.run(answered(lambda client, url: client.call("POST", url + what, b"{}"), timeout_s))
    return caught.value


def test_an_answer_is_its_content():
    assert asyncio.run(answered(lambda client, url: client.call("POST", url + "x", b"body"))) == b"k POST body"
    assert asyncio.run(answered(lambda client, url: client.call("GET", url + "x"))) == b"k GET "


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        *((status, Busy, "") for status in (408, 409, 425, 429, 502, 503, 504)),
        (500, ServerFailed, "Read its log."),
        (401, Fatal, "Bring a key."),
        (403, Fatal, "Bring a key."),
        (404, Fatal, "Mend the route."),
        (405, Fatal, "Mend the route."),
        (400, BadInput, ""),
        (413, BadInput, ""),
        (422, BadInput, ""),
    ],
)
def test_a_status_has_its_type_and_remedy(status, kind, remedy):
    error = failure(str(status))
    assert type(error) is kind and error.remedy == remedy and str(status) in error.message
    if isinstance(error, Busy):
        assert error.retry_after_s == 7


def test_a_server_that_goes_away_or_takes_too_long_is_no_fault_of_the_request():
    lost, slow = failure("leaves"), failure("sleeps", timeout_s=0.2)
    assert type(lost) is ServerLost and lost.remedy == "Read its log."
    assert type(slow) is Transient and "within 0.2 s" in slow.message


def test_one_call_may_have_less_time_than_the_others():
    with pytest.raises(Transient, match=r"within 0\.1 s"):
        asyncio.run(answered(lambda client, url: client.call("GET", url + "sleeps", timeout_s=0.1)))


def test_where_nothing_listens_the_address_is_told_without_its_secrets():
    async def call():
        async with HttpClient(5, REMEDIES) as client:
            await client.call("GET", f"http://me:secret@127.0.0.1:{unused_port()}/v1?key=secret")

    with pytest.raises(Unreachable, match=r"Nothing answers at http://127\.0\.0\.1:\d+/v1\. Start it\.") as caught:
        asyncio.run(call())
    assert "secret" not in str(caught.value)


def test_what_is_not_json_is_a_bad_output():
    assert parsed(b'{"a":1}', "http://x") == {"a": 1}
    with pytest.raises(BadOutput, match="http://x is not JSON"):
        parsed(b"<html>", "http://me:secret@x?key=secret")
