"""Drives a running `grail serve` with OpenAI's own Python client. README.md says how."""

import json
import os
import struct
import sys
import urllib.request

import openai
from openai import OpenAI

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
KEY = os.environ.get("OPENAI_API_KEY", "none-is-needed")
client = OpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=300)
MESSAGES = [{"role": "user", "content": "What is 12 + 7?"}]
PROMPT = "Once upon a time"


def check(condition, told):
    if not condition:
        sys.exit(f"failed: {told}")
    print(f"ok: {told}")


def f32(number):
    return struct.pack("<f", number)


def models():
    listed = client.models.list().data
    check(len(listed) == 1, f"one model is listed: {listed[0].id}")
    check(client.models.retrieve(listed[0].id).id == listed[0].id, "it is found by its name")
    return listed[0].id


def completions(model):
    ask = dict(model=model, prompt=PROMPT, max_tokens=24, seed=7)
    one, two = client.completions.create(**ask), client.completions.create(**ask)
    check(one.choices[0].text == two.choices[0].text, f"a seed repeats its text: {one.choices[0].text!r}")
    check(one.system_fingerprint.startswith("exact-1-"), f"fingerprint {one.system_fingerprint}")
    check(one.usage.completion_tokens <= 24, f"usage {one.usage.completion_tokens} tokens")
    streamed = client.completions.create(**ask, stream=True)
    text = "".join(chunk.choices[0].text for chunk in streamed)
    check(text == one.choices[0].text, "a stream says the same")
    greedy = dict(model=model, prompt=PROMPT, max_tokens=16, temperature=0)
    texts = {client.completions.create(**greedy).choices[0].text for _ in range(3)}
    check(len(texts) == 1, "temperature 0 needs no seed")
    many = client.completions.create(model=model, prompt=[PROMPT, "The end"], n=2, max_tokens=8, seed=1)
    check([choice.index for choice in many.choices] == [0, 1, 2, 3], "two prompts, two choices each")
    echo = client.completions.create(model=model, prompt=PROMPT, max_tokens=4, echo=True)
    check(echo.choices[0].text.startswith(PROMPT), "a prompt is echoed")
    return one.choices[0].text


def stops(model, text):
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    if not stop or "\ufffd" in stop:
        return
    ask = dict(model=model, prompt=PROMPT, max_tokens=24, seed=7, stop=[stop])
    cut = client.completions.create(**ask)
    check(cut.choices[0].text == text.split(stop)[0], f"{stop!r} ends the text")
    check(cut.choices[0].finish_reason == "stop", "and is the reason")
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True))
    check(streamed == cut.choices[0].text, "in a stream too")


def chat(model):
    ask = dict(model=model, messages=MESSAGES, max_completion_tokens=24, seed=3)
    whole = client.chat.completions.create(**ask)
    message = whole.choices[0].message
    check(message.role == "assistant", f"a chat is answered: {message.content!r}")
    stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    check(chunks[0].choices[0].delta.role == "assistant", "the role comes first")
    content = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check(content == message.content, "a stream says the same")
    check(chunks[-1].choices == [] and chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}), "and ends with the usage")
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    check(ends == [whole.choices[0].finish_reason], f"finish_reason {ends[0]}")
    several = client.chat.completions.create(**ask, n=4)
    check(len(several.choices) == 4 and several.choices[0].message.content == message.content,
          "of several choices the first is the same")
    with client.chat.completions.stream(model=model, messages=MESSAGES, max_tokens=8, seed=3) as events:
        deltas = [event.delta for event in events if event.type == "content.delta"]
        snapshot = events.current_completion_snapshot
    check("".join(deltas) == snapshot.choices[0].message.content, "the client's own stream reader is content")


def logprobs(model):
    ask = dict(model=model, messages=MESSAGES, max_tokens=12, seed=5, logprobs=True, top_logprobs=4)
    told = client.chat.completions.create(**ask)
    content = told.choices[0].logprobs.content
    check(all(token.logprob <= 0 and len(token.top_logprobs) == 4 for token in content),
          f"{len(content)} tokens with four alternatives each")
    data = b"".join(bytes(token.bytes) for token in content)
    check(data.decode("utf-8", "replace") == told.choices[0].message.content, "their bytes are the text")
    chunks = list(client.chat.completions.create(**ask, stream=True))
    streamed = [t for c in chunks for x in c.choices if x.logprobs for t in x.logprobs.content]
    check([f32(t.logprob) for t in streamed] == [f32(t.logprob) for t in content], "a stream tells the same bits")
    older = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, seed=7, logprobs=3).choices[0]
    check(len(older.logprobs.tokens) == len(older.logprobs.token_logprobs) == len(older.logprobs.text_offset),
          "the older shape is there")
    return older.logprobs.token_logprobs


def native(model, want):
    body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 8, "seed": 7}, "return_logprob": True}
    url = BASE.removesuffix("/v1") + "/generate"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        told = json.load(answer)
    found = [f32(logprob) for logprob, _, _ in told["meta_info"]["output_token_logprobs"]]
    check(found[: len(want)] == [f32(logprob) for logprob in want], "/generate tells the same bits")
    check(len(found) == len(told["output_ids"]), f"for {len(found)} token ids")


def refused(kind, code, told, **ask):
    try:
        client.chat.completions.create(**{"messages": MESSAGES, "max_tokens": 4, **ask})
    except kind as error:
        check(error.code == code, f"{told}: {error.body['message'] if error.body else error}")
        return
    check(False, told)


def errors(model):
    refused(openai.NotFoundError, "model_not_found", "another model", model="gpt-9")
    refused(openai.BadRequestError, "unsupported_parameter", "tools",
            model=model, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    refused(openai.BadRequestError, "context_length_exceeded", "a long prompt",
            model=model, messages=[{"role": "user", "content": "word and word " * 20000}])
    refused(openai.BadRequestError, None, "a temperature", model=model, temperature=-1)
    refused(openai.BadRequestError, "unsupported_parameter", "a field of nobody", model=model, extra_body={"colour": 1})
    stream = client.completions.create(model=model, prompt=PROMPT, max_tokens=64, stream=True)
    next(iter(stream))
    stream.close()
    check(client.models.list().data[0].id == model, "a stream that is closed early harms nobody")


def main():
    model = models()
    text = completions(model)
    stops(model, text)
    chat(model)
    native(model, logprobs(model))
    errors(model)
    print("all passed")


main()
