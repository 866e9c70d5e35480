"""Sends a running `grail serve` twice what it can hold, or measures it. README.md says how."""

import argparse
import collections
import http.client
import json
import os
import threading
import time
import urllib.parse


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--capacity", type=int, help="--max-running plus --queue")
    parser.add_argument("--measure", type=int, help="measure so many requests at a time instead")
    parser.add_argument("--pid", type=int, help="the server's, to watch its memory (Linux)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    return parser.parse_args()


class Load:
    def __init__(self, args):
        self.args = args
        self.netloc = urllib.parse.urlsplit(args.base).netloc
        self.key = os.environ.get("OPENAI_API_KEY", "none-is-needed")

    def ask(self, method, path, body=None):
        """Returns the status, the headers and the whole body."""
        connection = http.client.HTTPConnection(self.netloc, timeout=300)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        told = answer.status, answer.headers, answer.read().decode()
        connection.close()
        return told

    def one(self, idx, told):
        """One client: most read their answer, some of those that stream go away after a bit."""
        body = {"prompt": f"Story {idx}: once", "max_tokens": self.args.max_tokens, "seed": idx,
                "temperature": 1.5, "stream": idx % 2 == 0}
        if idx % 8 != 0:
            status, headers, text = self.ask("POST", "/v1/completions", body)
            told.append(status)
            if status == 429:
                assert int(headers["Retry-After"]) >= 1, headers
                assert json.loads(text)["error"]["type"] == "rate_limit_error", text
            elif status == 200 and body["stream"]:
                assert text.endswith("data: [DONE]\n\n"), text[-200:]
            return
        connection = http.client.HTTPConnection(self.netloc, timeout=300)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        told.append(f"{answer.status}, left early" if answer.status == 200 else answer.status)
        answer.read(64)
        connection.sock.close() if connection.sock else None
        answer.close()

    def gauge(self, name):
        page = self.ask("GET", "/metrics")[2]
        line = next(line for line in page.splitlines() if line.startswith(f"grail_serve_{name} "))
        return float(line.split()[1])

    def memory_mib(self, field):
        if self.args.pid is None:
            return None
        with open(f"/proc/{self.args.pid}/status") as status:
            line = next(line for line in status if line.startswith(field))
        return int(line.split()[1]) / 1024

    def round(self):
        told = []
        started = time.monotonic()
        threads = [threading.Thread(target=self.one, args=(idx, told))
                   for idx in range(2 * self.args.capacity)]
        for thread in threads:
            thread.start()
        assert self.ask("GET", "/health")[0] == 200, "it is well under load"
        for thread in threads:
            thread.join()
        took = time.monotonic() - started
        deadline = time.monotonic() + 60
        while self.gauge("running_sequences") + self.gauge("queue_depth") > 0:
            assert time.monotonic() < deadline, "slots are freed"
            time.sleep(0.05)
        counts = collections.Counter(str(status) for status in told)
        print(f"{2 * self.args.capacity} requests in {took:.1f} s: {dict(counts)}; memory now "
              f"{self.memory_mib('VmRSS')} MiB, at most {self.memory_mib('VmHWM')} MiB")
        assert set(counts) <= {"200", "429", "200, left early"}, counts
        assert counts["429"] > 0, "the queue was never full: raise --max-tokens"


    def measure(self, stream):
        """Prints the tokens a second of so many requests that begin at once."""
        def one(idx):
            body = {"prompt": "Once upon a time, in a land far away, there", "seed": idx,
                    "max_tokens": self.args.max_tokens, "stream": stream}
            status, _, text = self.ask("POST", "/v1/completions", body)
            assert status == 200, text
        before, started = self.gauge("generated_tokens_total"), time.monotonic()
        threads = [threading.Thread(target=one, args=(idx,)) for idx in range(self.args.measure)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - started
        tokens = self.gauge("generated_tokens_total") - before
        print(f"{self.args.measure} {'streams' if stream else 'answers'} at once: {tokens:.0f} tokens "
              f"in {took:.2f} s, {tokens / took:.1f} tokens/s")


def main():
    load = Load(arguments())
    if load.args.measure:
        for _ in range(load.args.rounds):
            load.measure(stream=False)
            load.measure(stream=True)
        return
    for _ in range(load.args.rounds):
        load.round()
    assert load.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 4})[0] == 200
    print("all passed")


main()
