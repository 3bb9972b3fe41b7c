"""Endpoints: a real server with a small model, and one that does everything wrong."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny, tiny_vlm
from xpsr_sdk import ConfigError, Item, Prompts, build_pipeline
from xpsr_sdk.builtin import openai_captioner
from xpsr_sdk.builtin.openai_captioner import OpenAICaptioner
from xpsr_sdk.prompts.describe import LONGEST, describe

ITEMS = [Item(tiny.photo(40, 30, seed)) for seed in range(3)]
KEY = "sk-very-secret-indeed"
QUESTION = "Describe and evaluate the quality of the image."
Answer = Callable[["Handler"], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two tries, and the key is known."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.001)
    monkeypatch.setattr(openai_captioner, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def captioner(url: str, **options: Any) -> OpenAICaptioner:
    config = {"model": "any", "base_url": url, "timeout": 20, "max_retries": 2, "max_new_tokens": 8, **options}
    return OpenAICaptioner(OpenAICaptioner.Config(**config))


# A server that is not ours


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address and the model of a ``transformers serve``."""
    pytest.importorskip("fastapi", reason="transformers[serving] is not installed")
    model = tmp_path_factory.mktemp("served") / "llava"
    tiny_vlm.write_llava(model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                time.sleep(0.2)
        assert server.poll() is None, "transformers serve ended"
        yield f"http://127.0.0.1:{port}/v1", str(model)
        server.terminate()


def test_a_real_server_answers_both_questions(served: tuple[str, str]) -> None:
    url, model = served
    provider = captioner(url, model=model, timeout=120)
    said = describe(provider, ITEMS, ["high", "low"])
    assert all(not prompts.errors for prompts in said), said
    assert len({text for prompts in said for text in (prompts.high, prompts.low)}) > 3
    assert said[0].source == {"high": model, "low": model}
    assert describe(provider, ITEMS, ["high", "low"]) == said
    wrong = captioner(url, model="another", timeout=120)
    assert describe(wrong, ITEMS[:1], ["low"])[0].errors["low"].startswith("another: BadRequestError: ")


# A server that does everything wrong


class Handler(BaseHTTPRequestHandler):
    """Answers as the test's function does."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(self)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self.server.answer(self)
        except OSError:
            pass  # the other side hung up
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def send(self, content: str | bytes, status: int = 200, **headers: str) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Handler] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def completion(text: Any, **message: Any) -> str:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "any", "choices": [choice]})


def says(text: Any, **message: Any) -> Answer:
    return lambda handler: handler.send(completion(text, **message))


def drop(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def half(handler: Handler) -> None:
    handler.send(completion("a house")[:-40])


def broken_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True


def silence(handler: Handler) -> None:
    time.sleep(3)


def trickle(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def status(number: int, message: str = "no", **headers: str) -> Answer:
    return lambda handler: handler.send(json.dumps({"error": {"message": message}}), number, **headers)


def ends(reason: str, text: str | None) -> Answer:
    return lambda handler: handler.send(completion(text).replace('"stop"', f'"{reason}"'))


def half_chunked(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'a\r\n{"choices"\r\n')
    handler.close_connection = True


BOMB = gzip.compress(bytes(10_000_000))
FAULTS: dict[str, tuple[Answer, int, str]] = {
    "drops": (drop, 3, "APIConnectionError: Connection error"),
    "429": (status(429, "slow down"), 3, "RateLimitError: Error code: 429 - .*slow down"),
    "500": (status(500), 3, "InternalServerError: Error code: 500 - .*no"),
    "503 in HTML": (lambda h: h.send("<html>" + "x" * 10_000, 503, Content_Type="text/html"), 3, "InternalServerError"),
    "401": (status(401, f"wrong key {KEY}"), 1, r"AuthenticationError: Error code: 401 - .*wrong key \*\*\*"),
    "404": (status(404, "no such model"), 1, "NotFoundError: Error code: 404 - .*no such model"),
    "half a JSON": (half, 3, "the endpoint's answer is not JSON"),
    "breaks off": (broken_off, 3, "APIConnectionError"),
    "another JSON": (lambda h: h.send('{"choices": []}'), 3, "the endpoint's answer is not a chat completion"),
    "text": (lambda h: h.send("hello", Content_Type="text/plain"), 3, "the endpoint's answer is not JSON: .*: hello"),
    "a web page": (
        lambda h: h.send("<html>", Content_Type="text/html"),
        3,
        "the endpoint's answer is not JSON: .*<html>",
    ),
    "not UTF-8": (lambda h: h.send(b"\xff" + completion("a").encode()), 3, "the endpoint's answer is not JSON"),
    "deep JSON": (lambda h: h.send("[" * 100_000), 3, "the endpoint's answer is not JSON"),
    "nothing at all": (lambda h: h.send(""), 3, "the endpoint's answer is not JSON"),
    "choices in a dict": (lambda h: h.send('{"choices": {}}'), 3, "the endpoint's answer is not a chat completion"),
    "a text as message": (lambda h: h.send('{"choices": [{"message": "a"}]}'), 3, "answer is not a chat completion"),
    "an error as success": (lambda h: h.send('{"error": "crashed"}'), 3, "not a chat completion: {.error.: .crashed.}"),
    "a number": (says(5), 3, "the endpoint's answer is not a chat completion"),
    "a table": (says({"text": "a house"}), 3, "the endpoint's answer is not a chat completion"),
    "a picture": (says([{"type": "image_url"}]), 1, "any gave an empty answer"),
    "filtered": (ends("content_filter", "a half"), 1, "any: the answer was not finished, since .* 'content_filter'"),
    "too long to begin": (ends("length", None), 1, "any: the answer was not finished, since .* 'length'"),
    "a call of tools": (ends("tool_calls", None), 1, "any: the answer was not finished, since .* 'tool_calls'"),
    "thoughts alone": (says("<think>What is asked of me"), 1, "any gave an empty answer"),
    "the question": (says(QUESTION), 1, "any gave an empty answer"),
    "redirects": (lambda h: h.send("", 307, Location="http://x.org"), 1, "the endpoint redirects to http://x.org"),
    "a bomb": (lambda h: h.send(BOMB, Content_Encoding="gzip"), 1, "the reply is compressed by gzip"),
    "a bomb as error": (lambda h: h.send(BOMB, 500, Content_Encoding="gzip"), 1, "the reply is compressed by gzip"),
    "no end": (lambda h: h.send(b" " * 2**25), 1, "the reply has more than 16 MiB"),
    "403": (status(403), 1, "PermissionDeniedError: Error code: 403 - .*no"),
    "413": (status(413, "too large"), 1, "APIStatusError: Error code: 413 - .*too large"),
    "chunks that end early": (half_chunked, 3, "APIConnectionError"),
    "a key where it is cut": (status(401, "x" * 250 + KEY), 1, r"x\*\*\*"),
    "a key in a web page": (lambda h: h.send("x" * 218 + KEY), 3, r"x\*\*\*"),
    "nothing": (says(None), 1, "any gave an empty answer"),
    "blanks": (says(" \n"), 1, "any gave an empty answer"),
    "refusal": (says(None, refusal="I'd rather not."), 1, "the model refused: I'd rather not"),
    "polite refusal": (says("I'm sorry, but I can't help with that."), 1, "The provider refused"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_an_error_after_so_many_tries(server: Server, fault: str) -> None:
    server.answer, tries, reason = FAULTS[fault]
    (said,) = describe(captioner(server.url), ITEMS[:1], ["low"])
    assert said.low is None
    assert re.search(reason, said.errors["low"]), said.errors
    assert len(server.seen) == tries
    assert KEY[:6] not in repr(said)
    assert len(said.errors["low"]) < 1000


def test_an_hour_is_not_waited_for(server: Server) -> None:
    server.answer = status(429, "later", Retry_After="3600")
    (said,) = describe(captioner(server.url), ITEMS[:1], ["low"])
    assert re.search("RateLimitError: Error code: 429 - .*later", said.errors["low"])
    assert len(server.seen) in (1, 3)  # older versions of openai ask again at once


@pytest.mark.parametrize("fault", [silence, trickle])
def test_nobody_is_waited_for_without_end(server: Server, fault: Answer) -> None:
    server.answer = fault
    (said,) = describe(captioner(server.url, timeout=0.3, max_retries=1), ITEMS[:1], ["low"])
    assert "APITimeoutError" in said.errors["low"] or "no answer came in time" in said.errors["low"]


def test_nobody_is_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    (said,) = describe(captioner(url), ITEMS[:1], ["low"])
    assert said.errors["low"].startswith("any: APIConnectionError: Connection error. (ConnectError: ")


@pytest.mark.parametrize("fault", [drop, status(429, Retry_After="0.01"), status(500), half])
def test_a_fault_that_passes_costs_nothing(server: Server, fault: Answer) -> None:
    server.answer = lambda handler: (fault if len(server.seen) == 1 else says("a house"))(handler)
    (said,) = describe(captioner(server.url), ITEMS[:1], ["high"])
    assert said == Prompts(high="a house", source={"high": "any"})
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ([{"type": "text", "text": "a house"}, {"type": "image_url"}, {"type": "text", "text": "by a river"}],
         "a house by a river"),
        ("<think>\nWhat is it?\n</think>\n\nA house.", "A house."),
        ("What is it?\n</think>\nA house.", "A house."),
        ("<think>What?</think>A house.<think>Done?</think>", "A house."),
        ("A wall on which <think> is written.", "A wall on which <think> is written."),
        (f"{QUESTION}\nA house.", "A house."),
        ("\x1b[31mA\x1b[0m \x1b]0;window\x07house.\x1b", "A house."),
        ("A\0 house\ud800.\u202e", "A house ."),
        (f"A house, {KEY}.", "A house, ***."),
    ],
)  # fmt: skip
def test_what_is_read_of_an_answer(server: Server, text: Any, read: str) -> None:
    server.answer = says(text)
    (said,) = describe(captioner(server.url), ITEMS[:1], ["low"])
    assert said == Prompts(low=read, source={"low": "any"})


def test_an_enormous_answer_is_cut(server: Server) -> None:
    server.answer = says("word " * 1_000_000)
    with pytest.warns(UserWarning, match="A description of 5000000 characters was cut"):
        (said,) = describe(captioner(server.url), ITEMS[:1], ["high"])
    assert len(said.high or "") <= LONGEST


def test_what_is_sent(server: Server) -> None:
    server.answer = says("a house")
    provider = captioner(server.url, low_model="other", max_side=20, request={"temperature": 0.5, "seed": 3})
    describe(provider, ITEMS[:1], ["high", "low"])
    by_model = {handler.body["model"]: handler for handler in server.seen}
    for model, question in (("any", "Please provide"), ("other", "Describe and evaluate")):
        body = by_model[model].body
        assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 3, 8)
        picture, text = body["messages"][0]["content"]
        assert text["text"].startswith(question)
        assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
        assert by_model[model].headers["Authorization"] == f"Bearer {KEY}"
    describe(captioner(server.url, request={"max_completion_tokens": 9}), ITEMS[:1], ["high"])
    assert "max_tokens" not in server.seen[-1].body


def test_no_more_at_once_than_allowed_and_each_answer_to_its_photo(server: Server) -> None:
    def answer(handler: Handler) -> None:
        time.sleep(0.02)
        picture, text = handler.body["messages"][0]["content"]
        handler.send(completion(f"{text['text']} {hash(picture['image_url']['url'])}"))

    server.answer = answer
    together = describe(captioner(server.url, concurrency=2), ITEMS, ["high", "low"])
    assert server.most_at_once == 2
    alone = [describe(captioner(server.url, concurrency=1), [item], ["high", "low"])[0] for item in ITEMS]
    assert together == alone
    assert len({prompts.high for prompts in together}) == 3


def test_the_key_is_another_variable_or_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = says("a house")
    monkeypatch.setenv("OTHER_KEY", "other")
    with pytest.raises(ConfigError, match="set XPSR_API_KEY_VARIABLES=OTHER_KEY in the environment"):
        captioner(server.url, api_key_variable="OTHER_KEY")
    monkeypatch.setenv("XPSR_API_KEY_VARIABLES", "ANY_KEY, OTHER_KEY")
    describe(captioner(server.url, api_key_variable="OTHER_KEY"), ITEMS[:1], ["high"])
    monkeypatch.delenv("OPENAI_API_KEY")
    describe(captioner(server.url), ITEMS[:1], ["high"])
    assert [handler.headers["Authorization"] for handler in server.seen] == ["Bearer other", "Bearer none"]


def test_a_key_from_a_file_may_end_in_a_new_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = says("a house")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    describe(captioner(server.url), ITEMS[:1], ["high"])
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["sk-ké", "sk-a\nb"])
def test_a_key_that_cannot_be_sent_is_told_at_once(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(
        ConfigError, match=r"The key in OPENAI_API_KEY holds characters that are not allowed in keys\.$"
    ):
        captioner("http://localhost/v1")


def test_without_a_key_nothing_is_hidden(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = status(404, "none of the models has that name")
    monkeypatch.delenv("OPENAI_API_KEY")
    (said,) = describe(captioner(server.url), ITEMS[:1], ["high"])
    assert "none of the models has that name" in said.errors["high"]


@pytest.mark.parametrize("key", ["none", "ollama", "EMPTY"])
def test_a_word_that_stands_for_a_key_is_no_secret(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.answer = says(f"A box, and {key} beside it.")
    assert describe(captioner(server.url), ITEMS[:1], ["high"])[0].high == f"A box, and {key} beside it."
    server.answer = status(404, f"no model {key}")
    assert f"no model {key}" in describe(captioner(server.url), ITEMS[:1], ["high"])[0].errors["high"]


def test_a_short_key_is_a_secret_but_in_no_word(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k3y")
    server.answer = status(404, "no k3y here, nor k3ys")
    error = describe(captioner(server.url), ITEMS[:1], ["high"])[0].errors["high"]
    assert error.endswith("no *** here, nor k3ys")


def test_a_config_sends_no_key_to_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY is not sent to https://x\.org/v1 without your permission"):
        captioner("https://x.org/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://x.org/v1")
    captioner("https://x.org/v1")
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("XPSR_API_KEY_VARIABLES", "OPENAI_API_KEY")
    captioner("https://x.org/v1")
    monkeypatch.delenv("XPSR_API_KEY_VARIABLES")
    monkeypatch.delenv("OPENAI_API_KEY")
    captioner("https://x.org/v1")


def test_ctrl_c_drops_the_questions(server: Server) -> None:
    def interrupt(handler: Handler) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        handler.rfile.read(1)  # until the other side hangs up

    server.answer = interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background begin without
    try:
        with pytest.raises(KeyboardInterrupt):
            captioner(server.url, timeout=1000).describe(ITEMS[:1], ["high"])
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_restoration_goes_on_without_words(server: Server, tiny_model: Path) -> None:
    server.answer = status(500)
    provider = {"name": "openai", "model": "any", "base_url": server.url, "max_retries": 0}
    pipe = build_pipeline(model=str(tiny_model), device="cpu", prompt_provider=provider)
    with pytest.warns(UserWarning, match="No high-level and low-level prompt for the image: any: InternalServerError"):
        result = pipe(tiny.photo(20, 16))
    assert (result.prompts.high, result.prompts.low, result.prompts.source) == (None, None, {})
    assert set(result.prompts.errors) == {"high", "low"}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'openai' needs the package openai: pip install 'xpsr-sdk\[openai\]'"):
        captioner("http://localhost/v1")
