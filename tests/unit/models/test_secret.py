import asyncio
import contextlib
import copy
import dataclasses
import logging
import pickle  # noqa: TID251  to see that it is refused
import traceback

import pytest

from tests.loopback.misbehaviour import FINISHES, TRANSPORT, Misbehaviour
from tests.loopback.server import Loopback
from whatchanged.errors import MissingDependencyError, WhatchangedError
from whatchanged.models.gemini import Gemini
from whatchanged.models.limits import Limits
from whatchanged.models.openai_compatible import OpenAICompatible
from whatchanged.models.rubric import Asking, score_request
from whatchanged.models.secret import Secret, secret_from_environment
from whatchanged.records import Question

VALUE = "sk-canary-0123456789"


@pytest.mark.parametrize("show", [str, repr, format, ascii, lambda s: f"{s!r:>40}", lambda s: [s]])
def test_no_way_to_show_a_secret_shows_it(show):
    assert VALUE not in str(show(Secret(VALUE, "A_KEY")))


def test_no_attribute_holds_the_value():
    secret = Secret(VALUE, "A_KEY")
    assert not hasattr(secret, "__dict__")
    assert VALUE not in str([getattr(secret, name) for name in Secret.__slots__])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_cannot_be_pickled(protocol):
    with pytest.raises(TypeError, match=r"Secret\(A_KEY\) cannot be copied or pickled"):
        pickle.dumps(Secret(VALUE, "A_KEY"), protocol)


def test_a_secret_cannot_be_copied_out_of_a_record():
    @dataclasses.dataclass
    class Record:
        key: Secret

    record = Record(Secret(VALUE, "A_KEY"))
    assert VALUE not in repr(record)
    for copying in (dataclasses.asdict, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(record)


def test_a_secret_is_redacted_wherever_it_occurs():
    secret = Secret(VALUE, "A_KEY")
    assert secret.redact(f"Bearer {VALUE}, {VALUE}.") == "Bearer ***, ***."


def test_a_key_comes_from_the_environment_without_the_space_around_it(monkeypatch):
    monkeypatch.setenv("A_KEY", f" {VALUE}\n")
    assert secret_from_environment("A_KEY").reveal() == VALUE


@pytest.mark.parametrize("value", [None, "", " \n", "schlüssel", "two words", "a\x07b"])
def test_an_unusable_key_is_refused_without_showing_it(monkeypatch, value):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(MissingDependencyError, match="A_KEY") as caught:
        secret_from_environment("A_KEY")
    if value and value.strip():
        assert value not in str(caught.value)


# The canary: every error path of both providers.


def everything_shown(error: BaseException) -> str:
    """An exception as loggers, debuggers and Prefect could show it, with causes, contexts, and the
    local variables of every frame."""
    shown = []
    for with_locals in (False, True):
        told = traceback.TracebackException.from_exception(error, capture_locals=with_locals)
        shown.append("".join(told.format(chain=True)))
    seen, current = set(), error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        shown += [repr(current), str(current.args), str(vars(current))]
        current = current.__cause__ or current.__context__
    return "\n".join(shown)


def run_error_path(kind, make):
    """What can be seen of a failed call's exception and of its provider, and the exception's type
    (None where the call gave a reply)."""

    async def once(provider):
        request = score_request(Question("c", "p", "t"), Asking(provider.identity, "small"))
        try:
            await provider.send(request)
        finally:
            await provider.close()

    misbehaviour = Misbehaviour(chances={kind: 1.0})
    with Loopback(misbehaviour=misbehaviour, drip_s=0.1) as server:
        provider = make(server.url)
        try:
            asyncio.run(once(provider))
        except WhatchangedError as error:
            return everything_shown(error), repr(provider), type(error)
        return "", repr(provider), None


@pytest.mark.parametrize("api", ["gemini", "openai"])
def test_the_key_appears_nowhere_after_every_error_path(api, caplog):
    quick = Limits(connect_s=1.0, read_s=0.3, total_s=0.6)

    def make(url):
        secret = Secret(VALUE, "A_KEY")
        if api == "gemini":
            return Gemini(secret, endpoint=url, limits=quick)
        return OpenAICompatible(secret, endpoint=f"{url}/v1", limits=quick)

    # The google libraries log only where their own logger was configured.
    names = ("", "google", "openai", "httpx2", "httpcore2", "urllib3", "requests")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(caplog.at_level(logging.DEBUG, logger=name or None))
        failed = set()
        for kind in (*TRANSPORT, *FINISHES):
            told, provider, error = run_error_path(kind, make)
            assert VALUE not in told, kind
            assert VALUE not in provider, kind
            failed |= {kind} if error else set()
    assert len(failed) >= 18
    assert len(caplog.records) > 20
    for record in caplog.records:
        assert VALUE not in record.getMessage()
        assert VALUE not in repr(vars(record))
        if record.exc_info and record.exc_info[1]:
            assert VALUE not in "".join(traceback.format_exception(record.exc_info[1]))
